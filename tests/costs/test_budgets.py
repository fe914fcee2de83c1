"""Steps that cost what a budget allows, by hand and beside a search over all numbers of steps."""

import pytest

from sg_jax.costs import budgets
from sg_jax.errors import UserError
from sg_jax.method.guidance import Guidance
from sg_jax.method.sampler import Sampler

EULER = Sampler()
EARLY = dict(scale=1.5, weak_step=3)  # two networks share nothing: a guided step costs two
SETTINGS = [
    Guidance(),
    Guidance(1.5, weak_label="null"),
    Guidance(1.5, weak_label="null", interval=(0.3, 0.8)),
    Guidance(3.0, 0.5, 0.9),
    Guidance(3.0, 0.0, 0.9, interval=(0.5, 1.0)),
    Guidance(1.5, ("cosine", 0.0, 0.6), ("cosine", 0.6, 0.0), weak_step=3),
]


@pytest.mark.parametrize(
    "guidance, budget, steps, cost",
    [
        (Guidance(), 1.0, 20, 20),
        (Guidance(), 1.35, 27, 27),
        (Guidance(), 2.0, 40, 40),
        (Guidance(**EARLY), 1.0, 10, 20),
        (Guidance(**EARLY), 1.35, 13, 26),  # 28 is as near to 27, and takes more steps
        (Guidance(**EARLY), 2.0, 20, 40),
        # 13 steps begin at k / 13, of which 7 to 12 are guided; 14 steps would cost 14 + 7.
        (Guidance(**EARLY, interval=(0.5, 1.0)), 1.0, 13, 19),
        (Guidance(**EARLY, interval=(0.5, 1.0)), 1.35, 18, 27),
        (Guidance(**EARLY), 0.05, 2, 4),  # never fewer than 2 steps
    ],
)
def test_steps_by_hand(tiny, guidance, budget, steps, cost):
    """20 steps without guidance are the unit; costs are in steps without guidance."""
    one = budgets.image(tiny, Guidance(), EULER, 1)
    found = budgets.steps_for(budget * 20 * one, tiny, guidance, EULER)
    assert found == (steps, pytest.approx(cost * one))


@pytest.mark.parametrize("guidance", SETTINGS, ids=Guidance.describe)
@pytest.mark.parametrize("sampler", [EULER, pytest.param(Sampler("heun"), marks=pytest.mark.slow)])
def test_no_other_number_of_steps_is_nearer(tiny, guidance, sampler):
    whole = budgets.image(tiny, Guidance(), sampler, 8)
    costs = {n: budgets.image(tiny, guidance, sampler, n) for n in range(2, 26)}
    for budget in (0.1, 0.7, 1.0, 1.35):
        steps, cost = budgets.steps_for(budget * whole, tiny, guidance, sampler)
        nearest = min(abs(c - budget * whole) for c in costs.values())
        assert cost == costs[steps] and abs(cost - budget * whole) == pytest.approx(nearest)


def test_so_few_steps_that_none_would_be_guided_are_not_taken(tiny):
    """Of 4 steps none begins there, and of 5 the second: they cost 6, two networks at one."""
    guidance = Guidance(**EARLY, interval=(0.1, 0.2))
    one = budgets.image(tiny, Guidance(), EULER, 1)
    with pytest.raises(UserError, match="contains none of the times"):
        budgets.image(tiny, guidance, EULER, 4)
    for target in (2, 4, 5):
        steps, cost = budgets.steps_for(target * one, tiny, guidance, EULER)
        assert steps == 5 and cost == pytest.approx(6 * one)


def test_an_interval_that_only_many_steps_meet_has_them(tiny):
    """Of 40 steps none begins after 0.985, and of 80 the last one does."""
    late = Guidance(**EARLY, interval=(0.985, 1.0))
    one = budgets.image(tiny, Guidance(), EULER, 1)
    with pytest.raises(UserError, match="contains none of the times"):
        budgets.image(tiny, late, EULER, 40)
    assert budgets.steps_for(80 * one, tiny, late, EULER) == (79, pytest.approx(80 * one))


def test_what_no_number_of_steps_allows_says_why(tiny):
    never = Guidance(1.5, weak_label="null", interval=(0.501, 0.502))
    whole = budgets.image(tiny, Guidance(), EULER, 20)
    with pytest.raises(UserError, match="contains none of the times"):
        budgets.steps_for(0.2 * whole, tiny, never, EULER)
