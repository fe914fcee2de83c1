"""What the method needs from a network: the two Protocols that all of `method` is written against.

A network predicts something about noisy images x_t [B, H, W, C] at times t [B] under a condition.
It may compute only some of its tokens, given by the ids [B, K] to keep for each independent choice
of tokens (one per route, or one for masking).

B batch, N tokens of an image, K kept ones, D width, H heads, C channels, throughout.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import jax

Condition = Any  # a tree of arrays [B, ...]; of class labels, int32 [B]
KeepIds = Sequence[jax.Array] | None  # one [B, K] per choice of tokens; None computes every token


class Branch(NamedTuple):
    """One of several predictions at the same x_t.

    Attributes:
      condition: of each image; branches share work where it is the same object.
      ids: its kept tokens.
      time_noise: keys [B] and amounts [B]: the embedding e of time becomes e + amount std(e) n with
        n ~ N(0, I) from the key, std over the width (time step guidance, arXiv 2407.02687).
      borrow: whether its kept tokens take their values after each route from the first branch,
        instead of running the route's blocks.
    """

    condition: Condition
    ids: KeepIds = None
    time_noise: tuple[jax.Array, jax.Array] | None = None
    borrow: bool = False


class Conditioning(Protocol):
    """The conditions that a network can sample under, such as classes."""

    @property
    def kind(self) -> Hashable:
        """What the conditions are; networks of the same kind can guide each other."""

    @property
    def count(self) -> int | None:
        """How many different conditions there are; None if they cannot be counted."""

    @property
    def drawable(self) -> bool:
        """Whether `another` can draw one."""

    def null(self, condition: Condition) -> Condition:
        """Return the condition that asks for nothing in particular, shaped like `condition`."""

    def another(self, condition: Condition, keys: jax.Array) -> Condition:
        """Return a different condition at random for each image, from its key [B]."""


class Network(Protocol):
    """A network as training and sampling use it; `models.backbone.Backbone` is the usual one."""

    image_size: int  # side of the square images, in pixels (or latents)
    channels: int
    patch: int  # side of a token
    prediction: str  # what it returns: see `prediction`
    masks: bool  # whether tokens that are not kept are masked instead of bypassing blocks
    inner: int  # how many blocks come before its inner head; 0: it has none

    @property
    def conditioning(self) -> Conditioning:
        """The conditions that images can be sampled under."""

    @property
    def tokens(self) -> int:
        """N, the number of tokens of an image."""

    @property
    def choices(self) -> int:
        """How many independent choices of tokens it takes; 0 if it always computes all tokens."""

    @property
    def depth(self) -> int:
        """How many blocks it has."""

    def skipping(self, active: jax.Array) -> "Network":
        """Return this network without the blocks that are not `active`, bool [depth], traced."""

    def branches(
        self,
        x: jax.Array,
        t: jax.Array,
        branches: Sequence[Branch],
        inner: bool = False,
    ) -> Any:
        """Return several predictions at the same x_t, sharing what work they can.

        Args:
          x: images x_t [B, H, W, C].
          t: times [B].
          branches: the predictions to make.
          inner: whether the inner head's output is wanted too.

        Returns:
          A prediction [B, H, W, C] for each branch; with `inner`, a pair of these and the inner
          head's output [B, H, W, C] in the first branch.
        """
