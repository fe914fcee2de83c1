"""Multi-head self-attention."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.errors import one_of
from sg_jax.models import attention_tpu, gradients, layers
from sg_jax.models.remat import saved

QKV = nnx.initializers.variance_scaling(0.5, "fan_avg", "uniform")  # Xavier of the fused [D, 3D]
IMPLEMENTATIONS = ("auto", "xla", "pallas")


class Attention(nnx.Module):
    """Multi-head self-attention over any number of tokens; the caller adds the last bias.

    Query, key and value are three products [B, N, D], and each is reshaped into heads. On TPU v5e
    the forward pass of XL/2 blocks then reaches 72% of peak; products straight into heads
    [B, H, N, D/H] reach 66%, and one fused product 56% (compiler's estimate, 32 images of 128
    tokens).

    Two biases need no sum over the tokens for their gradients. The key's gradient is 0: it shifts
    all logits of a query by the same number, which the softmax ignores. For the value's see
    `gradients.gradient_of_value`.

    Args:
      dim: D.
      heads: H.
      dtype: compute type.
      implementation: what computes it: "xla"; "pallas", the kernels of `attention_tpu`; or "auto",
        which uses those if `attention_tpu.takes` says that they are faster.
      rngs: initial weights.
    """

    def __init__(self, dim: int, heads: int, dtype: jnp.dtype, implementation: str, rngs: nnx.Rngs):
        one_of("config.model.attention", implementation, IMPLEMENTATIONS)
        self.query = layers.Linear(dim, dim, dtype, rngs, QKV)
        self.key = layers.Linear(dim, dim, dtype, rngs, QKV)
        self.value = layers.Linear(dim, dim, dtype, rngs, QKV)
        self.out = layers.Linear(dim, dim, dtype, rngs, closes=True)
        self.heads, self.implementation = heads, implementation

    @property
    def bias(self) -> jax.Array:
        """The bias [D] of the last layer, which `layers.gated` adds."""
        value, kernel = self.value.bias[...], self.out.kernel[...]
        return self.out.bias[...] + gradients.gradient_of_value(value, kernel)

    def parts(self, x: jax.Array, query_bias_gradient: bool = True) -> list[jax.Array]:
        """Return query, key and value of tokens x, each [B, N, D], the heads side by side."""
        q = self.query(x, bias_gradient=query_bias_gradient)
        return [q, *(f(x, bias_gradient=False) for f in (self.key, self.value))]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the last layer's product [B, N, D] of tokens x, without its bias."""
        kernel, fused = self.out.kernel[...], attention_tpu.takes(self.implementation, x)
        (q, k, v), places = zip(*map(saved, self.parts(x, not fused)), strict=True)
        if not fused:
            return layers.product(attend(q, k, v, self.heads), kernel)
        bias = self.query.bias[...]
        return attention_tpu.attend_and_project(
            q, k, v, bias, kernel, places, self.heads, attend, layers.product
        )


def attend(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
    """Return softmax(q k^T / sqrt(D/H)) v of all heads [B, N, D]; the softmax in float32.

    Args:
      q, k, v: [B, N, D], the heads side by side.
      heads: H.
    """
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v))  # [B, N, H, D/H]
    logits = jnp.einsum("bnhk,bmhk->bhnm", q, k, preferred_element_type=jnp.float32)
    # Scaled here, in the softmax's first pass; scaling q would need a pass of its own.
    weights = jax.nn.softmax(logits / math.sqrt(q.shape[-1]), axis=-1).astype(v.dtype)
    return jnp.einsum("bhnm,bmhk->bnhk", weights, v).reshape(*q.shape[:2], -1)
