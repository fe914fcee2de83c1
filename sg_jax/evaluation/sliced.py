"""The Monge Inception Distance (MIND): sliced Wasserstein distances of two sets of features.

Computed in float64 on the host, so that all machines find the same value.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from sg_jax.errors import UserError, is_whole
from sg_jax.evaluation.rows import Rows, check_widths

PROJECTIONS = 1000
STREAM = 2605  # keeps the directions apart from features drawn with the same seed
GROUP = 128  # projections at a time: for 50,000 samples, they take 49 MiB


class SlicedReference:
    """Real features whose sorted projections are kept, however many sets are compared.

    They take 8 N bytes per projection, 76 MiB for 10,000 samples.

    Args:
      features: [N, F], an array or `Rows`.
      projections: how many random directions.
      seed: seed of the directions.
      name: the name of the features in error messages.

    Raises:
      UserError: a wrong shape, NaN or infinity, no samples, `projections` below 1, a wrong seed.
    """

    def __init__(
        self, features: Any, projections: int = PROJECTIONS, seed: int = 0, name: str = "real"
    ) -> None:
        if not is_whole(projections) or projections < 1:
            raise UserError(f"projections={projections!r} must be at least 1; 1,000 are usual.")
        if not is_whole(seed) or seed < 0:
            raise UserError(f"seed={seed!r} must be a whole number, at least 0.")
        self.rows, self.projections, self.seed = Rows.of(features, name), projections, seed

    @functools.cached_property
    def groups(self) -> list[np.ndarray]:
        """The sorted projections [1..GROUP, N], by groups of vectors."""
        return list(self.computed(self.rows))

    def computed(self, rows: Rows) -> Iterator[np.ndarray]:
        """Yield the sorted projections [1..GROUP, M] of other features [M, F] on its vectors."""
        random = np.random.default_rng([self.seed, STREAM])
        vectors = random.standard_normal((self.projections, self.rows.width))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        for start in range(0, self.projections, GROUP):
            yield _sorted_projections(rows, vectors[start : start + GROUP])


# Berthet et al. 2026 (arXiv 2605.06797), with α = 3 F, u uniform on the sphere, and q the quantile
# function of u·x over a set:
#   MIND = α E_u W_2^2(u·real, u·fake),   W_2^2 = integral over 0..1 of (q_real - q_fake)^2
def mind(real: Any, fake: Any, projections: int = PROJECTIONS, seed: int = 0) -> float:
    """Compute the Monge Inception Distance, which needs fewer samples than FID.

    From the paper: the squared Wasserstein distance of one-dimensional projections by sorting, its
    mean over random unit vectors, and the factor α = 3 F, which brings the values of Inception's
    features near those of FID. Our own choice: sets of unequal sizes are compared exactly, by their
    quantile functions, where others drop samples; and the vectors are normal numbers from NumPy's
    default generator, divided by their lengths. So values differ from those of other programs as
    those of two seeds do: by up to a few percent with 1,000 projections, which others use too.

    Args:
      real: features [N, F], an array or `Rows`, or their `SlicedReference`.
      fake: features [M, F]; M may differ from N. Fewer samples read higher, so compare only values
        from the same numbers.
      projections: how many random directions; a reference has its own.
      seed: seed of the directions; a reference has its own. The same seed gives the same value
        everywhere.

    Returns:
      The distance in squared units of the features, at least 0; 0 for equal sets.

    Raises:
      UserError: wrong shapes, unequal F, NaN or infinity, no samples, `projections` below 1.

    References:
      Berthet et al., MIND: Monge Inception Distance for Generative Models Evaluation,
      arXiv 2605.06797.
    """
    if isinstance(real, SlicedReference):
        sorted_real: Iterable[np.ndarray] = real.groups
    else:
        real = SlicedReference(real, projections, seed)
        sorted_real = real.computed(real.rows)
    fake = Rows.of(fake, "fake")
    check_widths(real.rows.width, fake.width)
    shares, i, j = _pieces(len(real.rows), len(fake))
    total = 0.0
    for x, y in zip(sorted_real, real.computed(fake), strict=True):
        for a, b in zip(x, y, strict=True):
            # Not a product of vectors, whose threads would wait for each other on busy cores.
            total += float(np.sum(shares * (a[i] - b[j]) ** 2))
    return 3 * real.rows.width * total / real.projections


def _sorted_projections(rows: Rows, vectors: np.ndarray) -> np.ndarray:
    """Return the projections [P, N] on vectors [P, F], each row in ascending order."""
    found = np.empty((len(vectors), len(rows)))
    done = 0
    for block in rows.blocks():
        found[:, done : done + len(block)] = vectors @ block.astype(np.float64).T
        done += len(block)
    found.sort(axis=1)
    return found


def _pieces(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where two quantile functions of n and m samples are both constant.

    Returns:
      The lengths of the pieces of 0..1 [P], and which samples [P] are their quantiles there.
    """
    # In units of 1 / (n m), the i-th of n samples is the quantile from i m to (i + 1) m.
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # [P]
    starts = np.concatenate([[0], ends[:-1]])
    return (ends - starts) / (n * m), starts // m, starts // n
