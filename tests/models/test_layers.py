"""The layers, against arithmetic by hand and NumPy in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sg_jax.models import layers

F32 = jnp.dtype("float32")


def fresh(make):
    """A layer with every weight random."""
    shapes = jax.eval_shape(make)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s.shape), s.dtype), shapes)


def f64(x):
    return np.asarray(x, np.float64)


def test_layer_norm_by_hand():
    y = layers.layer_norm(jnp.array([[1.0, 3.0], [5.0, 5.0]]))
    np.testing.assert_allclose(y, [[-1, 1], [0, 0]], atol=1e-6)


def test_layer_norm_computes_in_float32():
    x = jax.random.normal(jax.random.key(0), (4, 512)).astype(jnp.bfloat16) + 3
    y = layers.layer_norm(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, layers.layer_norm(x.astype(F32)).astype(jnp.bfloat16))


def test_modulate_by_hand():
    x = jnp.array([[[1.0, 2.0], [3.0, 4.0]]])  # [1, 2, 2]
    y = layers.modulate(x, shift=jnp.array([[10.0, 20.0]]), scale=jnp.array([[1.0, -1.0]]))
    np.testing.assert_array_equal(y, [[[12, 20], [16, 20]]])  # x (1 + scale) + shift


def test_zero_modulation_changes_nothing():
    x = jnp.arange(4.0).reshape(1, 2, 2)
    np.testing.assert_array_equal(layers.modulate(x, jnp.zeros((1, 2)), jnp.zeros((1, 2))), x)


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
    net = fresh(lambda: layers.TimestepEmbedding(8, F32, nnx.Rngs(0)))
    t = jnp.array([0.3, 0.9])
    h = f64(layers.timestep_features(t)) @ f64(net.hidden.kernel) + f64(net.hidden.bias)
    expected = (h / (1 + np.exp(-h))) @ f64(net.out.kernel) + f64(net.out.bias)
    np.testing.assert_allclose(net(t), expected, rtol=1e-4, atol=1e-4)


def test_mlp_has_the_tanh_gelu():
    net = fresh(lambda: layers.Mlp(4, 6, F32, nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    h = f64(x) @ f64(net.hidden.kernel) + f64(net.hidden.bias)
    h = 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    expected = h @ f64(net.out.kernel) + f64(net.out.bias)
    np.testing.assert_allclose(net(x), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def attention():
    return fresh(lambda: layers.Attention(8, 2, F32, nnx.Rngs(0)))


def test_one_token_attends_to_itself(attention):
    x = jax.random.normal(jax.random.key(0), (2, 1, 8))
    value = np.einsum("bnd,dhk->bnhk", f64(x), f64(attention.value.kernel))
    value += f64(attention.value.bias)
    expected = np.einsum("bnhk,hkd->bnd", value, f64(attention.kernel)) + f64(attention.bias)
    np.testing.assert_allclose(attention(x), expected, rtol=1e-4, atol=1e-4)


def test_attention_is_softmax_of_scaled_products_per_head(attention):
    x = jax.random.normal(jax.random.key(0), (1, 5, 8)) / 2
    expected = np.zeros((5, 8)) + f64(attention.bias)
    for head in range(2):
        q, k, v = (
            f64(x[0]) @ f64(p.kernel)[:, head] + f64(p.bias)[head]
            for p in (attention.query, attention.key, attention.value)
        )
        weights = np.exp(q @ k.T / math.sqrt(4))
        expected += weights / weights.sum(1, keepdims=True) @ v @ f64(attention.kernel)[head]
    np.testing.assert_allclose(attention(x)[0], expected, rtol=1e-4, atol=1e-4)


def test_attention_does_not_know_the_order_of_tokens(attention):
    x = jax.random.normal(jax.random.key(0), (1, 5, 8))
    np.testing.assert_allclose(attention(x)[:, ::-1], attention(x[:, ::-1]), rtol=1e-4, atol=1e-4)


def test_images_do_not_attend_to_each_other(attention):
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    np.testing.assert_allclose(attention(x)[:1], attention(x[:1]), rtol=1e-5, atol=1e-5)


def test_half_precision_computes_on_float32_weights():
    net = layers.Attention(8, 2, jnp.dtype("bfloat16"), nnx.Rngs(0))
    assert net(jnp.ones((1, 5, 8), jnp.bfloat16)).dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(net)} == {F32}


def test_initial_weights():
    """Linear layers: Xavier uniform, that of the fused [D, 3 D] for q, k, v; biases zero."""
    net = layers.Attention(64, 4, F32, nnx.Rngs(0))
    for part in (net.query, net.key, net.value):
        bound = math.sqrt(6 / (64 + 3 * 64))
        assert 0.95 * bound < jnp.abs(part.kernel[...]).max() <= bound
        assert not part.bias[...].any()
    assert 0.95 * math.sqrt(6 / 128) < jnp.abs(net.kernel[...]).max() <= math.sqrt(6 / 128)
    assert not jnp.array_equal(net.query.kernel[...], net.key.kernel[...])
    time = layers.TimestepEmbedding(64, F32, nnx.Rngs(0))
    assert abs(time.hidden.kernel[...].std() - 0.02) < 1e-3


def test_instances_have_one_tree_structure():
    """A structure of its own for each instance would compile every program again."""

    def make():
        return layers.Mlp(4, 6, F32, nnx.Rngs(0))

    assert jax.tree.structure(make()) == jax.tree.structure(make())
