"""Routing: some blocks see only the kept tokens, and the others bypass them.

A route r_{i->j} (0-based, both ends included) lets blocks i..j see only the kept tokens; after
block j they are written back to their places, and the bypassed tokens still have their values from
before block i (Krause et al., arXiv 2601.01608, Eq. 5; TREAD, arXiv 2501.04765). Nothing here
depends on what a block computes.

Several predictions of the same images are branches, side by side in one batch.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sg_jax.errors import UserError, is_whole, plain, shown
from sg_jax.method import tokens
from sg_jax.method.network import KeepIds, Network

Route = tuple[int, int]
Blocks = Callable[[Any, jax.Array, Any], jax.Array]  # (weights, h [B, N, D], c) -> h


class Context(NamedTuple):
    """What blocks read besides their tokens, where one vector per image is not enough.

    Attributes:
      vector: [B, D].
      rotation: of each token, [B, N, R]; it goes through routes with its token.
      text: text tokens [B, L, D].
      mask: what is added to the logits of each text token [B, L].
    """

    vector: jax.Array
    rotation: jax.Array | None = None
    text: jax.Array | None = None
    mask: jax.Array | None = None


Conditioned = jax.Array | Context  # a vector [B, D] alone, or with more


def vector_of(c: Conditioned) -> jax.Array:
    """Return the vector [B, D] that conditions the blocks."""
    return c.vector if isinstance(c, Context) else c


class Segment(NamedTuple):
    """Blocks start..stop-1; `route` is the number of their route, or None between routes."""

    start: int
    stop: int
    route: int | None


def segments(depth: int, routes: Sequence[Route], inner: int = 0) -> tuple[Segment, ...]:
    """Cut `depth` blocks into one segment per route and one per stretch between routes.

    There is also a cut after the first `inner` blocks; inside a route both sides have its number.

    >>> segments(6, [(1, 4)])
    (Segment(0, 1, None), Segment(1, 5, 0), Segment(5, 6, None))
    """
    cuts: list[Segment] = []
    done = 0
    routes = plain(routes)
    for number, route in enumerate(routes if isinstance(routes, tuple) else (routes,)):
        pair = isinstance(route, tuple) and len(route) == 2 and all(map(is_whole, route))
        if not pair:
            raise UserError(
                f"config.model.routes: {shown(route)} must be a pair (start, end) of ints, "
                "as in ((1, 4),)."
            )
        start, end = route
        if not 0 <= start <= end < depth:
            raise UserError(
                f"config.model.routes: route={shown(route)} must satisfy "
                f"0 <= start <= end < depth={depth} (blocks start..end, both included)."
            )
        if start < done:
            raise UserError(
                f"config.model.routes: route={shown(route)} begins before block {done}, the "
                "first one after the route before it. Routes must be in order and not overlap."
            )
        if start > done:
            cuts.append(Segment(done, start, None))
        cuts.append(Segment(start, end + 1, number))
        done = end + 1
    if done < depth:
        cuts.append(Segment(done, depth, None))
    for place, whole in enumerate(cuts):
        if whole.start < inner < whole.stop:
            cuts[place : place + 1] = [whole._replace(stop=inner), whole._replace(start=inner)]
            break
    return tuple(cuts)


def draw_ids(model: Network, keys: jax.Array, gamma: float, layout: str = "uniform") -> KeepIds:
    """Draw the kept ids of one prediction at sparsity rate gamma.

    Args:
      model: the network, whose `choices` is the number of choices of tokens that it takes.
      keys: one key per image [B].
      gamma: share of the tokens that are not computed; at 1 the routed blocks are skipped.
      layout: one of `tokens.LAYOUTS`.

    Returns:
      One [B, K] per choice, or None to keep every token.
    """
    keep = tokens.keep_count(model.tokens, gamma)
    if model.masks and keep == 0:
        raise UserError(
            f"gamma={gamma} would mask all {model.tokens} tokens; masking needs at least one."
        )
    if keep == model.tokens or not model.choices:
        return None
    fold, draw = jax.vmap(jax.random.fold_in, in_axes=(0, None)), tokens.LAYOUTS[layout]
    return [draw(fold(keys, r), model.tokens, keep) for r in range(model.choices)]


def run_branches(
    blocks: Blocks,
    pieces: Sequence[tuple[Segment, Any]],
    h: jax.Array,
    c: Conditioned,
    branches: Sequence[KeepIds],
    shared: bool = False,
    borrow: Sequence[bool] = (),
    visit: Callable[[int, jax.Array], None] | None = None,
) -> jax.Array:
    """Run every branch through all segments of a network.

    A branch is one prediction per image, given by the tokens it keeps. The batch interleaves them
    (image 0's branches, then image 1's, ...), so a batch sharded over devices never moves between
    them.

    Args:
      blocks: runs the blocks of one segment on any number of tokens.
      pieces: each segment with the weights of its blocks.
      h: tokens [G B, N, D] for G branches, or [B, N, D] if `shared`.
      c: conditioning [G B, D], or [B, D] if `shared`; or a `Context`.
      branches: the kept ids of each of the G branches.
      shared: whether the branches are still equal; then the part before the first route at which
        they differ is computed once.
      borrow: for each branch, whether its kept tokens take their values after a route from the
        first branch, instead of running the route's blocks; none by default.
      visit: called after each segment with the number of blocks done and the first branch's tokens
        [B, N, D] at that point.

    Returns:
      Tokens [G B, N, D].
    """
    count = len(branches)
    own = [g for g in range(count) if not (borrow and borrow[g])]
    for segment, weights in pieces:
        route = segment.route
        ids = [None if route is None or b is None else b[route] for b in branches]
        if shared and any(i is not None for i in ids):
            h, c, shared = repeat(h, count), repeat(c, count), False
        if route is None or shared or len(own) == count:
            h = _run_segment(blocks, weights, h, c, ids)
        else:
            before, cs = split(h, count), split(c, count)
            some = interleave([before[g] for g in own]), interleave([cs[g] for g in own])
            ran = _run_segment(blocks, weights, *some, [ids[g] for g in own])
            after = dict(zip(own, split(ran, len(own)), strict=True))
            h = interleave(
                [
                    after[g] if g in after else lend(before[g], after[0], ids[g])
                    for g in range(count)
                ]
            )
        if visit:
            visit(segment.stop, h if shared else split(h, count)[0])
    return repeat(h, count) if shared else h


def _run_segment(blocks, weights, h, c, ids: list[jax.Array | None]) -> jax.Array:
    """Run one segment; branches that keep the same number of tokens run as one batch.

    Others run one after another: packing them into one sequence was no faster on CPU, and slower
    by the TPU compiler's estimate (tests/benchmarks/packed.py).
    """
    if all(i is None for i in ids):
        return blocks(weights, h, c)
    if len({None if i is None else i.shape for i in ids}) == 1:
        return run_kept(blocks, weights, h, c, interleave([i for i in ids if i is not None]))
    parts = zip(split(h, len(ids)), split(c, len(ids)), ids, strict=True)
    return interleave([run_kept(blocks, weights, *part) for part in parts])


def run_kept(
    blocks: Blocks, weights: Any, h: jax.Array, c: Conditioned, ids: jax.Array | None
) -> jax.Array:
    """Gather the kept tokens ids [B, K] of h [B, N, D], run blocks on them, scatter (Eq. 5).

    The tokens' rotation is gathered with them, so kept tokens keep their own positions.
    """
    if ids is None:
        return blocks(weights, h, c)
    if ids.shape[1] == 0:  # no token is kept, so the route is skipped
        return h
    if isinstance(c, Context) and c.rotation is not None:
        c = c._replace(rotation=tokens.gather(c.rotation, ids))  # [B, K, R]
    kept = blocks(weights, tokens.gather(h, ids), c)  # [B, K, D]
    return tokens.scatter(h, kept, ids)  # [B, N, D]


def lend(h: jax.Array, first: jax.Array, ids: jax.Array | None) -> jax.Array:
    """Return h [B, N, D] with the kept tokens ids [B, K] of `first`; all of them if ids is None."""
    return first if ids is None else tokens.scatter(h, tokens.gather(first, ids), ids)


def interleave(parts: Sequence[Any]) -> Any:
    """Merge G arrays [B, ...] into one [B G, ...] with an image's branches side by side.

    Trees of arrays are merged array by array.
    """

    def merge(*arrays):
        stacked = jnp.stack(arrays, axis=1)  # [B, G, ...]
        return stacked.reshape(stacked.shape[0] * stacked.shape[1], *stacked.shape[2:])

    return jax.tree.map(merge, *parts)


def split(x: Any, count: int) -> list[Any]:
    """Undo `interleave`: [B G, ...] into G arrays [B, ...]."""
    whole = jax.tree.map(lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]), x)
    return [jax.tree.map(operator.itemgetter((slice(None), g)), whole) for g in range(count)]


def repeat(x: Any, count: int) -> Any:
    """Return what `interleave` makes of `count` equal arrays, or trees of arrays."""
    return jax.tree.map(lambda x: jnp.repeat(x, count, 0), x)
