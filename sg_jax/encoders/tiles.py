"""Images too large for memory at once: overlapping tiles, one after another, blended."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

OVERLAP = 4  # neighbouring tiles share a quarter of a side or more


def in_tiles(
    function: Callable[[jax.Array], Any], x: jax.Array, tile: int, up: int = 1, down: int = 1
) -> Any:
    """Return function(x), computed in a loop over tiles of x.

    Where tiles overlap, their results are averaged, with weights that fall towards the edges of a
    tile. This is exact for functions that see one pixel at a time, and close to it for those that
    see a neighbourhood. All tiles have one shape, so that the function is compiled once.

    Args:
      function: maps [B, h, w, C] to [B, h * up / down, w * up / down, C'], or to a tree of such.
      x: [B, H, W, C], both sides multiples of `down`.
      tile: side of a tile in pixels of x, a multiple of `down`.
      up, down: how sides change.
    """
    batch, *sides, channels = x.shape
    sizes = [min(tile, side) for side in sides]
    rows, columns = (_starts(n, size, down) for n, size in zip(sides, sizes, strict=True))
    ramps = [_ramp(size * up // down) for size in sizes]
    weight = jnp.asarray(ramps[0][:, None, None] * ramps[1][:, None])[None]  # [1, h, w, 1]
    totals = [
        _total(starts * up // down, ramp, side * up // down)
        for starts, ramp, side in zip((rows, columns), ramps, sides, strict=True)
    ]
    total = jnp.asarray(totals[0][:, None, None] * totals[1][:, None])[None]  # [1, H, W, 1]
    corners = jnp.asarray([(row, column) for row in rows for column in columns], jnp.int32)
    part = jax.ShapeDtypeStruct((batch, *sizes, channels), x.dtype)

    def step(sums, corner):
        found = function(jax.lax.dynamic_slice(x, (0, *corner, 0), part.shape))
        place = (0, *(corner * up // down), 0)

        def add(sum_, y):
            old = jax.lax.dynamic_slice(sum_, place, y.shape)
            return jax.lax.dynamic_update_slice(sum_, old + y * weight, place)

        return jax.tree.map(add, sums, found), None

    sums = jax.tree.map(
        lambda y: jnp.zeros((batch, *total.shape[1:3], y.shape[-1]), jnp.float32),
        jax.eval_shape(function, part),
    )
    sums, _ = jax.lax.scan(step, sums, corners)
    return jax.tree.map(lambda y: y / total, sums)


def _starts(side: int, size: int, multiple: int) -> np.ndarray:
    """Return where tiles begin along a side; the last one ends with the side."""
    step = max(multiple, (size - size // OVERLAP) // multiple * multiple)
    return np.append(np.arange(0, side - size, step), side - size)


def _ramp(size: int) -> np.ndarray:
    """Return the weights along a tile's side: 1, except for the parts that overlap."""
    places = np.arange(size) + 1
    edge = max(1, size // OVERLAP)
    return np.minimum(1, np.minimum(places, places[::-1]) / (edge + 1)).astype(np.float32)


def _total(starts: np.ndarray, ramp: np.ndarray, side: int) -> np.ndarray:
    """Return the sum of the weights along a side."""
    total = np.zeros(side, np.float32)
    for start in starts:
        total[start : start + len(ramp)] += ramp
    return total
