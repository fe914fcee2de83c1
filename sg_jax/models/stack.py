"""Stacks of blocks with token routes: the sparse part of every backbone.

A route r_{i->j} (0-based, both ends included) lets blocks i..j see only the kept tokens; after
block j they are written back at their places, and the bypassed tokens are what they were before
block i (Krause et al., arXiv 2601.01608, Eq. 5; TREAD, arXiv 2501.04765). A block is any module
`block(h [B, N, D], moments, c [B, D]) -> (h, moments)`, where moments are what the norm of a block
needs to know of h: nothing here knows what it computes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.errors import UserError, nearest
from sg_jax.method import tokens
from sg_jax.models import layers, remat
from sg_jax.parallel import sharding

Route = tuple[int, int]
KeepIds = Sequence[jax.Array] | None  # one [B, K] per route; None computes every token

REMAT = ("none", "selective", "full")  # keep every activation, what blocks `save`, or only tokens


class Segment(NamedTuple):
    """Blocks start..stop-1; `route` is the number of their route, or None between routes."""

    start: int
    stop: int
    route: int | None


def segments(depth: int, routes: Sequence[Route]) -> tuple[Segment, ...]:
    """Cut `depth` blocks into one segment per route and one per stretch between routes.

    >>> segments(6, [(1, 4)])
    (Segment(0, 1, None), Segment(1, 5, 0), Segment(5, 6, None))
    """
    cuts, done = [], 0
    for number, route in enumerate(routes):
        pair = isinstance(route, tuple | list) and len(route) == 2
        if not pair or not all(isinstance(block, int) for block in route):
            raise UserError(f"config.model.routes: {route!r} must be a pair (start, end) of ints.")
        start, end = route
        if not 0 <= start <= end < depth:
            raise UserError(
                f"config.model.routes: route=({start}, {end}) must satisfy "
                f"0 <= start <= end < depth={depth} (blocks start..end, both included)."
            )
        if start < done:
            raise UserError(
                f"config.model.routes: route=({start}, {end}) begins before block {done}, where "
                f"the route before it ends. Routes must be in order and not overlap."
            )
        if start > done:
            cuts.append(Segment(done, start, None))
        cuts.append(Segment(start, end + 1, number))
        done = end + 1
    if done < depth:
        cuts.append(Segment(done, depth, None))
    return tuple(cuts)


class RoutedStack(nnx.Module):
    """`depth` blocks, stacked and scanned, one stack per segment.

    One stack per segment because slicing one large stack inside the step copies its weights. The
    dense model uses the same segments, so a checkpoint has one layout whatever gamma is.
    """

    def __init__(
        self,
        block: Callable[[nnx.Rngs], nnx.Module],
        depth: int,
        routes: Sequence[Route],
        remat: str,
        rngs: nnx.Rngs,
    ):
        if remat not in REMAT:
            raise UserError(
                f"config.model.remat={remat!r} must be one of {REMAT}." + nearest(remat, REMAT)
            )
        self.segments = segments(depth, routes)
        self.remat, self.chunk = remat, 0  # see `Backbone.in_chunks`
        keys = jax.random.split(rngs.params(), depth)
        build = jax.vmap(lambda key: block(nnx.Rngs(key)))
        self.stacks = nnx.List([build(keys[s.start : s.stop]) for s in self.segments])

    def __call__(
        self, h: jax.Array, c: jax.Array, branches: Sequence[KeepIds], shared: bool = False
    ) -> jax.Array:
        """Run every branch through the blocks.

        A branch is one prediction per image, given by the tokens it keeps. The batch interleaves
        them (image 0's branches, then image 1's ...), so that a batch sharded over devices is
        never moved between them.

        Args:
          h: tokens [G B, N, D] for G branches, or [B, N, D] if `shared`.
          c: conditioning [G B, D], or [B, D] if `shared`.
          branches: for each of the G branches its kept ids, one [B, K] per route, or None.
          shared: the branches are still equal; what comes before the first route at which they
            differ is then computed once.

        Returns:
          Tokens [G B, N, D].
        """
        count = len(branches)
        for segment, stack in zip(self.segments, self.stacks, strict=True):
            ids = [
                None if b is None or segment.route is None else b[segment.route] for b in branches
            ]
            if shared and any(i is not None for i in ids):
                h, c, shared = jnp.repeat(h, count, 0), jnp.repeat(c, count, 0), False
            h = self._segment(stack, h, c, ids)
        return jnp.repeat(h, count, 0) if shared else h

    def _segment(self, stack, h, c, ids):
        """Run one segment; branches that keep equally many tokens run as one batch.

        Others run one after the other: packed into one sequence they were no faster on CPU and
        slower by the TPU compiler's estimate (tests/benchmarks/packed.py).
        """
        if all(i is None for i in ids):
            return self._blocks(stack, h, c)
        if len({None if i is None else i.shape for i in ids}) == 1:
            return self._routed(stack, h, c, interleave(ids))
        parts = zip(split(h, len(ids)), split(c, len(ids)), ids, strict=True)
        return interleave([self._routed(stack, *part) for part in parts])

    def _routed(self, stack, h, c, ids):
        if ids is None:
            return self._blocks(stack, h, c)
        if ids.shape[1] == 0:  # nothing kept: the route is skipped altogether
            return h
        kept = self._blocks(stack, tokens.gather(h, ids), c)  # [B, K, D]
        return tokens.scatter(h, kept, ids)  # [B, N, D]

    def _blocks(self, stack, h, c):
        def run(block, carry, c):
            return block(*carry, c)

        def scan(run, h, c, stack):
            start = h, layers.moments(h)
            if self.remat == "selective":
                return remat.scan(run, start, c, stack)
            if self.remat == "none" and sharding.platform() == "cpu":
                return remat.unrolled_scan(run, start, c, stack)
            if self.remat == "full":
                run = jax.checkpoint(run, prevent_cse=False)
            return remat.plain_scan(run, start, c, stack)

        return sharding.scan_blocks(run, scan, h, c, stack, self.chunk)


def interleave(parts: Sequence[jax.Array]) -> jax.Array:
    """Merge G arrays [B, ...] into one [B G, ...] with an image's branches side by side."""
    stacked = jnp.stack(parts, axis=1)  # [B, G, ...]
    return stacked.reshape(stacked.shape[0] * stacked.shape[1], *stacked.shape[2:])


def split(x: jax.Array, count: int) -> list[jax.Array]:
    """Undo `interleave`: [B G, ...] into G arrays [B, ...]."""
    x = x.reshape(x.shape[0] // count, count, *x.shape[1:])  # [B, G, ...]
    return [x[:, g] for g in range(count)]
