"""A stack of blocks, cut into segments by its routes and run one block after another.

A block is any module `block(h [B, N, D], moments, c) -> (h, moments)`, where moments are the mean
and the inverse deviation that the next block's norm needs, and c is a vector [B, D] or a `Context`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from sg_jax.errors import one_of
from sg_jax.method import routing
from sg_jax.method.network import KeepIds
from sg_jax.method.routing import Conditioned, Route
from sg_jax.models import layers, remat
from sg_jax.parallel import blocks, sharding

REMAT = ("none", "selective", "full")  # keep all activations, what blocks `save`, or only tokens


class RoutedStack(nnx.Module):
    """`depth` blocks, stacked and scanned, one stack per segment.

    Each segment has its own stack, since slicing one large stack inside the step copies weights.
    The dense model uses the same segments, so a checkpoint has one layout whatever gamma is.

    Args:
      block: makes one block from initial random keys.
      depth: number of blocks.
      routes: pairs (start, end) of blocks, 0-based, both included.
      remat: what the backward pass recomputes, one of `REMAT`.
      rngs: initial weights.
      inner: number of blocks after which a segment also ends; 0: no such cut.
      norm: of the blocks; see `layers.moments`.
    """

    def __init__(
        self,
        block: Callable[[nnx.Rngs], nnx.Module],
        depth: int,
        routes: Sequence[Route],
        remat: str,
        rngs: nnx.Rngs,
        inner: int = 0,
        norm: str = "layer",
    ):
        one_of("config.model.remat", remat, REMAT)
        self.segments = routing.segments(depth, routes, inner)
        self.remat, self.chunk = remat, 0  # see `Backbone.in_chunks`
        self.norm = norm
        self.active: Any = None  # bool [depth], of blocks that run; None: all (`Backbone.skipping`)
        keys = jax.random.split(rngs.params(), depth)
        build = jax.vmap(lambda key: block(layers.Keys(key)))
        stacks = [sharding.stacked(build(keys[s.start : s.stop])) for s in self.segments]
        self.stacks = nnx.List(stacks)

    def __call__(
        self,
        h: jax.Array,
        c: Conditioned,
        branches: Sequence[KeepIds],
        shared: bool = False,
        borrow: Sequence[bool] = (),
        visit: Callable[[int, jax.Array], None] | None = None,
    ) -> jax.Array:
        """Return tokens [G B, N, D] of every branch; see `routing.run_branches`."""
        stacks: list[Any] = list(self.stacks)
        if self.active is not None:
            cuts = [self.active[s.start : s.stop] for s in self.segments]
            stacks = list(zip(stacks, cuts, strict=True))
        pieces = list(zip(self.segments, stacks, strict=True))
        return routing.run_branches(self._blocks, pieces, h, c, branches, shared, borrow, visit)

    def _blocks(self, stack, h, c):
        """Run the blocks of one segment on tokens h [B, K, D] with conditioning c."""

        def run(block, carry, c):
            if self.active is None:
                return block(*carry, c)
            block, active = block
            return jax.lax.cond(active, lambda: block(*carry, c), lambda: carry)

        def scan(run, h, c, stack):
            start = h, layers.moments(h, self.norm)
            if self.remat == "selective":
                return remat.scan(run, start, c, stack)
            if self.remat == "none" and sharding.platform() in ("cpu", "gpu"):
                return remat.unrolled_scan(run, start, c, stack)
            if self.remat == "full":
                run = jax.checkpoint(run, prevent_cse=False)
            return remat.plain_scan(run, start, c, stack)

        return blocks.scan_blocks(run, scan, h, c, stack, self.chunk)
