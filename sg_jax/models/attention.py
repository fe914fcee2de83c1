"""Multi-head self-attention."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.errors import one_of
from sg_jax.models import attention_gpu, attention_tpu, gradients, layers, norms, rotary
from sg_jax.models.remat import saved

QKV = nnx.initializers.variance_scaling(0.5, "fan_avg", "uniform")  # Xavier of the fused [D, 3D]
IMPLEMENTATIONS = ("auto", "xla", "pallas", "cudnn")


class Attention(nnx.Module):
    """Multi-head self-attention over any number of tokens; the caller adds the last bias.

    Query, key and value are three products [B, N, D], and each is reshaped into heads. On TPU v5e
    the forward pass of XL/2 blocks then reaches 72% of peak; products straight into heads
    [B, H, N, D/H] reach 66%, and one fused product 56% (compiler's estimate, 32 images of 128
    tokens).

    Two biases need no sum over the tokens for their gradients. The key's gradient is 0: it shifts
    all logits of a query by the same number, which the softmax ignores. For the value's gradient
    see `gradients.gradient_of_value`.

    Args:
      dim: D.
      heads: H.
      dtype: compute type.
      implementation: what computes it: "xla"; "pallas", the kernels of `attention_tpu`; "cudnn",
        the one in `attention_gpu`; or "auto", which uses these where their `takes` says so.
      rngs: initial weights.
      bias: whether the four linear layers have biases.
      qk_norm: whether queries and keys are normalised in each head, by RMSNorm.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        dtype: jnp.dtype,
        implementation: str,
        rngs: nnx.Rngs,
        bias: bool = True,
        qk_norm: bool = False,
    ):
        one_of("config.model.attention", implementation, IMPLEMENTATIONS)
        self.query = layers.Linear(dim, dim, dtype, rngs, QKV, bias)
        self.key = layers.Linear(dim, dim, dtype, rngs, QKV, bias)
        self.value = layers.Linear(dim, dim, dtype, rngs, QKV, bias)
        self.out = layers.Linear(dim, dim, dtype, rngs, bias=bias, closes=True)
        self.heads, self.implementation = heads, implementation
        norm = "rms" if qk_norm else "layer"
        self.query_norm = norms.weight_of(norm, dim // heads)
        self.key_norm = norms.weight_of(norm, dim // heads)

    @property
    def bias(self) -> jax.Array | None:
        """The bias [D] of the last layer, which `layers.gated` adds; None if it has none."""
        if self.out.bias is None:
            return None
        value, kernel = self.value.bias[...], self.out.kernel[...]
        return self.out.bias[...] + gradients.gradient_of_value(value, kernel)

    def parts(self, x: jax.Array, query_bias_gradient: bool = True) -> list[jax.Array]:
        """Return query, key and value of tokens x, each [B, N, D], the heads side by side."""
        q = self.query(x, bias_gradient=query_bias_gradient)
        return [q, *(f(x, bias_gradient=False) for f in (self.key, self.value))]

    def turned(self, x: jax.Array, rotation: jax.Array | None) -> list[jax.Array]:
        """Return the `parts`, with queries and keys normalised and turned by `rotation`.

        The key's bias then has a gradient, since its effect depends on the position.
        """
        value = self.value(x, bias_gradient=False)
        return [*turned((self.query(x), self.query_norm), (self.key(x), self.key_norm),
                        rotation, self.heads), value]  # fmt: skip

    def __call__(self, x: jax.Array, rotation: jax.Array | None = None) -> jax.Array:
        """Return the last layer's product [B, N, D] of tokens x, without its bias.

        Args:
          x: tokens [B, N, D].
          rotation: of their queries and keys [B, N, D/H]; see `rotary`.
        """
        kernel, fused = self.out.kernel[...], attention_tpu.takes(self.implementation, x)
        usual = rotation is None and self.query_norm is None and self.query.bias is not None
        found = self.parts(x, not fused) if usual else self.turned(x, rotation)
        (q, k, v), places = zip(*map(saved, found), strict=True)
        if not fused:
            flash = attention_gpu.takes(self.implementation, q, self.heads)
            attended = (attention_gpu.attend if flash else attend)(q, k, v, self.heads)
            return layers.product(attended, kernel)
        bias = self.query.bias[...] if usual else jnp.zeros(x.shape[-1:])
        return attention_tpu.attend_and_project(
            q, k, v, bias, kernel, places, self.heads, attend, layers.product
        )


def turned(query: tuple, key: tuple, rotation: jax.Array | None, heads: int) -> list[jax.Array]:
    """Return queries and keys [B, N, D], normalised in each head and turned.

    Args:
      query, key: each an array [B, N, D] and the weight of its norm, or None.
      rotation: [B, N, D/H], or None.
      heads: H.
    """
    out = []
    for x, weight in (query, key):
        if weight is not None:
            x = norms.rms(x.reshape(*x.shape[:2], heads, -1), weight[...]).reshape(x.shape)
        out.append(x if rotation is None else rotary.rotate(x, rotation, heads))
    return out


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, heads: int, mask: jax.Array | None = None
) -> jax.Array:
    """Return softmax(q k^T / sqrt(D/H)) v of all heads [B, N, D]; the softmax in float32.

    Args:
      q, k, v: [B, N, D], the heads side by side; k and v may have a different number of tokens, M.
      heads: H.
      mask: what is added to the logits of each key [B, M], float32.
    """
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v))  # [B, N, H, D/H]
    logits = jnp.einsum("bnhk,bmhk->bhnm", q, k, preferred_element_type=jnp.float32)
    # Scaled here, in the softmax's first pass; scaling q would need a pass of its own.
    logits = logits / math.sqrt(q.shape[-1])
    logits = logits if mask is None else logits + mask[:, None, None]
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bhnm,bmhk->bnhk", weights, v).reshape(*q.shape[:2], -1)
