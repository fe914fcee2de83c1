"""Distances between two sets of features, and the accuracy of class-conditional images.

All in float64 NumPy on the host: these are differences of large numbers; TPUs have no float64.
"""

import dataclasses
import functools

import numpy as np

from sg_jax.errors import UserError

# Entries of a block of distances in precision and recall: 2^23 float64 are 64 MiB.
BLOCK_ENTRIES = 2**23
NEIGHBOURS = 3  # k of precision and recall


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean and scatter of features; those of batches of any size can be merged.

    Attributes:
      count: N, the number of samples.
      mean: float64 [F].
      scatter: sum over the samples of (x - mean) (x - mean)^T, float64 [F, F].
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, name: str = "features") -> "Statistics":
        """Return the statistics of features [N, F].

        Raises:
          UserError: a wrong shape, no samples, NaN or infinity; the message begins with `name`.
        """
        features = _check(name, features, at_least=1)
        mean = features.mean(axis=0)
        centred = features - mean[None]
        return cls(len(features), mean, centred.T @ centred)

    # Chan, Golub, LeVeque 1979, Eq. 2.1, with d = m_b - m_a:
    #   m = m_a + d n_b / n,   S = S_a + S_b + d d^T n_a n_b / n
    def merge(self, other: "Statistics") -> "Statistics":
        """Return the statistics of both sets together."""
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = np.outer(shift, shift) * (self.count * other.count / count)
        return Statistics(count, mean, self.scatter + other.scatter + between)

    @functools.cached_property
    def root(self) -> np.ndarray:
        """The symmetric root [F, F] of the unbiased covariance."""
        values, vectors = np.linalg.eigh(self.scatter / (self.count - 1))
        # Values below rounding error are zero, in particular all beyond the first N - 1 if N <= F.
        values[values < values[-1] * len(values) * np.finfo(np.float64).eps] = 0.0
        return (vectors * np.sqrt(values)[None, :]) @ vectors.T  # [F, F]


class Manifold:
    """Features with a ball around each that reaches its k-th nearest neighbour among them.

    The radii are computed once, when first needed, however many sets are compared.

    Args:
      features: [N, F].
      k: which nearest neighbour sets the radius, not counting the point itself.
      name: the name of the features in error messages.

    Raises:
      UserError: a wrong shape, NaN or infinity, k < 1, or fewer than k + 1 samples.
    """

    def __init__(self, features: np.ndarray, k: int = NEIGHBOURS, name: str = "features"):
        if k < 1:
            raise UserError(f"k={k} must be at least 1, the nearest neighbour.")
        features = _check(name, features, at_least=k + 1)
        self.points, self.k = features, k  # float64 [N, F]
        # Distances keep more digits around a common centre than far from the origin.
        self._centre = features.mean(axis=0)
        self._centred = features - self._centre[None]

    @functools.cached_property
    def _radii(self) -> np.ndarray:
        return _neighbour_radii(self._centred, self.k)

    def share_inside(self, points: np.ndarray) -> float:
        """Return the share, 0..1, of points [M, F] that lie in at least one ball."""
        points = np.asarray(points, np.float64) - self._centre[None]
        return _share_inside(points, self._centred, self._radii)


# Fréchet 1957; Heusel et al. 2017 (arXiv 1706.08500), Eq. 6:
#   d^2 = |m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2))
def frechet(real: np.ndarray | Statistics, fake: np.ndarray | Statistics) -> float:
    """Compute the squared Fréchet distance of the Gaussians fitted to two sets, as FID does.

    It is symmetric, and biased upwards for small sets, so compare only values from the same number
    of samples.

    Args:
      real: features [N, F], or their statistics.
      fake: features [M, F], or statistics; M may differ from N, and both may be below F.

    Returns:
      The distance in squared units of the features, at least 0. Covariances are unbiased (N - 1).

    Raises:
      UserError: wrong shapes, unequal F, NaN or infinity, or fewer than 2 samples.

    References:
      Heusel et al., GANs Trained by a Two Time-Scale Update Rule, arXiv 1706.08500.
    """
    a, b = _statistics("real", real), _statistics("fake", fake)
    _check_widths(len(a.mean), len(b.mean))
    # Tr (C_a C_b)^(1/2) is the sum of the singular values of C_a^(1/2) C_b^(1/2): never complex,
    # and exact for singular covariances, where a general matrix square root is neither.
    overlap = np.linalg.svd(b.root @ a.root, compute_uv=False).sum()
    shift = np.sum((a.mean - b.mean) ** 2)
    spread = np.sum(a.root**2) + np.sum(b.root**2) - 2 * overlap  # Tr C = |C^(1/2)|^2
    return float(max(shift + spread, 0.0))


