"""DiT/SiT: a transformer over image patches with adaLN-Zero conditioning and token routes.

Peebles & Xie (arXiv 2212.09748), Ma et al. (arXiv 2401.08740); routes as in arXiv 2501.04765.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.errors import UserError
from sg_jax.models import layers, sizes
from sg_jax.models.attention import Attention
from sg_jax.models.backbone import Backbone
from sg_jax.models.remat import save


class Block(nnx.Module):
    """Attention and MLP, each scaled, shifted and gated by the conditioning (adaLN-Zero)."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        dtype: jnp.dtype,
        attention: str,
        rngs: nnx.Rngs,
        conditioning: int = 0,  # its width; 0: the tokens' width
    ):
        self.width, self.mlp_ratio = width, mlp_ratio
        self.attention = Attention(width, heads, dtype, attention, rngs)
        self.mlp = layers.Mlp(width, int(width * mlp_ratio), dtype, rngs)
        self.modulation = layers.Linear(conditioning or width, 6 * width, dtype, rngs, layers.ZEROS)

    def __call__(
        self, h: jax.Array, found: layers.Moments, c: jax.Array
    ) -> tuple[jax.Array, layers.Moments]:
        """Return tokens [B, N, D] and their moments, given h, its moments and c [B, D]."""
        parts = layers.modulation(self.modulation, c, 6)  # each [B, D]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        x = self.attention(layers.adaptive_norm(h, found, shift_a, scale_a))
        h = save(layers.gated(h, gate_a, x, self.attention.bias))
        x = self.mlp(layers.adaptive_norm(h, layers.moments(h), shift_m, scale_m))
        h = layers.gated(h, gate_m, x, self.mlp.bias)
        return h, layers.moments(h)

    def macs(self, tokens: int, mixing: bool) -> float:
        """Return the multiply-adds of this block on `tokens` tokens of one image.

        (4 + 2 r) D^2 K + 6 D^2, and 2 K^2 D for attention's products; r is the MLP ratio.

        Args:
          tokens: K.
          mixing: whether the work between tokens counts, here attention's two products.
        """
        d, k = self.width, tokens
        linear = (4 + 2 * self.mlp_ratio) * d * d * k + self.modulation.in_features * 6 * d
        return linear + (2 * k * k * d if mixing else 0)


class DiT(Backbone):
    """A backbone of transformer blocks.

    Args:
      width: D.
      heads: H.
      mlp_ratio: hidden width of the MLP over `width`.
      dtype: compute type.
      attention: what computes it: "auto", "xla" or "pallas"; see `Attention`.
      rngs: initial weights.
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
        rngs: nnx.Rngs,
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
        self.heads, self.mlp_ratio, self.attention = heads, mlp_ratio, attention

        def block(rngs: nnx.Rngs) -> Block:
            return Block(width, heads, mlp_ratio, jnp.dtype(dtype), attention, rngs)

        super().__init__(width=width, block=block, dtype=dtype, rngs=rngs, **backbone)
