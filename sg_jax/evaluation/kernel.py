"""The Kernel Inception Distance (KID): the maximum mean discrepancy under a cubic kernel."""

import dataclasses
import functools
from typing import Any

import numpy as np

from sg_jax.errors import UserError, is_whole
from sg_jax.evaluation import pairs
from sg_jax.evaluation.rows import BLOCK, Rows, check_widths

DEVICE_PAIRS = 2**24  # with more pairs, the devices do most of the work
SIZE = 1000  # samples in a subset


class KernelReference:
    """Real features whose own share of KID is computed once, however many sets are compared.

    Args:
      features: [N, F], an array or `Rows`.
      name: the name of the features in error messages.

    Raises:
      UserError: a wrong shape, NaN or infinity, or fewer than 2 samples.
    """

    def __init__(self, features: Any, name: str = "real") -> None:
        self.rows = Rows.of(features, name, at_least=2)

    @functools.cached_property
    def sum_on_host(self) -> float:
        """The sum of the kernel over i != j, in float64."""
        return _sum_on_host(self.rows, self.rows, same=True)

    @functools.cached_property
    def moments(self) -> "_Moments":
        """Sums over the samples."""
        return _Moments.of(self.rows, pairs.Centred(self.rows))

    @functools.cached_property
    def sum_by_devices(self) -> float:
        """The sum of the kernel over i != j, computed as in `_by_devices`."""
        return _own_sum(self.rows, self.moments, pairs.Centred(self.rows))


# Bińkowski et al. 2018 (arXiv 1801.01401), with k(x, y) = (x·y / F + 1)^3:
#   MMD^2 = mean over i != j of k(x_i, x_j) + that of k(y_i, y_j) - 2 mean over i, j of k(x_i, y_j)
def kid(real: Any, fake: Any, subsets: int | None = None, size: int = SIZE, seed: int = 0) -> float:
    """Compute the Kernel Inception Distance, which has no bias and so compares sets of any size.

    Args:
      real: features [N, F], an array or `Rows`, or their `KernelReference`.
      fake: features [M, F].
      subsets: how many random subsets to average over, as other programs do, often 100; None for
        all pairs, which varies less.
      size: samples in a subset, without repetition.
      seed: seed of the subsets.

    Returns:
      The squared discrepancy; around 0, even below it, for two sets from the same distribution.

    Raises:
      UserError: wrong shapes, unequal F, NaN or infinity, fewer than 2 samples or than `size`.

    References:
      Bińkowski et al., Demystifying MMD GANs, arXiv 1801.01401.
    """
    if subsets is not None and (not is_whole(subsets) or subsets < 1):
        raise UserError(f"subsets={subsets!r} must be at least 1, or None for all pairs.")
    if not is_whole(size) or size < 2:
        raise UserError(f"size={size!r} must be at least 2 samples per subset.")
    if not is_whole(seed) or seed < 0:
        raise UserError(f"seed={seed!r} must be a whole number, at least 0.")
    least = 2 if subsets is None else size
    real = real if isinstance(real, KernelReference) else KernelReference(real)
    rows = Rows.of(real.rows, "real", at_least=least)
    fake = Rows.of(fake, "fake", at_least=least)
    check_widths(rows.width, fake.width)
    if subsets is not None:
        return _of_subsets(rows, fake, subsets, size, np.random.default_rng(seed))
    large = (len(rows) + len(fake)) ** 2 > DEVICE_PAIRS
    found = _by_devices(real, fake) if large else np.nan
    # Outliers a million times as large as other samples can be too large for float32.
    return found if np.isfinite(found) else _on_host(real, fake)


def _of_subsets(real: Rows, fake: Rows, subsets: int, size: int, rng: np.random.Generator) -> float:
    """Return the mean MMD^2 of random subsets."""
    found = []
    for _ in range(subsets):
        x, y = (rows.take(rng.choice(len(rows), size, replace=False)) for rows in (real, fake))
        found.append(_on_host(KernelReference(x), Rows([y])))
    return float(np.mean(found))


def _combined(xx: float, yy: float, xy: float, n: int, m: int) -> float:
    """Return MMD^2 from sums over pairs, those within one set without i = j."""
    return float(xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m))


def _on_host(real: KernelReference, fake: Rows) -> float:
    """Return MMD^2 in float64, from all pairs."""
    yy, xy = _sum_on_host(fake, fake, same=True), _sum_on_host(real.rows, fake, same=False)
    return _combined(real.sum_on_host, yy, xy, len(real.rows), len(fake))


