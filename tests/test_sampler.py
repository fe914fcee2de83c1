"""The integrators, on equations with known solutions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg_jax import sampler

Z = jnp.array([1.0, -2.0])


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 40, 50, 250, 999])
def test_the_grid_runs_from_0_to_1_exactly(steps):
    times = np.asarray(sampler.time_grid(steps))
    assert times.shape == (steps + 1,) and times.dtype == np.float32
    assert times[0] == 0 and times[-1] == 1
    np.testing.assert_allclose(np.diff(times), 1 / steps, atol=1e-6)


def test_euler_is_exact_for_a_constant_velocity():
    x = sampler.euler(lambda x, t, n: jnp.full_like(x, 3.0), Z, sampler.time_grid(4))
    np.testing.assert_array_equal(x, Z + 3)


def test_two_euler_steps_by_hand():
    x = sampler.euler(lambda x, t, n: -x, Z, sampler.time_grid(2))
    np.testing.assert_array_equal(x, Z / 4)  # (1 - 1/2)^2


def test_eulers_error_halves_when_steps_double():
    def error(steps):
        x = sampler.euler(lambda x, t, n: -x, jnp.ones(1), sampler.time_grid(steps))
        return abs(float(x[0]) - math.exp(-1))

    for steps in (20, 40, 80):
        assert 1.9 < error(steps) / error(2 * steps) < 2.1


def test_the_velocity_is_asked_at_the_start_of_each_step():
    times = jnp.array([0.0, 0.5, 0.75, 1.0])
    x = sampler.euler(lambda x, t, n: jnp.broadcast_to(t, x.shape), jnp.zeros(1), times)
    assert x[0] == 0.5 * 0 + 0.25 * 0.5 + 0.25 * 0.75


def test_evaluations_are_counted_from_0():
    x = sampler.euler(
        lambda x, t, n: jnp.broadcast_to(2.0**n, x.shape), jnp.zeros(1), sampler.time_grid(4)
    )
    assert x[0] == (1 + 2 + 4 + 8) / 4


def test_noise_arrives_at_the_data_it_is_led_to():
    data = jnp.array([5.0, 7.0])
    x = sampler.euler(lambda x, t, n: (data - x) / (1 - t), Z, sampler.time_grid(10))
    np.testing.assert_allclose(x, data, rtol=1e-6)


def test_the_velocity_is_traced_once_whatever_the_number_of_steps():
    traces = []

    def velocity(x, t, n):
        traces.append(n)
        return -x

    jax.jit(lambda z: sampler.euler(velocity, z, sampler.time_grid(50)))(Z)
    assert len(traces) == 1
