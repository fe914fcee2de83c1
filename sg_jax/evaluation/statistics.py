"""Mean and scatter of features, and the Fréchet distance of two such Gaussians (FID).

Computed in float64 on the host: the distance is a difference of large numbers, and TPUs have no
float64.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from sg_jax.errors import UserError
from sg_jax.evaluation.rows import Rows, check_widths

EPSILON = np.finfo(np.float64).eps
# The quick way to a Fréchet distance is taken if its rounding error is estimated to be below this
# share of both variances. For spectra as steep as 1 / i^3, the estimate is 10^5 times too large.
SURE = 1e-8


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean and scatter of features; those of batches of any size can be merged.

    Attributes:
      count: N, the number of samples; 0 if unknown, in which case `scatter` is the covariance.
      mean: float64 [F].
      scatter: sum over the samples of (x - mean) (x - mean)^T, float64 [F, F].
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: Any, name: str = "features") -> "Statistics":
        """Return the statistics of features [N, F], an array or `Rows`, summed in float64.

        Only one block at a time becomes float64.

        Raises:
          UserError: a wrong shape, no samples, NaN or infinity; the message begins with `name`.
        """
        rows = Rows.of(features, name)
        return functools.reduce(cls.merge, map(cls._of_block, rows.blocks()))

    @classmethod
    def _of_block(cls, block: np.ndarray) -> "Statistics":
        centred = block.astype(np.float64)
        mean = centred.mean(axis=0)
        centred -= mean[None]
        return cls(len(block), mean, centred.T @ centred)

    @classmethod
    def from_moments(
        cls, mean: Any, covariance: Any, count: int | None = None, name: str = "statistics"
    ) -> "Statistics":
        """Return statistics from what reference files hold, often as mu and sigma.

        Args:
          mean: [F].
          covariance: the unbiased one (N - 1) [F, F].
          count: N, the number of samples; None if it is not known. Such statistics have distances,
            but cannot be merged.
          name: what they are called in error messages.

        Raises:
          UserError: wrong shapes, NaN or infinity, a matrix that is not a covariance, `count` < 2.
        """
        mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
        if mean.ndim != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
            raise UserError(
                f"{name} has a mean of shape {list(mean.shape)} and a covariance of "
                f"{list(covariance.shape)}; they must be [F] and [F, F]."
            )
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise UserError(f"{name} has NaN or infinity in its mean or covariance: make it again.")
        variances = np.diag(covariance)
        skew = np.abs(covariance - covariance.T).max()
        if variances.min() < 0 or skew > 1e-5 * variances.max():
            raise UserError(
                f"{name} has no valid covariance: it must be symmetric, with no variance below 0, "
                f"but its smallest variance is {variances.min():.3g}, and its largest difference "
                f"from its transpose {skew:.3g}."
            )
        if count is not None and count < 2:
            raise UserError(f"{name} has count={count}; it must be at least 2, or None if unknown.")
        covariance = (covariance + covariance.T) / 2
        if count is None:
            return cls(0, mean, covariance)
        return cls(int(count), mean, covariance * (count - 1))

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance, float64 [F, F]."""
        return self.scatter / (self.count - 1) if self.count else self.scatter

    # Chan, Golub, LeVeque 1979, Eq. 2.1, with d = m_b - m_a:
    #   m = m_a + d n_b / n,   S = S_a + S_b + d d^T n_a n_b / n
    def merge(self, other: "Statistics") -> "Statistics":
        """Return the statistics of both sets together.

        Raises:
          UserError: unequal F, or a number of samples that is not known.
        """
        check_widths(len(self.mean), len(other.mean), ("one batch", "another"))
        if not self.count or not other.count:
            raise UserError("Statistics of an unknown number of samples cannot be merged.")
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = np.outer(shift, shift) * (self.count * other.count / count)
        return Statistics(count, mean, self.scatter + other.scatter + between)


# Fréchet 1957; Heusel et al. 2017 (arXiv 1706.08500), Eq. 6:
#   d^2 = |m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2))
def frechet(real: Any, fake: Any) -> float:
    """Compute the squared Fréchet distance of the Gaussians fitted to two sets, as FID does.

    It is symmetric, and biased upwards for small sets, so compare only values from the same number
    of samples.

    Args:
      real: features [N, F], an array or `Rows`, or their `Statistics`.
      fake: features [M, F], or statistics; M may differ from N, and both may be below F.

    Returns:
      The distance in squared units of the features, at least 0. Covariances are unbiased (N - 1).

    Raises:
      UserError: wrong shapes, unequal F, NaN or infinity, or fewer than 2 samples.

    References:
      Heusel et al., GANs Trained by a Two Time-Scale Update Rule, arXiv 1706.08500.
    """
    a, b = _statistics("real", real), _statistics("fake", fake)
    check_widths(len(a.mean), len(b.mean))
    shift = np.sum((a.mean - b.mean) ** 2)
    first, second = a.covariance, b.covariance
    spread = _quick_spread(first, second)
    if spread is None:
        spread = _exact_spread(first, second)
    return float(shift + max(spread, 0.0))


def _statistics(name: str, given: Any) -> Statistics:
    found = given if isinstance(given, Statistics) else Statistics.of(given, name)
    if found.count == 1:
        raise UserError(f"{name} has {found.count} samples; at least 2 are needed: draw more.")
    return found


def _quick_spread(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return Tr(a + b - 2 (a b)^(1/2)), or None if that needs more care.

    With a = L L^T, the eigenvalues of a b are those of the symmetric matrix L^T b L. This takes a
    quarter of the time of `_exact_spread`, but the root of an eigenvalue magnifies its error.
    """
    try:
        lower = np.linalg.cholesky(a)
    except np.linalg.LinAlgError:  # singular, or nearly so
        return None
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh(lower.T @ b @ lower), 0.0))
    error = EPSILON * np.linalg.norm(a) * np.linalg.norm(b)  # of an eigenvalue
    errors = np.minimum(error / np.maximum(2 * roots, np.sqrt(error)), np.sqrt(error))
    variances = np.trace(a) + np.trace(b)
    if not np.sqrt(np.sum(errors**2)) <= SURE * variances:
        return None
    return variances - 2 * roots.sum()


def _exact_spread(a: np.ndarray, b: np.ndarray) -> float:
    """Return Tr(a + b - 2 (a b)^(1/2)) of any covariances, singular ones too.

    With a = A A^T and b = B B^T, Tr (a b)^(1/2) is the sum of the singular values of B^T A. Unlike
    a general matrix square root or roots of eigenvalues, the sum is never complex, and it is as
    exact as a and b.
    """
    a, b = _factor(a), _factor(b)
    overlap = np.linalg.svd(b.T @ a, compute_uv=False).sum()
    return np.sum(a**2) + np.sum(b**2) - 2 * overlap  # Tr A A^T = |A|^2


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Return a matrix A [F, R] of rank R with A A^T = covariance."""
    # Features of different sizes are scaled to variance 1, so that rounding errors of the largest
    # are not mistaken for the smallest; constant ones stay 0.
    deviations = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    scale = np.where(deviations > 0, deviations, 1.0)
    values, vectors = np.linalg.eigh(covariance / scale[:, None] / scale[None, :])
    # Values below the rounding error are zero, in particular all beyond the first N - 1 if N <= F.
    kept = values > values[-1] * len(values) * EPSILON
    return scale[:, None] * vectors[:, kept] * np.sqrt(values[kept])[None, :]