def _sum_on_host(a: Rows, b: Rows, same: bool) -> float:
    """Return the sum of the kernel over all pairs of two sets, or over i != j within one."""
    found = 0.0
    for start, x in pairs.blocks(a, BLOCK):
        x = x.astype(np.float64) / a.width
        for first, y in pairs.blocks(b, BLOCK):
            kernel = (x @ y.astype(np.float64).T + 1) ** 3
            if same and start == first:
                np.fill_diagonal(kernel, 0.0)
            found += kernel.sum()
    return found


@dataclasses.dataclass
class _Moments:
    """Sums over samples x = c + a, with weights u = (c·a + |c|^2 / 2) / F + 1 / 2, in float64.

    Attributes:
      u: sums of u^0, u^1, u^2, u^3, [4].
      a: sums of u^0 a, u^1 a, u^2 a, [3, F].
      aa: sums of u^0 a a^T, u^1 a a^T, [2, F, F].
      own: sum of k(x, x) - t^3 with t = |a|^2 / F.
    """

    u: np.ndarray
    a: np.ndarray
    aa: np.ndarray
    own: float

    @classmethod
    def of(cls, rows: Rows, centred: pairs.Centred) -> "_Moments":
        width, centre = rows.width, centred.centre
        found = cls(np.zeros(4), np.zeros((3, width)), np.zeros((2, width, width)), 0.0)
        for block in rows.blocks(BLOCK):
            a = centred.double(block)
            u = (a @ centre + centre @ centre / 2) / width + 0.5
            powers = u[None, :] ** np.arange(4)[:, None]
            found.u += powers.sum(axis=1)
            found.a += powers[:3] @ a
            found.aa[0] += a.T @ a
            found.aa[1] += (a * u[:, None]).T @ a
            t = np.sum(a**2, axis=1) / width
            found.own += np.sum((t + 2 * u) ** 3 - t**3)
        return found


# With t = a·b / F, k = (t + u + v)^3 = t^3 + 3 t^2 (u + v) + 3 t (u + v)^2 + (u + v)^3.
def _by_devices(real: KernelReference, fake: Rows) -> float:
    """Return MMD^2: the sum of t^3 from float32 products, and the rest from float64 moments.

    Around a common centre, t is small, so t^3 is a small share of the distance, and so is its
    rounding error.
    """
    centred = pairs.Centred(real.rows, fake)
    y = _Moments.of(fake, centred)
    xy = _rest(real.moments, y) + _cubes(real.rows, fake, centred, same=False)
    yy = _own_sum(fake, y, centred)
    return _combined(real.sum_by_devices, yy, xy, len(real.rows), len(fake))


def _own_sum(rows: Rows, moments: _Moments, centred: pairs.Centred) -> float:
    """Return the sum of the kernel over i != j within one set."""
    cubes = _cubes(rows, rows, centred, same=True)
    return _rest(moments, moments) - moments.own + cubes


def _rest(p: _Moments, q: _Moments) -> float:
    """Return the sum over all pairs of k - t^3."""
    width = p.a.shape[1]
    squares = (np.vdot(p.aa[1], q.aa[0]) + np.vdot(p.aa[0], q.aa[1])) / width**2
    products = (p.a[2] @ q.a[0] + 2 * p.a[1] @ q.a[1] + p.a[0] @ q.a[2]) / width
    weights = p.u[::-1] @ (np.array([1, 3, 3, 1]) * q.u)
    return 3 * squares + 3 * products + weights


def _cubes(real: Rows, fake: Rows, centred: pairs.Centred, same: bool) -> float:
    """Return the sum of t^3 over all pairs of two sets, or over i != j within one."""
    rows, columns = pairs.row_count(len(real)), min(pairs.COLUMNS, len(fake))
    total = 0.0
    for start, block in pairs.blocks(real, pairs.ROWS):
        own = np.full(rows, -1, np.int32)
        if same:
            own[: len(block)] = start + np.arange(len(block))
        points = pairs.spread((own, centred.single(block, rows)))
        for first, others in pairs.blocks(fake, columns):
            if same and first < start:
                continue  # already counted, twice, when these were the points
            single = centred.single(others, columns)
            found = pairs.run(pairs.cubes, points, (single, np.int32(first)))
            twice = 2 if same and first >= start + len(block) else 1
            total += twice * np.asarray(found).sum(dtype=np.float64)
    return total / centred.scale**6
