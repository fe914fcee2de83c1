"""What settings ask of networks is said before any work."""

import jax
import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.method import checks, guidance
from sg_jax.method.guidance import Guidance
from sg_jax.method.routing import draw_ids
from sg_jax.method.sampler import Sampler
from sg_jax.programs import sampling

SG = Guidance(2.0, 0.0, 0.75)


@pytest.fixture(scope="module")
def pathless(make_small):
    return make_small(routes=())


@pytest.mark.parametrize(
    "setting, key",
    [
        (SG, "gamma_weak=0.75"),
        (Guidance(1.0, 0.5), "gamma_strong=0.5"),
        (Guidance(2.0, 0.0, ("cosine", 0.0, 0.6)), "gamma_weak=0.6"),
        (Guidance(2.0, 0.0, ("piecewise", (0.0, 0.1), (0.5, 0.3), (1.0, 0.0))), "gamma_weak=0.3"),
    ],
)
def test_rates_need_routes(pathless, setting, key):
    with pytest.raises(UserError, match=f"guidance.{key} needs a network with routes"):
        sampling.sample(pathless, [0], setting, steps=1)
    sampling.sample(pathless, [0], Guidance(2.0, weak_label="null"), steps=1)
    checks.check_setting(pathless, Guidance(1.0, 0.0, 0.75))  # off: there is no weak prediction


def test_another_label_needs_another_class(make_small):
    with pytest.raises(UserError, match=r"config\.guidance\.icg\.weak_label='random' needs"):
        checks.check_setting(
            make_small(num_classes=1),
            Guidance(2.0, weak_label="random"),
            key="config.guidance.icg",
        )


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(num_classes=3), "condition is 3 classes, not 5 classes"),
        (dict(image_size=4), "image_size is 4, not 8"),
        (dict(patch=4), "tokens is 4, not 16"),
        (dict(routes=((0, 0), (1, 1))), "number of routes is 2, not 1"),
        (dict(routes=()), "needs a network with routes"),
    ],
)
def test_a_weak_network_must_fit(small, make_small, changes, words):
    with pytest.raises(UserError, match=words):
        sampling.sample(small, [4], SG, steps=1, weak_model=make_small(**changes))


@pytest.mark.slow
def test_a_dense_weak_prediction_needs_no_routes(small, make_small):
    for changes in (dict(routes=()), dict(patch=4), dict(routes=((0, 0), (1, 1)))):
        weak = make_small(**changes)
        images = sampling.sample(small, [4], Guidance(2.0, 0.5), steps=1, weak_model=weak)
        assert images.shape == (1, 8, 8, 3)


def test_a_weak_model_is_used_whatever_the_setting_says_of_it(small, make_small):
    other = make_small(seed=9)
    named = Guidance(3.0, weak_step=7)
    given = sampling.sample(small, [0, 1], Guidance(3.0), steps=2, weak_model=other)
    np.testing.assert_array_equal(
        given, sampling.sample(small, [0, 1], named, steps=2, weak_model=other)
    )
    assert (given != sampling.sample(small, [0, 1], Guidance(3.0), steps=2)).any()


def test_constant_rates_keep_what_training_keeps(make_small):
    """A third of 36 tokens is 12; 0.333333 of them would be 11.99."""
    third = Guidance(gamma_strong=1 / 3)
    assert guidance.rates(third, 3) == ([1 / 3] * 3, [0.0] * 3)
    assert checks.rounding(third, 3) == 0.0
    (stretch,) = guidance.plan(third, Sampler(), 3)[0].stretches
    model = make_small(image_size=12)
    (ids,) = draw_ids(model, jax.random.split(jax.random.key(0), 2), stretch.gammas[0])
    assert ids.shape == (2, 24)


