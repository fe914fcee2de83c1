"""Attention, against arithmetic by hand and NumPy in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from flax import nnx
from numeric import F32, f64

from sg_jax.errors import UserError
from sg_jax.models import attention_tpu
from sg_jax.models.attention import Attention, attend


def whole(net, x):
    return net(x) + net.bias[None, None]


@pytest.fixture
def attention():
    return random_weights.network(lambda rngs: Attention(8, 2, F32, "auto", rngs), 1.0)


def test_one_token_attends_to_itself(attention):
    x = jax.random.normal(jax.random.key(0), (2, 1, 8))
    value = f64(x) @ f64(attention.value.kernel) + f64(attention.value.bias)
    expected = value @ f64(attention.out.kernel) + f64(attention.out.bias)
    np.testing.assert_allclose(whole(attention, x), expected, rtol=1e-4, atol=1e-4)


def test_attention_is_softmax_of_scaled_products_per_head(attention):
    x = jax.random.normal(jax.random.key(0), (1, 5, 8)) / 2
    expected = np.zeros((5, 8)) + f64(attention.out.bias)
    for head in (slice(0, 4), slice(4, 8)):  # channels of a head lie side by side
        q, k, v = (
            f64(x[0]) @ f64(p.kernel)[:, head] + f64(p.bias)[head]
            for p in (attention.query, attention.key, attention.value)
        )
        weights = np.exp(q @ k.T / math.sqrt(4))
        expected += weights / weights.sum(1, keepdims=True) @ v @ f64(attention.out.kernel)[head]
    np.testing.assert_allclose(whole(attention, x)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", ["xla", "pallas"])
def test_the_gradient_of_attention_is_that_of_its_formula(attention, implementation):
    """Also those of the biases of key, which is 0, and value, which no sum over tokens makes."""
    attention.implementation = implementation

    def plain(net, x):
        return net.out(attend(*(p(x) for p in (net.query, net.key, net.value)), 2))

    x, weight = jax.random.normal(jax.random.key(0), (2, 3, 16, 8))

    def gradient(f):
        return jax.tree.leaves(jax.grad(lambda net: (weight * f(net, x)).sum())(attention))

    for written_out, expected in zip(gradient(whole), gradient(plain), strict=True):
        np.testing.assert_allclose(written_out, expected, rtol=1e-4, atol=1e-4)
    assert not jax.grad(lambda net: whole(net, x).sum())(attention).key.bias[...].any()


def test_attention_does_not_know_the_order_of_tokens(attention):
    x = jax.random.normal(jax.random.key(0), (1, 5, 8))
    np.testing.assert_allclose(attention(x)[:, ::-1], attention(x[:, ::-1]), rtol=1e-4, atol=1e-4)


def test_images_do_not_attend_to_each_other(attention):
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    np.testing.assert_allclose(attention(x)[:1], attention(x[:1]), rtol=1e-5, atol=1e-5)


def test_half_precision_computes_on_float32_weights():
    net = Attention(8, 2, jnp.dtype("bfloat16"), "auto", nnx.Rngs(0))
    assert net(jnp.ones((1, 5, 8), jnp.bfloat16)).dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(net)} == {F32}


def test_initial_weights():
    """Linear layers: Xavier uniform, that of the fused [D, 3 D] for q, k, v; biases zero."""
    net = Attention(64, 4, F32, "auto", nnx.Rngs(0))
    for part in (net.query, net.key, net.value):
        bound = math.sqrt(6 / (64 + 3 * 64))
        assert 0.95 * bound < jnp.abs(part.kernel[...]).max() <= bound
        assert not part.bias[...].any()
    assert 0.95 * math.sqrt(6 / 128) < jnp.abs(net.out.kernel[...]).max() <= math.sqrt(6 / 128)
    assert not jnp.array_equal(net.query.kernel[...], net.key.kernel[...])


def test_the_kernel_without_gradients(attention, monkeypatch):
    """Where there are few tokens, XLA's; both are the same."""
    x = jax.random.normal(jax.random.key(0), (2, 16, 8))
    expected = attention(x)
    attention.implementation = "pallas"
    programs = [str(jax.make_jaxpr(lambda x: attention(x))(x))]
    monkeypatch.setattr(attention_tpu, "QUERIES", 8)
    programs.append(str(jax.make_jaxpr(lambda x: attention(x))(x)))
    assert ["pallas_call" in program for program in programs] == [False, True]
    np.testing.assert_allclose(attention(x), expected, rtol=1e-4, atol=1e-4)


def test_what_the_kernel_does_not_take_is_named():
    net = Attention(8, 2, F32, "pallas", nnx.Rngs(0))
    message = "config.model.attention='pallas' needs config.mesh.tensor=1 and at most 1024"
    with pytest.raises(UserError, match=message):
        net(jnp.ones((1, 1025, 8)))


def test_an_unknown_implementation_is_named():
    with pytest.raises(UserError, match=r"config.model.attention='palas' must.*mean 'pallas'"):
        Attention(8, 2, F32, "palas", nnx.Rngs(0))
