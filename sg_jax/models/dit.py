"""DiT/SiT: a transformer over image patches with adaLN-Zero conditioning and token routes.

Peebles & Xie (arXiv 2212.09748), Ma et al. (arXiv 2401.08740); routes as in arXiv 2501.04765.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.errors import UserError
from sg_jax.method.routing import Conditioned, Context, vector_of
from sg_jax.models import layers, norms, rotary, sizes
from sg_jax.models.attention import Attention
from sg_jax.models.backbone import Backbone
from sg_jax.models.parts import PUBLISHED, LowRank, Parts, SwiGlu
from sg_jax.models.remat import save
from sg_jax.models.text_layers import TextAttention


class Block(nnx.Module):
    """Attention and MLP, each scaled, shifted and gated by the conditioning (adaLN-Zero).

    With text, attention to it comes between the two; its last layer starts at zero.

    Args:
      width: D.
      heads: H.
      mlp_ratio: hidden width of the MLP over `width`; see `sizes.hidden`.
      dtype: compute type.
      attention: what computes it; see `Attention`.
      rngs: initial weights.
      conditioning: width of the conditioning; 0: the same as the tokens'.
      parts: what the block is made of.
      text: L, the text tokens that it attends to; 0: none.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        dtype: jnp.dtype,
        attention: str,
        rngs: nnx.Rngs,
        conditioning: int = 0,
        parts: Parts = PUBLISHED,
        text: int = 0,
    ):
        self.width, self.mlp_ratio, self.norm, self.text = width, mlp_ratio, parts.norm, text
        bias, qk_norm, rank = parts.bias, parts.qk_norm, parts.modulation_rank
        self.attention = Attention(width, heads, dtype, attention, rngs, bias, qk_norm)
        hidden = sizes.hidden(width, mlp_ratio, parts.mlp)
        mlp = SwiGlu if parts.mlp == "swiglu" else layers.Mlp
        self.mlp = mlp(width, hidden, dtype, rngs, bias)
        inputs = conditioning or width
        self.modulation: Any = (
            LowRank(inputs, rank, 6 * width, dtype, rngs, bias)
            if rank
            else layers.Linear(inputs, 6 * width, dtype, rngs, layers.ZEROS, bias)
        )
        self.attention_norm = norms.weight_of(parts.norm, width)
        self.mlp_norm = norms.weight_of(parts.norm, width)
        if text:
            zeros = layers.ZEROS
            self.text_attention = TextAttention(width, heads, dtype, rngs, bias, qk_norm, zeros)
            self.text_norm = norms.weight_of(parts.norm, width)

    def __call__(
        self, h: jax.Array, found: layers.Moments, c: Conditioned
    ) -> tuple[jax.Array, layers.Moments]:
        """Return tokens [B, N, D] and their moments, given h, its moments and the conditioning."""
        parts = layers.modulation(self.modulation, vector_of(c), 6)  # each [B, D]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        x = norms.modulated(h, found, shift_a, scale_a, self.attention_norm)
        x = self.attention(x, c.rotation if isinstance(c, Context) else None)
        h = save(layers.gated(h, gate_a, x, self.attention.bias))
        if self.text:
            h = save(self._with_text(h, c))
        found = layers.moments(h, self.norm)
        x = self.mlp(norms.modulated(h, found, shift_m, scale_m, self.mlp_norm))
        h = layers.gated(h, gate_m, x, self.mlp.bias)
        return h, layers.moments(h, self.norm)

    def _with_text(self, h: jax.Array, c: Any) -> jax.Array:
        """Return tokens h [B, N, D] after attention to the text of the context."""
        zeros = jnp.zeros((h.shape[0], h.shape[2]))
        x = norms.modulated(h, layers.moments(h, self.norm), zeros, zeros, self.text_norm)
        return h + self.text_attention(x, c.text, c.mask)

    def macs(self, tokens: int, mixing: bool) -> float:
        """Return the multiply-adds of this block on `tokens` tokens of one image.

        4 D^2 K + m D h K + 6 D^2, and 2 K^2 D for attention's products. h are the hidden channels;
        m is 2, or 3 for a gated MLP. With GELU, 4 D^2 K + m D h K is (4 + 2 r) D^2 K, where r is
        the MLP ratio. Modulation of rank R takes 7 D R instead of 6 D^2. Text adds 2 D^2 (K + L),
        and 2 K L D between tokens.

        Args:
          tokens: K.
          mixing: whether the work between tokens counts, here attention's two products.
        """
        d, k, text = self.width, tokens, self.text
        macs = (4 * d + self.mlp.products * self.mlp.hidden.out_features) * d * k
        macs += self.modulation.macs
        if text:
            macs += 2 * d * d * (k + text)
        return float(macs + (2 * k * (k + text) * d if mixing else 0))


class DiT(Backbone):
    """A backbone of transformer blocks.

    Args:
      width: D.
      heads: H.
      mlp_ratio: hidden width of the MLP over `width`.
      dtype: compute type.
      attention: what computes it: "auto", "xla", "pallas" or "cudnn"; see `Attention`.
      norm, mlp, positions, qk_norm, bias, modulation_rank: what blocks are made of; see `Parts`.
      rngs: initial weights.
      text: L, the text tokens that blocks attend to, in a network with text.
      backbone: image_size, channels, num_classes, patch, depth and the other arguments of
        `Backbone`; `sizes.geometry("XL/2")` gives the published depth, width, heads and patch.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        dtype: str = "float32",
        attention: str = "auto",
        norm: str = "layer",
        mlp: str = "gelu",
        positions: str = "table",
        qk_norm: bool = False,
        bias: bool = True,
        modulation_rank: int = 0,
        rngs: nnx.Rngs,
        text: int = 0,
        **backbone,
    ):
        width, heads, mlp_ratio = sizes.checked(width=width, heads=heads, mlp_ratio=mlp_ratio)
        if width % heads:
            raise UserError(
                f"config.model.width={width} must be divisible by config.model.heads={heads}."
            )
        if int(width * mlp_ratio) < 1:
            raise UserError(
                f"config.model.mlp_ratio={mlp_ratio} leaves no hidden channel: it must be at least "
                f"1 / {width}."
            )
        parts = Parts(norm, mlp, positions, qk_norm, bias, modulation_rank)
        parts.check(width, heads)
        self.heads, self.mlp_ratio, self.attention, self.parts = heads, mlp_ratio, attention, parts

        def block(rngs: nnx.Rngs) -> Block:
            numbers = jnp.dtype(dtype)
            return Block(width, heads, mlp_ratio, numbers, attention, rngs, 0, parts, text)

        super().__init__(width=width, block=block, dtype=dtype, norm=norm, rngs=rngs, **backbone)

    def _placed(self, patches: jax.Array) -> jax.Array:
        return patches if self.parts.positions == "rotary" else super()._placed(patches)

    def _context(self, time: jax.Array, condition: Any) -> Conditioned:
        vector = time + condition
        return Context(vector, self._rotation(len(time))) if self.parts.rotates else vector

    def _rotation(self, images: int) -> jax.Array:
        """Return the rotations [B, N, D/H] of the tokens of `images` images."""
        side = self.image_size // self.patch
        table = jnp.asarray(rotary.grid(side, side, self.width // self.heads))
        return jnp.broadcast_to(table[None], (images, *table.shape))
