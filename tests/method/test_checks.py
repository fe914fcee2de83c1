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