def _statistics(name: str, given: np.ndarray | Statistics) -> Statistics:
    found = given if isinstance(given, Statistics) else Statistics.of(given, name)
    if found.count < 2:
        raise UserError(f"{name} has {found.count} samples; at least 2 are needed.")
    return found


# Kynkäänniemi et al. 2019 (arXiv 1904.06991), Eq. 1 and 2, NN_k not counting the point itself:
#   f(p, S) = 1 if |p - s| <= |s - NN_k(s, S)| for at least one s in S, else 0
#   precision = mean of f(p, real) over p in fake,  recall = mean of f(p, fake) over p in real
def precision_recall(
    real: np.ndarray | Manifold, fake: np.ndarray | Manifold, k: int = NEIGHBOURS
) -> tuple[float, float]:
    """Compute improved precision (how many fakes look real) and recall (how much they cover).

    Args:
      real: features of real images [N, F], or their manifold.
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
    _check_widths(real.points.shape[1], fake.points.shape[1])
    return real.share_inside(fake.points), fake.share_inside(real.points)


def _neighbour_radii(manifold: np.ndarray, k: int) -> np.ndarray:
    """Return the squared distance of each point [N, F] to its k-th nearest other point [N]."""
    radii = np.empty(len(manifold))
    for rows in _blocks(len(manifold), len(manifold)):
        squared = _squared_distances(manifold[rows], manifold)  # [block, N]
        squared[np.arange(len(squared)), np.arange(len(manifold))[rows]] = np.inf
        radii[rows] = np.partition(squared, k - 1, axis=1)[:, k - 1]
    return radii


def _share_inside(points: np.ndarray, manifold: np.ndarray, radii: np.ndarray) -> float:
    """Return the share of `points` within the squared radius of a point of `manifold`."""
    inside = 0
    for rows in _blocks(len(points), len(manifold)):
        squared = _squared_distances(points[rows], manifold)  # [block, N]
        inside += np.sum(np.any(squared <= radii[None, :], axis=1))
    return float(inside / len(points))


def _blocks(rows: int, columns: int) -> list[slice]:
    size = max(1, BLOCK_ENTRIES // columns)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norms = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None, :]
    squared = norms - 2 * (a @ b.T)  # [A, B]
    # Equal points would be at a distance of rounding error, outside a radius of zero.
    squared[squared < 1e-12 * norms] = 0.0
    return squared


# accuracy = mean of [argmax_c p(c | x_i) = c_i]
def class_accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Compute how often a classifier sees the class that an image was generated for.

    Args:
      probabilities: [N, num_classes].
      labels: the requested classes, int [N].

    Returns:
      The share of hits, 0..1.

    Raises:
      UserError: wrong shapes, no samples, NaN, or labels outside 0..num_classes - 1.
    """
    probabilities = _check("probabilities", probabilities, at_least=1)
    labels = np.asarray(labels)
    count, classes = probabilities.shape
    if labels.shape != (count,) or labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"labels of shape {list(labels.shape)} must be [{count}] with values in "
            f"0..{classes - 1}, to match probabilities {list(probabilities.shape)}."
        )
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def _check(name: str, features: np.ndarray, at_least: int) -> np.ndarray:
    features = np.asarray(features, np.float64)
    if features.ndim != 2:
        raise UserError(f"{name} has shape {list(features.shape)}; it must be [N, F].")
    if len(features) < at_least:
        raise UserError(f"{name} has {len(features)} samples; at least {at_least} are needed.")
    broken = int(np.sum(~np.isfinite(features).all(axis=1)))
    if broken:
        raise UserError(
            f"{name} has NaN or infinity in {broken} of {len(features)} samples: look at the "
            "images they come from before measuring them."
        )
    return features


def _check_widths(real: int, fake: int) -> None:
    if real != fake:
        raise UserError(
            f"real has {real} features per sample and fake has {fake}; they must come from the "
            "same network."
        )
