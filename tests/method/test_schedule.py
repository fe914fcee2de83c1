"""Values that change over a run, by hand."""

import math

import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.method import schedule
from sg_jax.method.guidance import Guidance


@pytest.mark.parametrize(
    "given, expected",
    [
        (0.3, [0.3] * 5),
        (2, [2.0] * 5),
        (("linear", 1.0, 3.0), [1, 1.5, 2, 2.5, 3]),
        (("linear", 0.6, 0.0), [0.6, 0.45, 0.3, 0.15, 0]),
        # (1 + cos 45 degrees) / 2 = (1 + sqrt(1/2)) / 2 = 0.85355
        (("cosine", 1.0, 0.0), [1, 0.85355339, 0.5, 0.14644661, 0]),
        (("cosine", 0.0, 0.6), [0, 0.6 * 0.14644661, 0.3, 0.6 * 0.85355339, 0.6]),
        (("piecewise", (0.0, 1.0), (0.5, 3.0), (1.0, 2.0)), [1, 2, 3, 2.5, 2]),
        (("piecewise", (0.25, 1.0), (0.75, 3.0)), [1, 1, 2, 3, 3]),  # level outside
        (("piecewise", (0.5, 4.0)), [4.0] * 5),
    ],
)
def test_five_values_by_hand(given, expected):
    values = schedule.values(given, 5)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, expected, atol=1e-8)


@pytest.mark.parametrize("steps", [2, 3, 40, 250])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_first_and_the_last_step_hit_the_ends(kind, steps):
    values = schedule.values((kind, 0.6, 0.1), steps)
    assert values.shape == (steps,)
    assert values[0] == pytest.approx(0.6, abs=1e-12)
    assert values[-1] == pytest.approx(0.1, abs=1e-12)
    assert (np.diff(values) < 0).all()


def test_a_run_of_one_step_has_the_first_value():
    for given in (("linear", 0.6, 0.1), ("cosine", 0.6, 0.1), ("piecewise", (0, 0.6), (1, 0.1))):
        assert schedule.values(given, 1) == [pytest.approx(0.6)]


def test_a_cosine_and_its_inverse_add_up():
    """SG_FID: gamma_weak 0.6 to 0, gamma_strong the inverse."""
    total = schedule.values(("cosine", 0.6, 0.0), 40) + schedule.values(("cosine", 0.0, 0.6), 40)
    np.testing.assert_allclose(total, 0.6)


@pytest.mark.parametrize(
    "wrong",
    [
        "cosine",
        None,
        True,
        [0.6, 0.0],
        (),
        ("cosin", 0.6, 0.0),
        ("cosine",),
        ("cosine", 0.6),
        ("linear", 0.6, 0.3, 0.0),
        ("linear", "0.6", 0.0),
        ("linear", 0.6, True),
        ("cosine", 0.6, 1.2),
        ("cosine", -0.1, 0.5),
        ("linear", math.nan, 0.0),
        ("piecewise",),
        ("piecewise", 0.6, 0.0),
        ("piecewise", (0.0, 0.6, 0.1)),
        ("piecewise", (1.0, 0.6), (0.0, 0.1)),  # progress descends
        ("piecewise", (0.0, 0.6), (1.0, 1.5)),
        -0.1,
        1.1,
        math.nan,
    ],
    ids=repr,
)
def test_a_malformed_schedule_is_named_with_its_value(wrong):
    assert schedule.broken(wrong, 0.0, 1.0).startswith("must ")
    with pytest.raises(UserError) as error:
        Guidance(gamma_weak=wrong)
    value = tuple(wrong) if isinstance(wrong, list) else wrong
    assert f"guidance.gamma_weak={value!r} must " in str(error.value)


def test_the_nearest_kind_is_offered():
    assert "mean 'cosine'" in schedule.broken(("cosin", 0.6, 0.0), 0.0, 1.0)


@pytest.mark.parametrize(
    "right", [0, 1, 0.5, ("cosine", 0.6, 0), ("linear", 0, 1), ("piecewise", (0, 0.1), (1, 0.2))]
)
def test_a_well_formed_schedule_passes(right):
    assert schedule.broken(right, 0.0, 1.0) == ""


def test_a_schedule_in_a_few_characters():
    assert schedule.text(1.5) == "1.5"
    assert schedule.text(("cosine", 0.6, 0.0)) == "0.6→0 cosine"
    assert schedule.text(("piecewise", (0.0, 1.0), (0.5, 3.0), (1.0, 2.0))) == "1→2 piecewise"
