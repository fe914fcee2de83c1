"""What the method needs from a network: the two Protocols that all of `method` is written for.

A network predicts something about noisy images x_t [B, H, W, C] at times t [B] under a condition.
It may compute only some of its tokens, given by the ids [B, K] to keep for each independent choice
of tokens (one per route, or one for masking).

B batch, N tokens of an image, K kept ones, D width, H heads, C channels, throughout.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import jax

Condition = Any  # a tree of arrays [B, ...]; of class labels, int32 [B]
KeepIds = Sequence[jax.Array] | None  # one [B, K] per choice of tokens; None computes every token


class Conditioning(Protocol):
    """The conditions that a network can sample under, such as classes."""

    @property
    def kind(self) -> Hashable:
        """What the conditions are; networks of the same kind can guide each other."""

    @property
    def count(self) -> int | None:
        """How many different conditions there are; None if they cannot be counted."""

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

    @property
    def conditioning(self) -> Conditioning:
        """The conditions that images can be sampled under."""

    @property
    def tokens(self) -> int:
        """N, the number of tokens of an image."""

    @property
    def choices(self) -> int:
        """How many independent choices of tokens it takes; 0 if it always computes all tokens."""

    def branches(
        self,
        x: jax.Array,
        t: jax.Array,
        conditions: Sequence[Condition],
        ids: Sequence[KeepIds],
    ) -> list[jax.Array]:
        """Return several predictions [B, H, W, C] at the same x_t, sharing what work they can.

        Args:
          x: images x_t [B, H, W, C].
          t: times [B].
          conditions: one for all branches, or one for each.
          ids: the kept ids of each branch.
        """
