"""The Fréchet distance and its statistics against closed forms, and where matrices are singular."""

import pathlib
import tracemalloc

import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.evaluation import statistics
from sg_jax.evaluation.distances import Rows, Statistics, frechet


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


def _reference(x, y):
    """Return the distance without covariances: Tr (C_a C_b)^(1/2) is the sum of the singular
    values of B A^T, with the centred samples A and B."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    a, b = (z - z.mean(axis=0)[None] for z in (x, y))
    a, b = a / np.sqrt(len(a) - 1), b / np.sqrt(len(b) - 1)
    overlap = np.linalg.svd(b @ a.T, compute_uv=False).sum()
    shift = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    return shift + np.sum(a**2) + np.sum(b**2) - 2 * overlap


def _near_singular(x):
    x = x.copy()
    x[:, -1] = x[:, :-1].sum(axis=1) + 1e-7 * x[:, -1]
    return x


def _constant(x):
    x = x.copy()
    x[:, 3] = 2.7
    return x


CASES = {
    "as it is": lambda x: x,
    "fewer samples than features": lambda x: x[:9],
    "two samples": lambda x: x[:2],
    "near-singular": _near_singular,
    "a feature twice": lambda x: np.concatenate([x, x[:, :2]], axis=1),
    "a constant feature": _constant,
    "one sample many times": lambda x: np.repeat(x[:1], 40, axis=0),
    "one sample twice": lambda x: np.concatenate([x[:12], x[:1]]),
    "sizes from 1e-6 to 1e6": lambda x: x * np.logspace(-6, 6, x.shape[1])[None, :],
    "far from the origin": lambda x: x + 1e4,
    "tiny": lambda x: x * 1e-12,
}


@pytest.mark.parametrize("case", CASES)
def test_frechet_where_covariances_are_awkward(case):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 20)), 1.2 * rng.normal(size=(50, 20)) + 0.1
    change = CASES[case]
    x, size = change(x), np.mean(change(x) ** 2)
    y = change(y)
    whole = np.concatenate([y, y + 0.1]) if case != "tiny" else y  # one awkward set of two
    for fake in (y, whole):
        expected = _reference(x, fake)
        assert frechet(x, fake) == pytest.approx(expected, rel=1e-6)
        assert frechet(fake, x) == pytest.approx(expected, rel=1e-6)
    same = _in_batches(x[::-1], 7)
    assert abs(frechet(x, x)) < 1e-11 * size and abs(frechet(x, same)) < 1e-9 * size


def test_the_quick_way_is_the_exact_one_or_is_not_taken():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    taken = []
    for power in (0, 2, 4, 8, 12):
        scales = np.arange(1, 41.0) ** (-power / 2)
        a, b = (np.cov((rng.normal(size=(400, 40)) * scales @ basis).T) for _ in range(2))
        for other in (a, b):
            quick, exact = statistics._quick_spread(a, other), statistics._exact_spread(a, other)
            taken.append(quick is not None)
            if quick is not None:
                assert quick == pytest.approx(exact, rel=1e-7, abs=1e-10)
    assert True in taken and False in taken


def test_statistics_from_moments_are_those_of_the_samples():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 5)) + 3, rng.normal(size=(80, 5))
    mean, covariance = x.mean(axis=0), np.cov(x.T)
    expected = frechet(x, y)
    unknown = Statistics.from_moments(mean, covariance)
    counted = Statistics.from_moments(mean.astype(np.float32), covariance, 100)
    assert frechet(unknown, y) == pytest.approx(expected, rel=1e-12)
    assert frechet(counted, y) == pytest.approx(expected, rel=1e-6)
    merged = counted.merge(Statistics.of(y))
    assert frechet(merged, np.concatenate([x, y])) == pytest.approx(0, abs=1e-10)
    with pytest.raises(UserError, match="unknown number of samples cannot be merged"):
        unknown.merge(Statistics.of(y))


@pytest.mark.parametrize(
    "moments, message",
    [
        ((np.zeros(2), np.eye(3)), r"mean of shape \[2\].*\[3, 3\]"),
        ((np.zeros(2), [[1, np.nan], [0, 1]]), "NaN or infinity"),
        ((np.zeros(2), [[1, 0], [0, -1.0]]), "smallest variance is -1"),
        ((np.zeros(2), [[1, 2], [0, 1.0]]), "from its transpose 2"),
        ((np.zeros(2), np.eye(2), 1), "count=1; it must be at least 2"),
    ],
)
def test_moments_that_are_none_are_refused(moments, message):
    with pytest.raises(UserError, match=f"sigma.*{message}"):
        Statistics.from_moments(*moments, name="sigma")


def test_statistics_are_summed_in_float64_in_blocks():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(15_000, 64)) + 500).astype(np.float32)  # 8 MB as float64
    tracemalloc.start()
    found = Statistics.of(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
    exact = x.astype(np.float64)
    np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(exact.T), rtol=1e-9, atol=1e-12)
    wrong = np.cov(x.T, dtype=np.float32)
    assert np.abs(found.covariance - wrong).max() > 1e-6  # the test can fail


def test_statistics_of_parts_in_files_are_those_of_the_whole(tmp_path):
    x = np.random.default_rng(0).normal(size=(70, 4)).astype(np.float16)
    np.save(tmp_path / "a.npy", x[:30])
    whole, parts = Statistics.of(x), Statistics.of(Rows([tmp_path / "a.npy", x[30:]]))
    np.testing.assert_array_equal(whole.scatter, parts.scatter)
    assert frechet(Rows([x]), Rows([tmp_path / "a.npy", x[30:]])) == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_sums_over_50_000_samples_of_2048_features():
    rng = np.random.default_rng(0)
    scales = np.arange(1, 2049, dtype=np.float32) ** -0.5
    x, y = (rng.standard_normal((n, 2048), np.float32) * scales + 0.4 for n in (50_000, 10_000))
    a, b = Statistics.of(x), Statistics.of(y)
    exact = x[:, :64].astype(np.float64)
    np.testing.assert_allclose(a.covariance[:64, :64], np.cov(exact.T), rtol=1e-10, atol=1e-13)
    spread = statistics._exact_spread(a.covariance, b.covariance)
    expected = np.sum((a.mean - b.mean) ** 2) + spread
    assert frechet(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_golden():
    golden = np.load(pathlib.Path(__file__).parents[1] / "golden" / "metrics.npz")
    assert frechet(golden["real"], golden["fake"]) == pytest.approx(float(golden["fid"]), rel=1e-9)


def test_bad_features_are_refused():
    x = np.random.default_rng(0).normal(size=(8, 3))
    broken = x.copy()
    broken[2, 1] = np.nan
    with pytest.raises(UserError, match="fake has NaN or infinity in 1 of 8"):
        frechet(x, broken)
    with pytest.raises(UserError, match=r"real has 3 features per sample and fake has 2"):
        frechet(x, x[:, :2])
    with pytest.raises(UserError, match=r"real has shape \[8\].*\[N, F\]"):
        frechet(x[:, 0], x)
    with pytest.raises(UserError, match="real has 1 samples; at least 2"):
        frechet(x[:1], x)
