"""Distances against closed forms and loops."""

import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.evaluation import neighbours
from sg_jax.evaluation.distances import (
    Manifold,
    Statistics,
    class_accuracy,
    frechet,
    precision_recall,
)


def _with_moments(mean, covariance, count=500, seed=0):
    """Return samples whose mean and covariance are exactly these."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(x.T)))).T  # covariance 1
    return x @ np.linalg.cholesky(covariance).T + mean


def test_frechet_of_one_dimensional_gaussians():
    # (m_a - m_b)^2 + (s_a - s_b)^2 = (1 - 4)^2 + (2 - 3)^2
    a = _with_moments([1.0], np.array([[4.0]]))
    b = _with_moments([4.0], np.array([[9.0]]), seed=1)
    assert frechet(a, b) == pytest.approx(9 + 1)


def test_frechet_of_commuting_gaussians():
    # Diagonal covariances: squared differences of means and of standard deviations, added up.
    a = _with_moments([0.0, 0.0, 0.0], np.diag([1.0, 4.0, 9.0]))
    b = _with_moments([1.0, 2.0, 2.0], np.diag([4.0, 1.0, 9.0]), count=300, seed=1)
    assert frechet(a, b) == pytest.approx((1 + 4 + 4) + (1 + 1 + 0))


def test_frechet_of_gaussians_that_do_not_commute():
    # Tr (C_a C_b)^(1/2) of 2x2 matrices is sqrt(Tr C_a C_b + 2 sqrt(det C_a C_b)).
    cov_a, cov_b = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 4.0]])
    product = cov_a @ cov_b
    overlap = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    a = _with_moments([0.0, 0.0], cov_a)
    b = _with_moments([3.0, 4.0], cov_b, seed=1)
    assert frechet(a, b) == pytest.approx(25 + 4 + 5 - 2 * overlap)


@pytest.mark.parametrize("count", [5, 200])  # fewer and more samples than features
def test_frechet_of_a_set_with_itself_is_zero(count):
    x = np.random.default_rng(0).normal(size=(count, 20)) * np.linspace(0, 3, 20)[None, :]
    assert frechet(x, x) == pytest.approx(0, abs=1e-10)
    assert frechet(x, x[::-1]) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("count", [5, 200])
def test_frechet_of_a_shift_is_its_squared_length(count):
    x = np.random.default_rng(0).normal(size=(count, 20))
    shift = np.zeros((1, 20))
    shift[0, :2] = 3, 4
    assert frechet(x, x + shift) == pytest.approx(25)


def test_frechet_is_symmetric_and_ignores_rotations():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 6)), 2 * rng.normal(size=(30, 6)) + 1
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert frechet(b, a) == pytest.approx(frechet(a, b))
    assert frechet(a @ turn, b @ turn) == pytest.approx(frechet(a, b))


def _in_batches(features, size):
    parts = [Statistics.of(features[i : i + size]) for i in range(0, len(features), size)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    return merged


@pytest.mark.parametrize("size", [1, 7, 64])
def test_statistics_of_batches_are_those_of_the_whole(size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 5)) @ rng.normal(size=(5, 5)) + 1e3  # far from the origin
    whole, merged = Statistics.of(x), _in_batches(x, size)
    assert merged.count == 100
    np.testing.assert_allclose(merged.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(merged.scatter / 99, np.cov(x.T), rtol=1e-9)
    y = rng.normal(size=(80, 5)) + 1e3
    expected = frechet(x, y)
    assert frechet(whole, y) == expected == frechet(x, Statistics.of(y))
    assert frechet(merged, _in_batches(y, size)) == pytest.approx(expected, rel=1e-9)


def test_precision_recall_of_manifolds_is_that_of_their_features():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(40, 4)), 1.3 * rng.normal(size=(30, 4))
    expected = precision_recall(real, fake)
    assert precision_recall(Manifold(real), Manifold(fake)) == expected
    assert precision_recall(Manifold(real), fake) == expected
    assert precision_recall(real, fake, k=1) == precision_recall(Manifold(real, 1), fake, 1)


def test_precision_recall_by_hand():
    real, fake = np.array([[0.0], [1.0], [10.0]]), np.array([[0.5], [1.9], [30.0], [31.0]])
    precision, recall = precision_recall(real, fake, k=1)
    # Nearest neighbours of 0, 1, 10 are 1, 1, 9 away: 0.5 and 1.9 are inside, 30 and 31 are not.
    assert precision == 2 / 4
    # Those of 0.5 and 1.9 are 1.4 away, of 30 and 31 1: 0 and 1 are inside, 10 is not.
    assert recall == 2 / 3


def _brute_force(points, manifold, k):
    inside = 0
    for p in points:
        for i, s in enumerate(manifold):
            others = np.delete(manifold, i, axis=0)
            radius = np.sort(np.linalg.norm(others - s, axis=1))[k - 1]
            if np.linalg.norm(p - s) <= radius:
                inside += 1
                break
    return inside / len(points)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_recall_equals_loops_in_any_block_size(k, monkeypatch):
    rng = np.random.default_rng(k)
    real, fake = rng.normal(size=(23, 4)) + 100, rng.normal(size=(17, 4)) + 101
    expected = _brute_force(fake, real, k), _brute_force(real, fake, k)
    assert 0 < min(expected) and max(expected) < 1  # a case that can fail
    assert precision_recall(real, fake, k) == expected
    monkeypatch.setattr(neighbours, "POINTS", 2)
    assert precision_recall(real, fake, k) == expected


def test_precision_recall_of_equal_and_of_far_sets():
    x = np.random.default_rng(0).normal(size=(30, 5))
    repeated = np.repeat(x[:10], 5, axis=0)  # all radii are 0
    assert precision_recall(x, x) == (1.0, 1.0)
    assert precision_recall(repeated, repeated) == (1.0, 1.0)
    assert precision_recall(x, x + 1e3) == (0.0, 0.0)


def test_recall_sees_missing_classes_and_precision_does_not():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(40, 3)), rng.normal(size=(40, 3)) + 50
    precision, recall = precision_recall(np.concatenate([left, right]), left)
    assert (precision, recall) == (1.0, 0.5)


def test_class_accuracy_counts_hits():
    probabilities = [[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.4, 0.5, 0.1], [0.3, 0.4, 0.3]]
    assert class_accuracy(probabilities, [0, 2, 0, 1]) == 3 / 4


def _ok():
    return np.random.default_rng(0).normal(size=(8, 3))


@pytest.mark.parametrize("measure", [frechet, precision_recall])
def test_bad_features_are_refused(measure):
    broken = _ok()
    broken[2, 1] = np.nan
    with pytest.raises(UserError, match="NaN or infinity in 1 of 8"):
        measure(_ok(), broken)
    with pytest.raises(UserError, match=r"3 features per sample.* has 2"):
        measure(_ok(), _ok()[:, :2])
    with pytest.raises(UserError, match=r"shape \[8\].*\[N, F\]"):
        measure(_ok()[:, 0], _ok())


def test_too_few_samples_are_refused():
    with pytest.raises(UserError, match="has 1 samples; at least 2"):
        frechet(_ok()[:1], _ok())
    with pytest.raises(UserError, match="fake has 3 samples; at least 4"):
        precision_recall(_ok(), _ok()[:3], k=3)
    with pytest.raises(UserError, match="k=0"):
        precision_recall(_ok(), _ok(), k=0)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"labels of shape \[2\]"):
        class_accuracy([[0.5, 0.5]], [0, 1])
    with pytest.raises(UserError, match=r"0\.\.1"):
        class_accuracy([[0.5, 0.5]], [2])
