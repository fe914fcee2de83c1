"""Attention to text, and the layers that refine text tokens before the blocks read them."""

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.models import layers, norms, sizes
from sg_jax.models.attention import QKV, attend, turned
from sg_jax.models.parts import SwiGlu
from sg_jax.models.remat import save


class TextAttention(nnx.Module):
    """Multi-head attention to text tokens; padding is masked.

    Args:
      dim: D.
      heads: H.
      dtype: compute type.
      rngs: initial weights.
      bias: whether the linear layers have biases.
      qk_norm: whether queries and keys are normalised in each head, by RMSNorm.
      init: of the last layer.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        bias: bool = True,
        qk_norm: bool = False,
        init=layers.XAVIER,
    ):
        self.query, self.key, self.value = (
            layers.Linear(dim, dim, dtype, rngs, QKV, bias) for _ in range(3)
        )
        self.out = layers.Linear(dim, dim, dtype, rngs, init, bias, closes=True)
        self.heads = heads
        norm = "rms" if qk_norm else "layer"
        self.query_norm = norms.weight_of(norm, dim // heads)
        self.key_norm = norms.weight_of(norm, dim // heads)

    def __call__(
        self, x: jax.Array, text: jax.Array, mask: jax.Array, rotation: jax.Array | None = None
    ) -> jax.Array:
        """Return what tokens x read from the text, [B, N, D].

        Args:
          x: [B, N, D].
          text: [B, L, D].
          mask: what is added to the logits of each text token [B, L].
          rotation: of queries and keys, if x is the text itself.
        """
        q, k = turned((self.query(x), self.query_norm), (self.key(text), self.key_norm),
                      rotation, self.heads)  # fmt: skip
        q, k, v = (save(y) for y in (q, k, self.value(text)))
        return self.out(attend(q, k, v, self.heads, jax.lax.stop_gradient(mask)))


class TextLayer(nnx.Module):
    """A transformer layer over text tokens: attention among them, then a gated MLP.

    Both have RMSNorm before them. Positions are rotary, along the text.
    """

    def __init__(
        self, width: int, heads: int, dtype: jnp.dtype, rngs: nnx.Rngs, bias: bool, qk_norm: bool
    ):
        self.width = width
        self.attention_norm = norms.weight_of("rms", width)
        self.attention = TextAttention(width, heads, dtype, rngs, bias, qk_norm)
        self.mlp_norm = norms.weight_of("rms", width)
        self.mlp = SwiGlu(width, sizes.hidden(width, 4.0, "swiglu"), dtype, rngs, bias)

    def __call__(self, x: jax.Array, mask: jax.Array, rotation: jax.Array) -> jax.Array:
        """Return text tokens [B, L, D]; see `TextAttention`."""
        y = norms.rms(x, self.attention_norm[...])
        x = x + self.attention(y, y, mask, rotation)
        y = self.mlp(norms.rms(x, self.mlp_norm[...]))
        bias = self.mlp.bias
        return x + (y if bias is None else y + bias.astype(y.dtype)[None, None])

    def macs(self, tokens: int, mixing: bool) -> float:
        """Return the multiply-adds for a text of L tokens: 4 D^2 L + 3 D h L, and 2 L^2 D."""
        d, n = self.width, tokens
        linear = (4 * d + self.mlp.products * self.mlp.hidden.out_features) * d * n
        return float(linear + (2 * n * n * d if mixing else 0))
