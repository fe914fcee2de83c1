"""All pairs of the samples of two sets, block by block, in float32 on this host's devices.

Each device has its own part of a block of the first set, and the whole of a block of the second.
Only what is kept of each row of products leaves the device, so no matrix of all pairs is held.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sg_jax.evaluation.rows import Rows

ROWS, COLUMNS = 8192, 4096  # samples per block of the first set, a multiple of the second's
TINY = 1e-30  # above what float32 loses by rounding to 0, for samples of about unit size
HUGE = 1e37  # below the largest float32
PARTS = 64  # partial sums of each row of cubes, so that few float32 numbers are added up


class Centred:
    """Samples around the mean of a set, in float32; those of all sets have about unit size.

    Distances and products keep more digits near the origin. The centre has float32 numbers and the
    scale is a power of 2, so each result differs from the exact one by up to half a unit in its
    last digit.

    Attributes:
      centre: float64 [F].
      scale: the factor that samples are multiplied by.
    """

    def __init__(self, rows: Rows, *others: Rows) -> None:
        self.centre = rows.mean.astype(np.float32).astype(np.float64)
        firsts = (self.double(next(each.blocks())) for each in (rows, *others))
        size = max(np.sqrt(np.mean(first**2)) for first in firsts)
        self.scale = 2.0 ** -np.round(np.log2(size)) if size else 1.0

    def double(self, block: np.ndarray) -> np.ndarray:
        """Return samples [B, F] around the centre in float64, not scaled."""
        return block.astype(np.float64) - self.centre[None]

    def single(self, block: np.ndarray, count: int) -> np.ndarray:
        """Return samples around the centre in float32, scaled, [count, F] with zeros at the end."""
        kind = np.float64 if block.itemsize > 4 else np.float32
        padded = np.zeros((count, block.shape[1]), np.float32)
        with np.errstate(over="ignore"):
            padded[: len(block)] = (block.astype(kind) - self.centre[None].astype(kind)) * kind(
                self.scale
            )
        return padded


def bound(width: int) -> float:
    """Return c such that float32 distances err by at most c (|x|^2 + |y|^2).

    A sum of F products in any order errs by up to F units, of 2^-24, of the sum of their sizes,
    and |x y| <= (|x|^2 + |y|^2) / 2. So do the two squares; the rest is for single roundings.
    """
    return (width + 32) * 2.0**-23


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)  # [B, C]


def nearest(
    values: jax.Array,
    ids: jax.Array,
    own: jax.Array,
    points: jax.Array,
    others: jax.Array,
    start: jax.Array,
    stop: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return the smallest of `values` and of lower bounds of squared distances, with their ids.

    Args:
      values: the smallest so far, ascending, [B, K].
      ids: the samples that they belong to, int [B, K].
      own: the id of each point itself, which is left out, int [B].
      points: [B, F].
      others: [C, F], with the ids start, start + 1, ...
      start, stop: ids from `stop` on stand for no sample.
    """
    c = bound(points.shape[1])
    lower = (1 - c) * jnp.sum(others**2, axis=1)[None, :] - 2 * _product(points, others)
    lower += (1 - c) * jnp.sum(points**2, axis=1)[:, None] - TINY
    lower = jnp.where(jnp.isnan(lower), -jnp.inf, lower)  # too large for float32: not known
    there = start + jnp.arange(len(others), dtype=jnp.int32)
    left_out = (there[None, :] == own[:, None]) | (there >= stop)[None, :]
    wanted = ids.shape[1]
    best, at = jax.lax.top_k(-jnp.where(left_out, jnp.inf, lower), min(wanted, len(others)))
    values = jnp.concatenate([values, -best], axis=1)
    ids = jnp.concatenate([ids, start + at], axis=1)
    best, at = jax.lax.top_k(-values, wanted)
    return -best, jnp.take_along_axis(ids, at, axis=1)


def margins(least: jax.Array, points: jax.Array, others: jax.Array, reach: jax.Array) -> jax.Array:
    """Return lower and upper bounds on how far points are from the nearest ball.

    Args:
      least: the smallest bounds so far, [B, 2].
      points: [B, F].
      others: the centres of the balls, [C, F].
      reach: their squared radii, [C]; -infinity for no ball, infinity for one that is too large.

    Returns:
      Bounds of the least squared distance minus squared radius, [B, 2].
    """
    c = bound(points.shape[1])
    product = 2 * _product(points, others)
    points, others = (jnp.sum(x**2, axis=1) for x in (points, others))
    found = []
    # Infinity stands for some larger radius: it neither keeps points out nor lets all in.
    for sign, squared in ((-1, reach), (1, jnp.minimum(reach, HUGE))):
        offset = (1 + sign * c) * others - (1 - sign * c) * squared + sign * TINY  # [C]
        found.append(jnp.min(offset[None, :] - product, axis=1) + (1 + sign * c) * points)
    return jnp.minimum(least, jnp.stack(found, axis=1))


def cubes(own: jax.Array, points: jax.Array, others: jax.Array, start: jax.Array) -> jax.Array:
    """Return sums over others of (point · other / F)^3, without the point itself, in parts [B, S].

    Args:
      own, points, others, start: as for `nearest`.
    """
    there = start + jnp.arange(len(others), dtype=jnp.int32)
    product = _product(points, others) / points.shape[1]
    product = jnp.where(there[None, :] == own[:, None], 0.0, product)
    parts = len(others) // PARTS if len(others) % PARTS == 0 else 1
    return jnp.sum((product**3).reshape(len(points), -1, parts), axis=2)


@functools.cache
def _mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), ("rows",))


@functools.cache
def _on_devices(program: Callable, split: tuple[bool, ...]) -> Callable:
    """Return a program whose arguments are `split` by rows or whole, and whose results are split.

    The devices exchange nothing.
    """
    specs = tuple(P("rows") if each else P() for each in split)
    return jax.jit(jax.shard_map(program, mesh=_mesh(), in_specs=specs, out_specs=P("rows")))


def run(program: Callable, rows: tuple[Any, ...], whole: tuple[Any, ...]) -> Any:
    """Return a program's results for arguments that are split over devices and for whole ones."""
    split = (True,) * len(rows) + (False,) * len(whole)
    return _on_devices(program, split)(*(spread(x) for x in rows), *whole)


def spread(tree: Any) -> Any:
    """Return arrays [B, ...] with a part of their rows on each device."""
    return jax.device_put(tree, NamedSharding(_mesh(), P("rows")))


def blocks(rows: Rows, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the samples of a set in blocks [size, F], and the number of samples before each."""
    start = 0
    for block in rows.blocks(size):
        yield start, block
        start += len(block)


def row_count(samples: int) -> int:
    """Return the rows of a block for a number of samples: a multiple of the number of devices."""
    devices = _mesh().size
    return -(-min(ROWS, samples) // devices) * devices
