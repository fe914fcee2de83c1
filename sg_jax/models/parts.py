"""What a transformer block is made of: the choices of `config.model`, and layers for them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.errors import SettingError, UserError, is_whole, one_of, plain, shown
from sg_jax.models import gradients, layers
from sg_jax.models.norms import NORMS
from sg_jax.models.remat import save

MLPS = ("gelu", "swiglu")
POSITIONS = ("table", "rotary", "both")


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a block; the defaults are those of the published DiT.

    Attributes:
      norm: "layer", or "rms" with a weight per channel; see `norms`.
      mlp: "gelu", or "swiglu"; see `SwiGlu`.
      positions: a "table" added to the patches, "rotary" (see `rotary`), or "both".
      qk_norm: whether queries and keys are normalised in each head, by RMSNorm.
      bias: whether the linear layers of the blocks have biases.
      modulation_rank: rank of the matrix from conditioning to scales, shifts, gates; 0: full.
    """

    norm: str = "layer"
    mlp: str = "gelu"
    positions: str = "table"
    qk_norm: bool = False
    bias: bool = True
    modulation_rank: int = 0

    def __post_init__(self) -> None:
        for name, options in {"norm": NORMS, "mlp": MLPS, "positions": POSITIONS}.items():
            one_of(f"config.model.{name}", getattr(self, name), options)
        for name in ("qk_norm", "bias"):
            value: Any = plain(getattr(self, name))
            if not isinstance(value, bool):
                raise UserError(f"config.model.{name}={shown(value)} must be True or False.")
            object.__setattr__(self, name, value)
        rank = plain(self.modulation_rank)
        if not is_whole(rank) or rank < 0:
            raise SettingError(
                "config.model", "modulation_rank", rank, "must be an int of at least 0."
            )
        object.__setattr__(self, "modulation_rank", rank)

    @property
    def rotates(self) -> bool:
        """Whether queries and keys are turned by their positions."""
        return self.positions != "table"

    def check(self, width: int, heads: int) -> None:
        """Raise unless a network of this width and number of heads can have these parts."""
        if self.rotates and width // heads % 4:
            raise UserError(
                f"config.model.positions={self.positions!r} needs heads of a multiple of 4 "
                f"channels (sine and cosine of row and column), but config.model.width={width} and "
                f"config.model.heads={heads} make heads of {width // heads}."
            )
        if self.modulation_rank > width:
            raise UserError(
                f"config.model.modulation_rank={self.modulation_rank} must be at most "
                f"config.model.width={width}; 0 is the full matrix."
            )


PUBLISHED = Parts()  # those of DiT


class LowRank(nnx.Module):
    """Two linear layers with `rank` channels between them; the second one starts at zero."""

    def __init__(
        self, din: int, rank: int, dout: int, dtype: jnp.dtype, rngs: nnx.Rngs, bias: bool
    ):
        self.in_features, self.out_features, self.rank = din, dout, rank
        self.down = layers.Linear(din, rank, dtype, rngs, bias=False)
        self.up = layers.Linear(rank, dout, dtype, rngs, layers.ZEROS, bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.up(self.down(x))

    @property
    def macs(self) -> int:
        """Multiply-adds for one vector."""
        return self.down.macs + self.up.macs


class SwiGlu(layers.Mlp):
    """An MLP whose hidden channels are gated: silu(x G) * (x W) (arXiv 2002.05202)."""

    products = 3

    def __init__(self, dim: int, hidden: int, dtype: jnp.dtype, rngs: nnx.Rngs, bias: bool = True):
        super().__init__(dim, hidden, dtype, rngs, bias)
        self.gate = layers.Linear(dim, hidden, dtype, rngs, bias=bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the last layer's product [B, N, D] of tokens x [B, N, D]."""
        inside = gradients.swiglu(save(self.gate(x)), save(self.hidden(x)))
        return layers.product(inside, self.out.kernel[...])
