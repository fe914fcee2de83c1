"""Layers that refine text tokens before the blocks of a network read them."""

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.models import layers, norms, sizes
from sg_jax.models.attention import TextAttention


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
        self.mlp = layers.SwiGlu(width, sizes.hidden(width, 4.0, "swiglu"), dtype, rngs, bias)

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
