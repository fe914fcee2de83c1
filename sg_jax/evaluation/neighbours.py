"""Precision and recall, by the nearest neighbours of each sample.

All decisions are those that float64 differences give, even for duplicates and ties. Products of
whole blocks decide what they can, given a bound on their rounding errors; only pairs within that
bound are subtracted. Large sets are first looked at in float32 on the devices.
"""

import functools
from typing import Any

import numpy as np

from sg_jax.errors import UserError, is_whole
from sg_jax.evaluation import pairs
from sg_jax.evaluation.rows import BLOCK, Rows, check_widths

NEIGHBOURS = 3  # k of precision and recall
SPARE = 5  # further candidates for the k nearest neighbours, found in float32
DEVICE_PAIRS = 2**24  # with more pairs, the devices do most of the work
POINTS = 2048  # samples whose distances the host holds at a time: with BLOCK others, 64 MiB
SUBTRACTED = 4096  # pairs that are subtracted at a time


class Manifold:
    """Features with a ball around each that reaches its k-th nearest neighbour among them.

    The radii are computed once, when first needed, however many sets are compared.

    Args:
      features: [N, F], an array or `Rows`; for files, only blocks are held in memory.
      k: which nearest neighbour sets the radius, not counting the point itself.
      name: the name of the features in error messages.

    Raises:
      UserError: a wrong shape, NaN or infinity, k < 1, or fewer than k + 1 samples.
    """

    def __init__(self, features: Any, k: int = NEIGHBOURS, name: str = "features") -> None:
        if not is_whole(k) or k < 1:
            raise UserError(f"k={k!r} must be at least 1, the nearest neighbour.")
        self.points, self.k = Rows.of(features, name, at_least=k + 1), k

    @functools.cached_property
    def _centred(self) -> pairs.Centred:
        return pairs.Centred(self.points)

    @functools.cached_property
    def radii(self) -> np.ndarray:
        """The squared distance of each sample to its k-th nearest other one, float64 [N]."""
        count = len(self.points)
        if count**2 > DEVICE_PAIRS:
            return np.concatenate(
                [self._radii_by_devices(*each) for each in pairs.blocks(self.points, pairs.ROWS)]
            )
        return np.concatenate(
            [
                self._radii(block, start + np.arange(len(block)), np.full(len(block), np.inf))
                for start, block in pairs.blocks(self.points, POINTS)
            ]
        )

    def inside(self, points: Any) -> np.ndarray:
        """Return which of the points [M, F] lie in at least one ball, bool [M]."""
        rows = Rows.of(points, "points")
        check_widths(self.points.width, rows.width, (self.points.name, rows.name))
        large = len(rows) * len(self.points) > DEVICE_PAIRS
        size, decide = (pairs.ROWS, self._inside_by_devices) if large else (POINTS, self._inside)
        return np.concatenate([decide(block) for block in rows.blocks(size)])

    def share_inside(self, points: Any) -> float:
        """Return the share, 0..1, of points [M, F] that lie in at least one ball."""
        return float(np.mean(self.inside(points)))

    def _radii_by_devices(self, start: int, block: np.ndarray) -> np.ndarray:
        """Return the radii of one block of the samples, numbered from `start`."""
        stop, rows = len(self.points), pairs.row_count(len(self.points))
        scale, wanted = self._centred.scale, self.k + SPARE
        own = start + np.arange(rows, dtype=np.int32)
        found: Any = (
            np.full((rows, wanted), np.inf, np.float32),
            np.zeros((rows, wanted), np.int32),
        )
        points = pairs.spread((own, self._centred.single(block, rows)))
        for first, others in pairs.blocks(self.points, pairs.COLUMNS):
            single = self._centred.single(others, min(pairs.COLUMNS, stop))
            found = pairs.run(
                pairs.nearest, (*found, *points), (single, np.int32(first), np.int32(stop))
            )
        lower, ids = (np.asarray(each)[: len(block)] for each in found)
        radii = np.partition(self._distances_to(block, ids), self.k - 1, axis=1)[:, self.k - 1]
        # No other sample can be nearer than the last candidate's lower bound.
        last = lower[:, -1].astype(np.float64) / scale**2
        sure = np.isfinite(lower).all(axis=1) & ((radii <= last) | (radii == 0))
        rest = np.flatnonzero(~sure)
        for i in range(0, len(rest), POINTS):
            some = rest[i : i + POINTS]
            limits = np.where(np.isfinite(lower[some]).all(axis=1), radii[some], np.inf)
            radii[some] = self._radii(block[some], start + some, limits)
        return radii

    def _distances_to(self, block: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return squared distances of points [B, F] to the samples `ids` [B, K], [B, K]."""
        flat = ids.ravel()
        order = np.argsort(flat, kind="stable")
        found = np.empty(len(flat))
        for start, others in pairs.blocks(self.points, BLOCK):
            low, high = np.searchsorted(flat[order], [start, start + len(others)])
            some = order[low:high]
            found[some] = _subtracted(block, some // ids.shape[1], others, flat[some] - start)
        return found.reshape(ids.shape)

    def _radii(self, block: np.ndarray, own: np.ndarray, limits: np.ndarray) -> np.ndarray:
        """Return the radii of samples [B, F] with the ids `own`, which are at most `limits` [B]."""
        best = np.full((len(block), self.k), np.inf)
        for start, others in pairs.blocks(self.points, BLOCK):
            lower, upper = self._bounds(block, others)
            themselves = np.flatnonzero((own >= start) & (own < start + len(others)))
            for each in (lower, upper):
                each[themselves, own[themselves] - start] = np.inf
            if self.k < len(others):
                limits = np.minimum(limits, np.partition(upper, self.k - 1, axis=1)[:, self.k - 1])
            limits = np.minimum(limits, best[:, -1])
            near = lower <= limits[:, None]
            near[themselves, own[themselves] - start] = False
            i, j = np.nonzero(near)
            best = _smallest(best, i, _subtracted(block, i, others, j))
        return best[:, -1]

    def _inside_by_devices(self, block: np.ndarray) -> np.ndarray:
        count, rows = len(self.points), pairs.row_count(pairs.ROWS)
        size, scale = min(pairs.COLUMNS, count), self._centred.scale
        least: Any = np.full((rows, 2), np.inf, np.float32)
        points = pairs.spread(self._centred.single(block, rows))
        for start, others in pairs.blocks(self.points, pairs.COLUMNS):
            reach = np.full(size, -np.inf, np.float32)
            with np.errstate(over="ignore"):
                reach[: len(others)] = self.radii[start : start + len(others)] * scale**2
            single = self._centred.single(others, size)
            least = pairs.run(pairs.margins, (least, points), (single, reach))
        lower, upper = np.asarray(least)[: len(block)].T
        inside = upper <= 0
        rest = np.flatnonzero(~inside & ~(lower > 0))
        for i in range(0, len(rest), POINTS):
            some = rest[i : i + POINTS]
            inside[some] = self._inside(block[some])
        return inside

    def _inside(self, block: np.ndarray) -> np.ndarray:
        """Return which of the points [B, F] lie in at least one ball, bool [B]."""
        inside = np.zeros(len(block), bool)
        for start, others in pairs.blocks(self.points, BLOCK):
            reach = self.radii[start : start + len(others)]
            lower, upper = self._bounds(block, others)
            inside |= (upper <= reach[None, :]).any(axis=1)
            i, j = np.nonzero((lower <= reach[None, :]) & ~inside[:, None])
            inside[i[_subtracted(block, i, others, j) <= reach[j]]] = True
        return inside

    def _bounds(self, points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return bounds on the squared distances, float64 [B, C], below and above."""
        points, others = self._centred.double(points), self._centred.double(others)
        norms = np.sum(points**2, axis=1)[:, None] + np.sum(others**2, axis=1)[None, :]
        squared = norms - 2 * (points @ others.T)
        # As in `pairs.bound`, for units of 2^-53.
        norms *= (points.shape[1] + 32) * 2.0**-52
        lower = squared - norms
        squared += norms
        return lower, squared


def _subtracted(points: np.ndarray, i: np.ndarray, others: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return |points[i] - others[j]|^2, float64 [P], each computed from its own pair alone."""
    found = np.empty(len(i))
    for start in range(0, len(i), SUBTRACTED):
        some = slice(start, start + SUBTRACTED)
        difference = points[i[some]].astype(np.float64)
        difference -= others[j[some]]
        found[some] = np.sum(np.square(difference, out=difference), axis=1)
    return found


def _smallest(best: np.ndarray, i: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the K smallest of `best` [B, K] and of `values` [P], which belong to the rows i."""
    order = np.lexsort((values, i))
    i, values = i[order], values[order]
    rank = np.arange(len(i)) - np.searchsorted(i, i)
    kept = rank < best.shape[1]
    new = np.full(best.shape, np.inf)
    new[i[kept], rank[kept]] = values[kept]
    return np.sort(np.concatenate([best, new], axis=1), axis=1)[:, : best.shape[1]]


# Kynkäänniemi et al. 2019 (arXiv 1904.06991), Eq. 1 and 2, NN_k not counting the point itself:
#   f(p, S) = 1 if |p - s| <= |s - NN_k(s, S)| for at least one s in S, else 0
#   precision = mean of f(p, real) over p in fake,  recall = mean of f(p, fake) over p in real
def precision_recall(real: Any, fake: Any, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Compute improved precision (how many fakes look real) and recall (how much they cover).

    Args:
      real: features of real images [N, F], an array or `Rows`, or their `Manifold`.
      fake: features of generated images [M, F], or a manifold. Recall rises with M, precision
        with N.
      k: which nearest neighbour sets the radius around each point; a manifold has its own.

    Returns:
      Precision and recall, both 0..1.

    Raises:
      UserError: wrong shapes, unequal F, NaN or infinity, k < 1, or fewer than k + 1 samples.

    References:
      Kynkäänniemi et al., Improved Precision and Recall Metric, arXiv 1904.06991.
    """
    real = real if isinstance(real, Manifold) else Manifold(real, k, "real")
    fake = fake if isinstance(fake, Manifold) else Manifold(fake, k, "fake")
    check_widths(real.points.width, fake.points.width)
    return real.share_inside(fake.points), fake.share_inside(real.points)
