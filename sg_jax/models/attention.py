"""Multi-head self-attention."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.models import layers

QKV = nnx.initializers.variance_scaling(0.5, "fan_avg", "uniform")  # Xavier of the fused [D, 3D]


class Attention(nnx.Module):
    """Multi-head self-attention over however many tokens it is given, but for its `last` layer.

    Query, key and value are three products [B, N, D] and heads a reshape of each: on TPU v5e that
    is 72% of peak, forward, for blocks of XL/2; products straight into heads [B, H, N, D/H] are
    66%, and one fused product 56% (compiler's estimate, 32 images of 128 tokens).

    Two biases have gradients without a sum over the tokens. The key's is 0: it adds the same to all
    logits of a query, which the softmax takes out again. The value's goes through the attention
    unchanged, because the weights of a query sum to 1, so its gradient follows from that of `last`.
    """

    def __init__(self, dim: int, heads: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.query = layers.Linear(dim, dim, dtype, rngs, QKV)
        self.key = layers.Linear(dim, dim, dtype, rngs, QKV)
        self.value = layers.Linear(dim, dim, dtype, rngs, QKV)
        self.out = layers.Linear(dim, dim, dtype, rngs)
        self.heads = heads

    @property
    def last(self) -> tuple[jax.Array, jax.Array]:
        """Kernel [D, D] and bias [D] of the last layer."""
        kernel = self.out.kernel[...]
        return kernel, self.out.bias[...] + _gradient_of_value(self.value.bias[...], kernel)

    def heads_of(self, x: jax.Array) -> list[jax.Array]:
        """Return query, key and value of tokens x [B, N, D], each [B, N, H, D/H]."""
        q, k, v = (f(x, bias_gradient=f is self.query) for f in (self.query, self.key, self.value))
        return [layers.save(y).reshape(*x.shape[:2], self.heads, -1) for y in (q, k, v)]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return what the heads found in tokens x [B, N, D], side by side: [B, N, D]."""
        return attend(*self.heads_of(x)).reshape(x.shape)


@jax.custom_vjp
def _gradient_of_value(bias: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return zeros [D]; their gradient is that of bias @ kernel, to the bias [D] alone."""
    return jnp.zeros_like(kernel[0])


_gradient_of_value.defvjp(
    lambda bias, kernel: (jnp.zeros_like(kernel[0]), kernel),
    lambda kernel, d: ((kernel * d[None]).sum(1), jnp.zeros_like(kernel)),
)


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Return softmax(q k^T / sqrt(D/H)) v of each head [B, N, H, D/H]; the softmax in float32."""
    logits = jnp.einsum("bnhk,bmhk->bhnm", q, k, preferred_element_type=jnp.float32)
    # Scaled here, where it is part of the softmax's first pass; q would take one of its own.
    weights = jax.nn.softmax(logits / math.sqrt(q.shape[-1]), axis=-1).astype(v.dtype)
    return jnp.einsum("bhnm,bmhk->bnhk", weights, v)
