"""Distances between two sets of features, and the accuracy of class-conditional images.

All in float64 NumPy, on the host: these are differences of large numbers, and TPUs have no float64.
"""

import functools

import numpy as np

from sg_jax.errors import UserError

# Entries of the distance blocks held at once by precision and recall: 2^23 float64 are 64 MiB.
BLOCK_ENTRIES = 2**23


# Fréchet 1957; Heusel et al. 2017 (arXiv 1706.08500), Eq. 6:
#   d^2 = |m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2))
def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Compute the squared Fréchet distance of the Gaussians fitted to two sets (what FID reports).

    It is biased upwards for small sets, so compare only values from equally many samples.

    Args:
      features_a: [N, F].
      features_b: [M, F]; M may differ from N, and both may be below F.

    Returns:
      The distance in squared units of the features, at least 0. Covariances are unbiased (N - 1).

    Raises:
      UserError: for other shapes, unequal F, NaN or infinity, or fewer than 2 samples.

    References:
      Heusel et al., GANs Trained by a Two Time-Scale Update Rule, arXiv 1706.08500.
    """
    a, b = _check_pair("features_a", features_a, "features_b", features_b, at_least=2)
    return _frechet(_gaussian(a), _gaussian(b))


def _gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [F] and the root of the covariance [F, F] of features [N, F]."""
    return features.mean(axis=0), _covariance_root(features)


def _frechet(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    (mean_a, root_a), (mean_b, root_b) = a, b
    # Tr (C_a C_b)^(1/2) is the sum of the singular values of C_a^(1/2) C_b^(1/2): never complex,
    # and exact for singular covariances, where a general matrix square root is neither.
    overlap = np.linalg.svd(root_a @ root_b, compute_uv=False).sum()
    shift = np.sum((mean_a - mean_b) ** 2)
    spread = np.sum(root_a**2) + np.sum(root_b**2) - 2 * overlap  # Tr C = |C^(1/2)|^2
    return float(max(shift + spread, 0.0))


def _covariance_root(features: np.ndarray) -> np.ndarray:
    centred = features - features.mean(axis=0, keepdims=True)
    values, vectors = np.linalg.eigh(centred.T @ centred / (len(features) - 1))
    # What is below rounding error is zero, in particular all beyond the first N - 1 if N <= F.
    values[values < values[-1] * len(values) * np.finfo(np.float64).eps] = 0.0
    return (vectors * np.sqrt(values)[None, :]) @ vectors.T  # [F, F]


# Kynkäänniemi et al. 2019 (arXiv 1904.06991), Eq. 1 and 2, NN_k leaving the point itself out:
#   f(p, S) = 1 if |p - s| <= |s - NN_k(s, S)| for at least one s in S, else 0
#   precision = mean of f(p, real) over p in fake,  recall = mean of f(p, fake) over p in real
def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Compute improved precision (how many fakes look real) and recall (how much is covered).

    Args:
      real: features of real images [N, F].
      fake: features of generated images [M, F]. Recall rises with M, precision with N.
      k: which nearest neighbour sets the radius around each point.

    Returns:
      precision and recall, both 0..1.

    Raises:
      UserError: for other shapes, unequal F, NaN or infinity, k < 1, or fewer than k + 1 samples.

    References:
      Kynkäänniemi et al., Improved Precision and Recall Metric, arXiv 1904.06991.
    """
    if k < 1:
        raise UserError(f"k={k} must be at least 1, the nearest neighbour.")
    return Reference(real, k).precision_recall(fake)


class Reference:
    """Real features that many sets are compared with: what depends on them alone is computed once.

    Args:
      features: [N, F].
      k: which nearest neighbour sets the radius around each point.
    """

    def __init__(self, features: np.ndarray, k: int = 3):
        self.features, self.k = features, k

    def frechet(self, fake: np.ndarray) -> float:
        """Return `frechet_distance(fake, features)`."""
        fake, _ = _check_pair("fake", fake, "real", self.features, at_least=2)
        return _frechet(_gaussian(fake), self._gaussian)

    def precision_recall(self, fake: np.ndarray) -> tuple[float, float]:
        """Return `precision_recall(features, fake, k)`."""
        k = self.k
        _, fake = _check_pair("real", self.features, "fake", fake, at_least=k + 1)
        # Distances keep more digits around a common centre than far from the origin.
        real, fake = self._centred, fake - self._gaussian[0][None]
        return (
            _share_inside(fake, real, self._radii),
            _share_inside(real, fake, _neighbour_radii(fake, k)),
        )

    @functools.cached_property
    def _gaussian(self) -> tuple[np.ndarray, np.ndarray]:
        return _gaussian(np.asarray(self.features, np.float64))

    @functools.cached_property
    def _centred(self) -> np.ndarray:
        return np.asarray(self.features, np.float64) - self._gaussian[0][None]

    @functools.cached_property
    def _radii(self) -> np.ndarray:
        return _neighbour_radii(self._centred, self.k)


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
    # Equal points would come out at rounding error, outside a radius of zero.
    squared[squared < 1e-12 * norms] = 0.0
    return squared


# accuracy = mean of [argmax_c p(c | x_i) = c_i]
def class_accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Compute how often a classifier sees in an image the class it was generated for.

    Args:
      probabilities: [N, num_classes].
      labels: the classes asked for, int [N].

    Returns:
      The share of hits, 0..1.

    Raises:
      UserError: for other shapes, no samples, NaN, or labels outside 0..num_classes - 1.
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


def _check_pair(
    name_a: str, a: np.ndarray, name_b: str, b: np.ndarray, at_least: int
) -> tuple[np.ndarray, np.ndarray]:
    a, b = _check(name_a, a, at_least), _check(name_b, b, at_least)
    if a.shape[1] != b.shape[1]:
        raise UserError(
            f"{name_a} has {a.shape[1]} features per sample and {name_b} has {b.shape[1]}; they "
            "must come from the same network."
        )
    return a, b
