"""The samplers that remember the step before, against their papers' algorithms."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from known_paths import MU, MULTISTEP, S, Z, end, error, gaussian, none, still

from sg_jax.method import multistep, sampler
from sg_jax.method.sampler import SAMPLERS, Sampler


def test_three_uneven_steps_of_ab2_by_hand():
    """Of v = t^2: Euler from 0 to 1/2, then v + share (v - last) with shares 1/4 and 1/2."""
    times = jnp.array([0.0, 0.5, 0.75, 1.0])
    x, _ = multistep.ab2(still(lambda x, t, n: jnp.broadcast_to(t**2, x.shape)), Z, times)
    second = 0.25 * (0.25 + 0.25 * 0.25)
    third = 0.25 * (0.5625 + 0.5 * (0.5625 - 0.25))
    np.testing.assert_allclose(x, Z + 0.5 * 0 + second + third, rtol=1e-6)


@pytest.mark.parametrize("steps, shift", [(1, 1.0), (2, 1.0), (9, 1.0), (20, 3.0)])
def test_dpm_2m_is_algorithm_2_of_its_paper(steps, shift):
    """Line by line in float64: alpha = t, sigma = 1 - t, D the denoised image of the same data."""
    times = np.asarray(sampler.time_grid(steps, shift), np.float64)
    x, last, before = np.asarray(Z, np.float64), None, None
    for i, (s, t) in enumerate(itertools.pairwise(times)):
        d = MU + (s * S**2) / ((s * S) ** 2 + (1 - s) ** 2) * (x - s * MU)
        with np.errstate(divide="ignore"):
            h = np.log(t) - np.log(1 - t) - np.log(s) + np.log(1 - s)
        r = before / h if 0 < i < steps - 1 else np.inf  # the first and the last step: order 1
        used = (1 + 1 / (2 * r)) * d - (0 if r == np.inf else last / (2 * r))
        x = (1 - t) / (1 - s) * x - t * np.expm1(-h) * used
        last, before = d, h
    np.testing.assert_allclose(end("dpm_2m", steps, shift=shift), x, rtol=2e-5)


@pytest.mark.parametrize("steps", [14, 20, 40])
def test_memory_of_the_last_step_is_worth_more_than_twice_the_steps(steps):
    for name in MULTISTEP:
        assert SAMPLERS[name].evaluations == 1
        assert error(name, steps) < error("euler", 2 * steps)


@pytest.mark.parametrize("name", MULTISTEP)
def test_many_steps_at_the_end_of_time_stay_finite(name):
    """Some of them begin where 1 - t is below 1e-6. The first steps are long: up to 1/4."""
    assert error(name, 3000, shift=0.001) < 0.05


@pytest.mark.parametrize("name", MULTISTEP)
def test_a_new_stretch_begins_with_a_step_of_eulers(name):
    """There the velocity may jump, and what it was before says nothing about what follows."""
    method, x = Sampler(name), Z
    times = method.times(5)
    for i in range(5):
        x = method.integrate(still(gaussian), none, x, times[i : i + 2], i, steps=5)[0]
    np.testing.assert_allclose(x, end("euler", 5), rtol=1e-5)
