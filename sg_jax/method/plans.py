"""What a compiled sampling program depends on, and the numbers that it reads at each step."""

import dataclasses
from typing import Any, NamedTuple


class Values(NamedTuple):
    """The numbers of each step that a compiled program reads: rows of an array [rows, steps]."""

    weak: Any  # omega of each term
    skip: Any
    inner: Any
    fresh: Any  # 1 where differences are computed, 0 where the last ones are reused
    noise: Any  # s and alpha of TSG
    power: Any
    parallel: Any  # of APG
    norm: Any
    momentum: Any
    seed: Any  # of the blocks that S2 draws


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Steps first..stop-1, which all run the same computation.

    Attributes:
      first, stop: the steps.
      gammas: the rates of the strong and the weak prediction, or of the strong one alone; empty
        where the velocity is 0.
      others: which act too: "skip", the prediction without some blocks; "inner", the inner head.
    """

    first: int
    stop: int
    gammas: tuple[float, ...]
    others: tuple[str, ...] = ()

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms that act: "weak", "skip", "inner"."""
        return (("weak",) if len(self.gammas) == 2 else ()) + self.others

    @property
    def apart(self) -> tuple[str, ...]:
        """The terms that need a computation of their own: all but the inner head."""
        return tuple(name for name in self.terms if name != "inner")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a compiled program depends on: the stretches of a run, and how predictions differ."""

    stretches: tuple[Stretch, ...]
    weak_label: str = "same"
    two_networks: bool = False
    ids: str = "uniform"
    channels: int = 0
    skip: tuple[int, ...] | int = 0
    noisy: bool = False
    reuses: bool = False
    projects: bool = False
    momentum: bool = False
    rescales: bool = False
