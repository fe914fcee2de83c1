"""The TPU kernels, run by Pallas' interpreter, against NumPy in float64 and XLA's attention."""

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
    (96, 24, 3),  # three programs of 32 queries
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
    ("tokens", "supported"),
    [(16, True), (26, False), (48, True), (64, False), (96, True), (1008, True), (1056, False)],
)
def test_whole_tiles_that_fit_are_supported(tokens, supported):
    assert attention_tpu.supports(tokens) == supported
