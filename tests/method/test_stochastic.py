"""The samplers that draw noise on the way, on data whose distribution is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_paths import MU, S, Z, end, still

from sg_jax.method import sampler, stochastic
from sg_jax.method.sampler import Sampler


@pytest.mark.parametrize("churn, steps", [(0.0, 10), (5.0, 10), (40.0, 18)])
def test_edm_heun_is_karras_algorithm_2(churn, steps):
    """Line by line in float64, with sigma and D(y; sigma) of the same data; all noise is 1."""

    def d(y, sigma):
        return (y - (MU + S**2 / (S**2 + sigma**2) * (y - MU))) / sigma

    ramp = np.arange(steps) / (steps - 1)
    sigmas = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    y = sigmas[0] * np.asarray(Z, np.float64)
    for sigma, after in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        gamma = min(churn / steps, math.sqrt(2) - 1) if 0.05 <= sigma <= 50 else 0.0
        hat = sigma * (1 + gamma)
        y = y + 1.003 * math.sqrt(hat**2 - sigma**2)
        slope = d(y, hat)
        ahead = y + (after - hat) * slope
        y = ahead if after == 0 else y + (after - hat) * (slope + d(ahead, after)) / 2
    settings = dict(churn=churn, churn_min=0.05, churn_max=50.0, churn_noise=1.003)
    ours = end("edm_heun", steps, noise=lambda n: jnp.ones(2), **settings)
    np.testing.assert_allclose(ours, y, rtol=2e-3)


COUNT = 20_000  # standard errors: of the mean 0.0042, of the deviation 0.0030


def normal(n):
    return jax.random.normal(jax.random.fold_in(jax.random.key(1), n), (COUNT,))


@pytest.mark.every(4)
@pytest.mark.parametrize(
    "name, settings",
    [("euler_maruyama", dict(diffusion=d)) for d in sampler.DIFFUSIONS]
    + [("euler_maruyama", dict(diffusion_scale=0.0))]
    + [("euler_maruyama", dict(diffusion_scale=3.0, shift=2.0))]
    + [("edm_heun", dict(churn=c)) for c in (0.0, 40.0, 1e9)]
    + [("edm_heun", dict(churn=40.0, churn_min=0.05, churn_max=50.0))],
    ids=str,
)
def test_noise_on_the_way_keeps_the_distribution(name, settings):
    """Within four standard errors and 0.01 for the 250 steps."""
    x = end(name, 250, z=normal(10**6), noise=normal, **settings)
    assert abs(x.mean() - MU) < 0.027 and abs(x.std() - S) < 0.022


@pytest.mark.parametrize("diffusion", sampler.DIFFUSIONS)
def test_the_sde_does_not_oscillate_at_usual_steps_of_narrow_data(diffusion):
    s = 0.05

    def velocity(x, t, n):
        return x * (t * s**2 - (1 - t)) / ((1 - t) ** 2 + (t * s) ** 2)

    method = Sampler("euler_maruyama", diffusion=diffusion)
    x = method.integrate(still(velocity), normal, normal(10**6), method.times(40))[0]
    assert 0.7 * s < x.std() < 1.1 * s


@pytest.mark.parametrize("diffusion", sampler.DIFFUSIONS)
def test_the_sde_ends_in_data_that_is_one_point(diffusion):
    """There x + (1 - t) v is that point, so the last step must take out nothing more."""
    method = Sampler("euler_maruyama", diffusion=diffusion)
    velocity = still(lambda x, t, n: (MU - x) / (1 - t))
    x = method.integrate(velocity, normal, normal(10**6), method.times(10))[0]
    np.testing.assert_allclose(x, MU, atol=1e-5)


def test_churn_and_diffusion_forget_the_noise_they_began_with():
    z = normal(10**6)
    for name, on, off in (
        ("euler_maruyama", dict(diffusion="constant"), dict(diffusion_scale=0.0)),
        ("edm_heun", dict(churn=40.0), dict(churn=0.0)),
    ):
        stay, forget = (
            float(jnp.corrcoef(end(name, 50, z=z, noise=normal, **s), z)[0, 1]) for s in (off, on)
        )
        assert stay > 0.999 and forget < 0.95


def test_without_diffusion_the_sde_is_eulers_ode():
    x = end("euler_maruyama", 20, noise=lambda n: jnp.ones(2), diffusion_scale=0.0)
    np.testing.assert_allclose(x, end("euler", 20), rtol=1e-6)


@pytest.mark.parametrize("diffusion", list(sampler.DIFFUSIONS))
def test_the_last_step_of_the_sde_adds_no_noise(diffusion):
    settings = dict(diffusion=diffusion)
    quiet = end("euler_maruyama", 5, noise=lambda n: jnp.zeros(2), **settings)
    last = end("euler_maruyama", 5, noise=lambda n: 1e3 * (n == 4) * jnp.ones(2), **settings)
    np.testing.assert_array_equal(quiet, last)


def test_edms_noise_levels_by_hand():
    """rho 1 is a straight line: 80, 53.334, 26.668, 0.002; then 0."""
    times = np.asarray(stochastic.edm_grid(4, 0.002, 80.0, 1.0), np.float64)
    np.testing.assert_allclose(1 / times - 1, [80, 53.334, 26.668, 0.002, 0], rtol=1e-3, atol=1e-9)
    ramp = (80 ** (1 / 7) + np.arange(18) / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(Sampler("edm_heun").times(18)[:-1], 1 / (1 + ramp), rtol=1e-5)
