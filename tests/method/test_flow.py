"""The path from noise (t = 0) to data (t = 1), by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg_jax.method import flow


@pytest.fixture
def ends():
    x, z = jax.random.normal(jax.random.key(0), (2, 4, 2, 2, 3))
    return x, z


def test_time_0_is_noise_and_time_1_is_data(ends):
    x, z = ends
    np.testing.assert_array_equal(flow.interpolate(x, z, jnp.zeros(4)), z)
    np.testing.assert_array_equal(flow.interpolate(x, z, jnp.ones(4)), x)


def test_each_image_has_its_own_time():
    x, z = jnp.full((2, 1, 1, 1), 8.0), jnp.full((2, 1, 1, 1), 4.0)
    x_t = flow.interpolate(x, z, jnp.array([0.25, 0.75]))
    np.testing.assert_array_equal(x_t.ravel(), [5.0, 7.0])  # 0.75 * 4 + 0.25 * 8; 0.25 * 4 + 6


def test_the_target_is_the_derivative_of_the_path(ends):
    x, z = ends
    t = jnp.array([0.0, 0.2, 0.7, 1.0])
    _, derivative = jax.jvp(lambda t: flow.interpolate(x, z, t), (t,), (jnp.ones(4),))
    np.testing.assert_allclose(flow.velocity_target(x, z), derivative, atol=1e-6)


def test_the_target_points_from_noise_to_data():
    assert flow.velocity_target(jnp.float32(5), jnp.float32(2)) == 3


def test_the_true_velocity_points_at_the_data(ends):
    x, z = ends
    t = jnp.array([0.0, 0.2, 0.7, 1.0])
    x_t = flow.interpolate(x, z, t)
    np.testing.assert_allclose(flow.denoised(x_t, flow.velocity_target(x, z), t), x, atol=1e-6)


def test_half_precision_images_stay_so():
    x = jnp.ones((1, 2, 2, 1), jnp.bfloat16)
    assert flow.interpolate(x, x, jnp.array([0.3])).dtype == jnp.bfloat16


@pytest.mark.parametrize("distribution", flow.TIME_DISTRIBUTIONS)
def test_training_times_lie_in_the_unit_interval(distribution):
    t = flow.sample_time(jax.random.key(0), (20_000,), distribution)
    assert t.dtype == jnp.float32
    assert t.min() >= 0 and t.max() <= 1
    assert abs(t.mean() - 0.5) < 0.01


@pytest.mark.parametrize(
    "distribution, below",  # the share of times below sigmoid(-1) = 0.2689
    [("logit_normal", 0.1587), ("uniform", 0.2689)],  # P(N < -1), and 0.2689 itself
)
def test_the_quantiles_of_training_times(distribution, below):
    t = flow.sample_time(jax.random.key(1), (20_000,), distribution)
    assert abs((t < 1 / (1 + math.e)).mean() - below) < 0.01


def test_an_unknown_distribution_is_named():
    with pytest.raises(ValueError, match=r"'cosine'.*logit_normal.*uniform"):
        flow.sample_time(jax.random.key(0), (), "cosine")
