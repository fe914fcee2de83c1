"""The layers, against arithmetic by hand and NumPy in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import random_weights
from flax import nnx
from numeric import F32, f64

from sg_jax.models import layers


def norm(x, shift, scale):
    return layers.adaptive_norm(x, layers.moments(x), shift, scale)


def test_adaptive_norm_by_hand():
    x = jnp.array([[[1.0, 3.0], [5.0, 5.0]]])  # normalised: [-1, 1], and zeros
    shift, scale = jnp.array([[10.0, 20.0]]), jnp.array([[1.0, -1.0]])
    y = norm(x, shift, scale)  # unit (1 + scale) + shift
    np.testing.assert_allclose(y, [[[8, 20], [10, 20]]], atol=1e-5)


def test_adaptive_norm_computes_in_float32():
    x = jax.random.normal(jax.random.key(0), (2, 4, 512)).astype(jnp.bfloat16) + 3
    zero = jnp.zeros((2, 512))
    y = norm(x, zero, zero)
    assert y.dtype == jnp.bfloat16
    exact = norm(x.astype(F32), zero, zero)
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))
    np.testing.assert_allclose(exact.std(-1), 1, rtol=1e-5)


def test_the_gradient_of_adaptive_norm_is_that_of_its_formula():
    def plain(x, shift, scale):
        y = x - x.mean(-1, keepdims=True)
        y = y / jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6)
        return y * (1 + scale[:, None]) + shift[:, None]

    keys = jax.random.split(jax.random.key(0), 4)
    x, weight = (jax.random.normal(k, (3, 5, 8)) for k in keys[:2])
    shift, scale = (jax.random.normal(k, (3, 8)) for k in keys[2:])

    def gradient(norm):
        return jax.grad(lambda *a: (weight * norm(*a)).sum(), argnums=(0, 1, 2))(x, shift, scale)

    for ours, expected in zip(gradient(norm), gradient(plain), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_gated_by_hand():
    """x + gate (y + 1)."""
    x, y = jnp.array([[[1.0, 2.0]]]), jnp.array([[[20.0, 20.0]]])
    np.testing.assert_array_equal(
        layers.gated(x, jnp.array([[0.0, -1.0]]), y, jnp.ones(2)), [[[1, -19]]]
    )


def test_the_gradient_of_gated_is_that_of_its_formula():
    def plain(x, gate, y, bias):
        return x + gate[:, None] * (y + bias[None, None])

    keys = jax.random.split(jax.random.key(0), 5)
    x, y, weight = (jax.random.normal(k, (3, 5, 8)) for k in keys[:3])
    gate, bias = jax.random.normal(keys[3], (3, 8)), jax.random.normal(keys[4], (8,))

    def gradient(f):
        return jax.grad(lambda *a: (weight * f(*a)).sum(), range(4))(x, gate, y, bias)

    for ours, expected in zip(gradient(layers.gated), gradient(plain), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_linear_layer_and_its_gradient_by_hand():
    net = layers.Linear(2, 1, F32, nnx.Rngs(0), layers.ZEROS)
    net.kernel[...], net.bias[...] = jnp.array([[2.0], [3.0]]), jnp.array([5.0])
    x = jnp.array([[1.0, 10.0], [0.0, 1.0]])
    np.testing.assert_array_equal(net(x), [[37], [8]])
    grads = jax.grad(lambda net: net(x).sum())(net)
    np.testing.assert_array_equal(grads.kernel[...], [[1], [11]])
    np.testing.assert_array_equal(grads.bias[...], [2])


def test_gradients_of_a_bfloat16_layer_are_summed_in_float32():
    """300 tokens of 1: in bfloat16 a sum of ones ends at 256."""
    net = layers.Linear(1, 1, jnp.dtype("bfloat16"), nnx.Rngs(0))
    x = jnp.ones((1, 300, 1), jnp.bfloat16)
    grads = jax.grad(lambda net: net(x).astype(F32).sum())(net)
    assert grads.kernel[...] == 300 and grads.bias[...] == 300
    zero = jnp.zeros((1, 1))
    shift = jax.grad(lambda shift: norm(x, shift, zero).astype(F32).sum())(zero)
    gate = jax.grad(lambda gate: layers.gated(x, gate, x, zero[0]).astype(F32).sum())(zero)
    assert shift == 300 and gate == 300


def test_position_table_by_hand():
    """Width 8: two frequencies, 1 and 1/100; [sin, cos] of the column, then of the row."""
    table = layers.position_table(2, 3, 8)
    assert table.shape == (6, 8) and table.dtype == np.float32
    np.testing.assert_array_equal(table[0], [0, 0, 1, 1, 0, 0, 1, 1])

    def code(p):
        return [math.sin(p), math.sin(p / 100), math.cos(p), math.cos(p / 100)]

    for row in range(2):
        for column in range(3):  # raster order
            np.testing.assert_allclose(table[3 * row + column], code(column) + code(row), rtol=1e-6)


def test_timestep_features_by_hand():
    zero, one = np.asarray(layers.timestep_features(jnp.array([0.0, 1.0])))
    np.testing.assert_array_equal(zero, [1] * 128 + [0] * 128)  # cosines come first
    slowest = 10000 ** (-127 / 128)
    np.testing.assert_allclose(one[[0, 128]], [math.cos(1), math.sin(1)], rtol=1e-6)
    np.testing.assert_allclose(one[[127, 255]], [math.cos(slowest), math.sin(slowest)], rtol=1e-5)


def test_timestep_embedding_is_two_linear_layers():
    net = random_weights.network(lambda rngs: layers.TimestepEmbedding(8, F32, rngs), 1.0)
    t = jnp.array([0.3, 0.9])
    h = f64(layers.timestep_features(t)) @ f64(net.hidden.kernel) + f64(net.hidden.bias)
    expected = (h / (1 + np.exp(-h))) @ f64(net.out.kernel) + f64(net.out.bias)
    np.testing.assert_allclose(net(t), expected, rtol=1e-4, atol=1e-4)


def test_mlp_has_the_tanh_gelu():
    net = random_weights.network(lambda rngs: layers.Mlp(4, 6, F32, rngs), 1.0)
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    h = f64(x) @ f64(net.hidden.kernel) + f64(net.hidden.bias)
    h = 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    expected = h @ f64(net.out.kernel) + f64(net.out.bias)
    np.testing.assert_allclose(net(x) + net.bias[None, None], expected, rtol=1e-5, atol=1e-5)


def test_initial_weights():
    """Those of the timestep embedding have a standard deviation of 0.02."""
    time = layers.TimestepEmbedding(64, F32, nnx.Rngs(0))
    assert abs(time.hidden.kernel[...].std() - 0.02) < 1e-3


def test_instances_have_one_tree_structure():
    """A structure of its own for each instance would compile every program again."""

    def make():
        return layers.Mlp(4, 6, F32, nnx.Rngs(0))

    assert jax.tree.structure(make()) == jax.tree.structure(make())


def test_keys_are_those_of_flax():
    key = jax.random.key(3)
    ours, flax = layers.Keys(key), nnx.Rngs(key)
    for _ in range(3):
        assert (jax.random.key_data(ours.params()) == jax.random.key_data(flax.params())).all()