@pytest.mark.parametrize(
    "setting, words",
    [
        (Guidance(inner_scale=1.5), "inner_scale=1.5 needs a network with an inner head"),
        (Guidance(skip=2, skip_scale=1.5), "skip=2 must leave out some of the network's 2 blocks"),
        (Guidance(skip=(0, 1), skip_scale=1.5), r"skip=\(0, 1\) must leave out some"),
        (Guidance(skip=(2,), skip_scale=1.5), "block numbers from 0 to 1"),
        (Guidance(skip_scale=1.5), "skip_scale=1.5 needs blocks to skip"),
        (Guidance(2.0, 0.75, 0.25, ids="borrowed"), "here gamma_weak is below gamma_strong"),
        (
            Guidance(2.0, ("linear", 0.0, 0.9), 0.5, ids="borrowed"),
            "here gamma_weak is below gamma_strong",
        ),
        (Guidance(2.0, 0.0, 0.5, "null", ids="borrowed"), "here the weak label is 'null'"),
        (Guidance(2.0, 0.0, 0.5, weak_step=5, ids="borrowed"), "here another network makes"),
        (Guidance(2.0, 0.0, 0.5, time_noise=1.0, ids="borrowed"), "has noise on its time"),
    ],
)
def test_what_a_term_needs_is_said(small, setting, words):
    with pytest.raises(UserError, match=rf"guidance\.\S*{words}|{words}"):
        checks.check_setting(small, setting)


def test_skipping_is_off_at_1_and_reuse_needs_something(small, make_small):
    checks.check_setting(small, Guidance(skip=9))
    checks.check_setting(small, Guidance(refresh=3))
    with pytest.raises(UserError, match="refresh=3 has nothing to reuse"):
        checks.check_setting(make_small(inner=1), Guidance(inner_scale=2.0, refresh=3))


def test_what_is_probably_not_meant_is_said():
    cfg = Guidance(2.0, weak_label="null")
    (reversed_,) = checks.doubts(Guidance(2.0, 0.9, 0.5))
    assert "more tokens (gamma_strong=0.9) than the weak one (gamma_weak=0.5)" in reversed_
    (untrained,) = checks.doubts(cfg, untrained_null=True)
    assert "null label, which was never trained" in untrained
    for meant in (
        cfg,
        Guidance(2.0, 0.5, 0.9),
        Guidance(1.0, 0.9, 0.5),
        Guidance(2.0, weak_step=5),
    ):
        assert not checks.doubts(meant)
    assert not checks.doubts(Guidance(2.0, ("cosine", 0.0, 0.6), 0.1))
    assert not checks.doubts(Guidance(2.0, 0.0, 0.9), untrained_null=True)


def test_no_step_would_move(small):
    with pytest.raises(UserError, match=r"zero_steps=2 leaves none of 2 steps"):
        cfg = Guidance(2.0, weak_label="null", zero_steps=2)
        sampling.sample(small, [0], cfg, steps=2)


@pytest.mark.parametrize(
    "changes",
    [
        dict(skip=(1, 0)), dict(skip=-1), dict(skip=(0, 0)), dict(skip=0.5), dict(momentum=1.0),
        dict(momentum=-1.0), dict(refresh=0), dict(norm=-1.0), dict(time_noise=-1.0),
        dict(inner_scale=-1.0), dict(rescale=1), dict(zero_steps=-1),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_value_of_a_term_is_named(changes):
    ((name, value),) = changes.items()
    with pytest.raises(UserError) as error:
        Guidance(**changes)
    assert f"guidance.{name}={value}" in str(error.value)


def test_what_a_network_or_a_run_of_steps_cannot_do_is_left_out(pathless):
    late = Guidance(1.5, weak_label="null", interval=(0.5, 1.0))
    settings = dict(sg=SG, late=late, zero=Guidance(2.0, weak_label="null", zero_steps=1))
    able, notes = checks.possible(pathless, settings, Sampler(), 1)
    assert not able and len(notes) == 3 and notes[1].startswith("late is left out. guidance.interv")
    assert list(checks.possible(pathless, settings, Sampler(), 2)[0]) == ["late", "zero"]
