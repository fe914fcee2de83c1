"""Networks that predict DDPM's noise, on data whose noise is known: N(0, SD^2) in every channel."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.method import checks, prediction, terms
from sg_jax.method import guidance as lib
from sg_jax.method.guidance import Guidance
from sg_jax.method.sampler import SAMPLERS, Sampler

SD = 0.6
BETAS = np.linspace(1e-4, 0.02, 1000)
KEPT = np.cumprod(1 - BETAS)  # abar
FIRST = np.sqrt(KEPT[-1]) / (np.sqrt(KEPT[-1]) + np.sqrt(1 - KEPT[-1]))  # the time of step 999


class Labels:
    kind, count = "labels", 3

    def null(self, condition):
        return jnp.full_like(condition, 3)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Gaussian:
    """Return E[noise | x_tau] of data N(m, SD^2), where m is 1 for label 1 and otherwise 0."""

    weight: jax.Array

    image_size, channels, patch = 4, 4, 2
    prediction, masks, tokens, choices = "noise", False, 4, 0
    conditioning = Labels()

    def branches(self, x, t, branches, inner=False):
        kept = jnp.interp(t, jnp.arange(1000.0), jnp.log(KEPT / (1 - KEPT)))
        kept = jax.nn.sigmoid(kept)[:, None, None, None]
        out = []
        for label, *_ in branches:
            mean = (label == 1).astype(x.dtype)[:, None, None, None]
            rest = x - jnp.sqrt(kept) * mean
            out.append(jnp.sqrt(1 - kept) * rest / (kept * SD**2 + 1 - kept))
        return out


MODEL = Gaussian(jnp.float32(0.0))


def test_steps_are_where_the_noise_is_the_same():
    a = KEPT[[0, 1, 250, 600, 999]]
    t = np.sqrt(a) / (np.sqrt(a) + np.sqrt(1 - a))  # t / (1 - t) = sqrt(a / (1 - a))
    found = prediction.ddpm_step(jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(found, [0, 1, 250, 600, 999], atol=0.01)
    assert prediction.ddpm_step(jnp.array([0.0, 1e-4, 0.9999, 1.0])).tolist() == [999, 999, 0, 0]


def test_the_velocity_is_that_of_the_gaussian():
    """E[x - z | x_t] = cov(x - z, x_t) / var(x_t) x_t."""
    t = np.array([FIRST, 0.01, 0.1, 0.5, 0.9, 0.985])
    x = np.random.default_rng(0).standard_normal((6, 4, 4, 4)).astype(np.float32)
    label = jnp.zeros(6, jnp.int32)
    v = prediction.velocity(MODEL, jnp.asarray(x), jnp.asarray(t, jnp.float32), label)
    slope = (t * SD**2 - (1 - t)) / ((1 - t) ** 2 + (SD * t) ** 2)
    np.testing.assert_allclose(v, slope[:, None, None, None] * x, rtol=2e-3, atol=2e-3)


def test_the_ends_are_finite():
    t = jnp.array([0.0, 1e-4, FIRST, 1.0])
    x = jnp.ones((4, 4, 4, 4))
    v = prediction.velocity(MODEL, x, t, jnp.zeros(4, jnp.int32))
    assert np.isfinite(v).all() and np.abs(v).max() < 3
    slope = jax.grad(lambda t: prediction.velocity(MODEL, x, t, jnp.zeros(4, jnp.int32)).sum())(t)
    assert np.isfinite(slope).all()


def test_an_error_of_the_noise_counts_once():
    """v - v* = -(e - e*) / t where steps are, so the weight is t^2."""
    t = jnp.array([0.0, 0.01, 0.5, 1.0])
    x, label = jnp.ones((4, 4, 4, 4)), jnp.zeros(4, jnp.int32)

    class Off(Gaussian):
        def branches(self, *args):
            return [f + 1 for f in super().branches(*args)]

    off = prediction.velocity(Off(MODEL.weight), x, t, label)
    error = jnp.square(off - prediction.velocity(MODEL, x, t, label)).mean((1, 2, 3))
    np.testing.assert_allclose(prediction.loss_weight(MODEL, t) * error, 1, rtol=2e-3)
    np.testing.assert_allclose(prediction.loss_weight(MODEL, t)[1:], [1e-4, 0.25, 1], rtol=1e-5)


def draw(sampler, guidance, steps=40, count=256, label=0):
    plan, scales = lib.plan(guidance, sampler, steps)
    keys = jax.random.split(jax.random.key(1), count)
    labels = jnp.full(count, label)

    @jax.jit
    def run():
        times = sampler.times(steps)
        x = sampler.start(jax.random.normal(jax.random.key(0), (count, 4, 4, 4)), times)
        (stretch,) = plan.stretches
        velocity = terms.guided_velocity(
            MODEL, None, stretch, plan, labels, keys, jnp.asarray(scales), sampler.evaluations
        )
        noise = lambda n: jax.random.normal(jax.random.fold_in(jax.random.key(2), n), x.shape)  # noqa: E731
        return sampler.integrate(velocity, noise, x, times)[0]

    return np.asarray(run())


@pytest.mark.every(2)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_the_data(name):
    images = draw(Sampler(name=name), Guidance())
    assert images.std() == pytest.approx(SD, rel=0.05)
    assert images.mean() == pytest.approx(0, abs=0.02)


def test_another_prediction_is_refused():
    other = Gaussian(MODEL.weight)
    other.prediction = "score"
    with pytest.raises(UserError, match=r"predicts 'score'.*'velocity', 'edm', 'noise'"):
        prediction.velocity(other, jnp.ones((1, 4, 4, 4)), jnp.ones(1), jnp.zeros(1, jnp.int32))


def test_more_channels_than_there_are_cannot_be_guided():
    guidance = Guidance(2.0, weak_label="null", channels=5)
    with pytest.raises(UserError, match=r"guidance.channels=5 is more than the network's 4"):
        checks.check_setting(MODEL, guidance)


@pytest.mark.every(4)
@pytest.mark.parametrize("name", SAMPLERS)
def test_guidance_moves_the_mean_by_its_scale(name):
    """The velocities of label 1 and no label differ by what moves the mean by 1 in all."""
    cfg = draw(Sampler(name=name), Guidance(2.0, weak_label="null"), label=1)
    assert cfg.mean() > 1.2
    some = draw(Sampler(name=name), Guidance(2.0, weak_label="null", channels=3), label=1)
    plain = draw(Sampler(name=name), Guidance(), label=1)
    np.testing.assert_allclose(some[..., :3], cfg[..., :3], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(some[..., 3], plain[..., 3], rtol=1e-4, atol=1e-4)
