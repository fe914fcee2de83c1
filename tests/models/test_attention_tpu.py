"""The TPU kernels, run by Pallas' interpreter, against NumPy in float64 and XLA's attention."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import f64

from sg_jax.models import attention_tpu
from sg_jax.models.attention import attend
from sg_jax.models.remat import Kept

CASES = [  # tokens, channels, heads
    (16, 12, 2),
    (48, 72, 1),
    (32, 30, 6),  # more heads than are interleaved
    (96, 24, 3),  # two programs of 48 queries
    (101, 24, 3),  # the third program has 5 of 48
    (13, 24, 2),
]


@pytest.fixture(autouse=True)
def small_programs(monkeypatch):
    monkeypatch.setattr(attention_tpu, "QUERIES", 48)


def random(count, tokens, channels):
    return jax.random.normal(jax.random.key(0), (count, 2, tokens, channels))


@pytest.mark.every(2)
@pytest.mark.parametrize(("tokens", "channels", "heads"), CASES)
def test_forward_is_the_softmax_of_scaled_products(tokens, channels, heads):
    q, k, v = random(3, tokens, channels)
    found = attention_tpu.forward(q, k, v, heads)
    size = channels // heads
    for head in range(heads):
        at = slice(head * size, (head + 1) * size)
        logits = f64(q)[..., at] @ f64(k)[..., at].transpose(0, 2, 1) / np.sqrt(size)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        expected = weights / weights.sum(-1, keepdims=True) @ f64(v)[..., at]
        np.testing.assert_allclose(found[..., at], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.every(2)
@pytest.mark.parametrize(("tokens", "channels", "heads"), CASES)
def test_backward_is_the_gradient_and_the_forward_pass(tokens, channels, heads):
    q, k, v, do = random(4, tokens, channels)
    o, pull = jax.vjp(lambda *a: attend(*a, heads), q, k, v)
    expected = (*pull(do), o)
    *found, total = attention_tpu.backward(q, k, v, do, heads)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(total, f64(expected[0]).sum((0, 1)), rtol=1e-4, atol=1e-5)


def test_large_logits_overflow_nothing():
    q, k, v = random(3, 16, 8)
    found = attention_tpu.forward(300 * q, k, v, 2)
    np.testing.assert_allclose(found, attend(300 * q, k, v, 2), rtol=1e-4, atol=1e-4)


def test_backward_reads_what_is_kept_at_its_place():
    q, k, v, do = random(4, 16, 8)
    kept = [Kept(jnp.stack([jnp.full_like(x, jnp.nan), x]), jnp.int32(1)) for x in (q, k, v)]
    expected = attention_tpu.backward(q, k, v, do, 2)
    for ours, theirs in zip(attention_tpu.backward(*kept, do, 2), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_half_precision_has_the_error_of_half_precision():
    q, k, v, do = random(4, 32, 16)
    exact = attention_tpu.backward(q, k, v, do, 2)
    found = attention_tpu.backward(*(x.astype(jnp.bfloat16) for x in (q, k, v, do)), 2)
    assert [x.dtype for x in found] == [jnp.bfloat16] * 4 + [jnp.float32]
    for ours, theirs in zip(found[:4], exact[:4], strict=True):
        assert np.abs(f64(ours) - f64(theirs)).mean() < 0.01 * np.abs(f64(theirs)).mean()


@pytest.mark.parametrize(
    ("chip", "sizes", "fitting"),
    [  # tokens, channels: what libtpu compiled, or refused for lack of memory on chip
        ("TPU v4", (512, 2048), (True, False)),
        ("TPU v4", (1024, 768), (True, False)),
        ("TPU v4", (1024, 1152), (False, False)),
        ("TPU v4", (512, 384), (True, True)),
        ("TPU v4", (256, 1152), (True, True)),
        ("TPU v4", (256, 2048), (True, False)),
        ("TPU v5", (922, 2048), (True, False)),
        ("TPU v5", (768, 2048), (True, True)),
        ("TPU v5", (1024, 1536), (True, True)),
        ("TPU v5 lite", (1024, 2048), (True, True)),
        ("TPU v5 lite", (1024, 4096), (True, False)),
        ("TPU v6 lite", (922, 2048), (True, True)),
        ("TPU v6 lite", (1040, 64), (False, False)),  # keys beyond what is tried
        ("cpu", (16, 8), (None, None)),
    ],
)
def test_what_fits_on_a_chip(monkeypatch, chip, sizes, fitting):
    monkeypatch.setattr(attention_tpu, "QUERIES", 256)
    monkeypatch.setattr(jax.sharding, "get_abstract_mesh", lambda: mesh_of(chip))
    assert tuple(attention_tpu.fits(*sizes, backward=b) for b in (False, True)) == fitting


def test_gradients_where_the_kernel_does_not_fit(monkeypatch):
    """XLA's attention gives them, and the sum for the query's bias."""
    q, k, v, do = random(4, 16, 8)
    bias, kernel = jnp.zeros(8), jax.random.normal(jax.random.key(1), (8, 8))

    def y(*arrays):
        call = (bias, kernel, (None,) * 3, 2, attend, jnp.matmul)
        return attention_tpu.attend_and_project(*arrays, *call)

    expected = jax.vjp(y, q, k, v)[1](do)
    monkeypatch.setattr(attention_tpu, "fits", lambda *_, **__: False)
    monkeypatch.setattr(attention_tpu, "backward", None)
    for ours, theirs in zip(jax.vjp(y, q, k, v)[1](do), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def mesh_of(chip):
    device = types.SimpleNamespace(device_kind=chip)
    return types.SimpleNamespace(empty=False, abstract_device=device)
