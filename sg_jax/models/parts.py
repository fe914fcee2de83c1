"""What a transformer block is made of: the choices that `config.model` gives, and their checks."""

import dataclasses
from typing import Any

from sg_jax.errors import SettingError, UserError, is_whole, one_of, plain, shown
from sg_jax.models.norms import NORMS

MLPS = ("gelu", "swiglu")
POSITIONS = ("table", "rotary", "both")


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a block; the defaults are those of the published DiT.

    Attributes:
      norm: "layer", or "rms" with a weight per channel; see `norms`.
      mlp: "gelu", or "swiglu"; see `layers.SwiGlu`.
      positions: a "table" added to the patches, "rotary" (see `rotary`), or "both".
      qk_norm: whether queries and keys are normalised in each head, by RMSNorm.
      bias: whether the linear layers of the blocks have biases.
      modulation_rank: of the matrix from the conditioning to scales, shifts and gates; 0: full.
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
            raise SettingError("config.model", "modulation_rank", rank, "must be an int from 0 on.")
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
