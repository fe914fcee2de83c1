"""Precision and recall against loops, and those of the devices against those of float64."""

import pathlib

import jax
import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.evaluation import neighbours, pairs
from sg_jax.evaluation.distances import Manifold, Rows, precision_recall


def _loops(points, manifold, k):
    """Return which points lie in a ball, by subtraction of one pair after another."""
    points, manifold = np.asarray(points, np.float64), np.asarray(manifold, np.float64)
    inside = np.zeros(len(points), bool)
    for i, s in enumerate(manifold):
        radius = np.sort(np.sum((np.delete(manifold, i, axis=0) - s[None]) ** 2, axis=1))[k - 1]
        inside |= np.sum((points - s[None]) ** 2, axis=1) <= radius
    return inside


def test_by_hand():
    real, fake = np.array([[0.0], [1.0], [10.0]]), np.array([[0.5], [1.9], [30.0], [31.0]])
    precision, recall = precision_recall(real, fake, k=1)
    # Nearest neighbours of 0, 1, 10 are 1, 1, 9 away: 0.5 and 1.9 are inside, 30 and 31 are not.
    assert precision == 2 / 4
    # Those of 0.5 and 1.9 are 1.4 away, of 30 and 31 1: 0 and 1 are inside, 10 is not.
    assert recall == 2 / 3
    assert Manifold(real, k=2).radii.tolist() == [100, 81, 100]
    assert Manifold(real, k=1).inside([[2.0], [2.5]]).tolist() == [True, True]
    # A point on the edge of a ball is inside: 19 is 9 away from 10.
    assert Manifold(real, k=1).inside([[19.0], [19.001]]).tolist() == [True, False]


def test_manifolds_have_the_values_of_their_features():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(40, 4)), 1.3 * rng.normal(size=(30, 4))
    expected = precision_recall(real, fake)
    assert precision_recall(Manifold(real), Manifold(fake)) == expected
    assert precision_recall(Manifold(real), fake) == expected
    assert precision_recall(real, fake, k=1) == precision_recall(Manifold(real, 1), fake, 1)


@pytest.mark.parametrize("k", [1, 3])
def test_it_equals_loops_in_any_block_size(k, monkeypatch):
    rng = np.random.default_rng(k)
    real, fake = rng.normal(size=(23, 4)) + 100, rng.normal(size=(17, 4)) + 101
    expected = _loops(fake, real, k).mean(), _loops(real, fake, k).mean()
    assert 0 < min(expected) and max(expected) < 1  # a case that can fail
    assert precision_recall(real, fake, k) == expected
    monkeypatch.setattr(neighbours, "POINTS", 2)
    monkeypatch.setattr(neighbours, "BLOCK", 5)
    assert precision_recall(real, fake, k) == expected


def test_equal_and_far_sets():
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


def _normal():
    rng = np.random.default_rng(0)
    return rng.normal(size=(210, 16)).astype(np.float32), rng.normal(size=(190, 16))


def _duplicates():
    x, y = _normal()
    return np.repeat(x[:70], 3, axis=0), np.concatenate([y[:120], x[:60]])


def _grid():  # most distances are those of many other pairs
    rng = np.random.default_rng(0)
    return rng.integers(0, 3, (210, 6)), rng.integers(0, 3, (190, 6))


def _shells():
    """Points at equal distances but for rounding: fakes are neighbours' mirror images."""
    x, _ = _normal()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0]
    return np.concatenate([x[:100], -x[:100]]), np.concatenate([x[:80], x[:100] @ turn])


def _outlier():  # in float32, it leaves nothing of the others
    x, y = _normal()
    x[3] = 1e30
    return x, y


def _clusters():
    x, y = _normal()
    return np.concatenate([x[:100] + 1e5, x[100:]]), np.concatenate([y[:90] + 1e5, y[90:]])


CASES = {
    "normal": _normal,
    "duplicates": _duplicates,
    "a grid": _grid,
    "equal but for rounding": _shells,
    "far from the origin": lambda: tuple(z + 1e6 for z in _normal()),
    "far in float32": lambda: tuple((z + 1e4).astype(np.float32) for z in _normal()),
    "tiny": lambda: tuple(z * 1e-25 for z in _normal()),
    "huge": lambda: tuple(z * np.float32(1e30) for z in _normal()),
    "an outlier": _outlier,
    "clusters": _clusters,
    "all alike": lambda: (np.ones((210, 16)), np.ones((190, 16))),
    "float16": lambda: tuple(z.astype(np.float16) for z in _normal()),
}


@pytest.fixture
def small_blocks(monkeypatch):
    """The devices get blocks of 64 rows, 8 on each, and 48 columns, none of them a divisor."""
    for name, value in (("ROWS", 64), ("COLUMNS", 48)):
        monkeypatch.setattr(pairs, name, value)
    return lambda device_pairs: monkeypatch.setattr(neighbours, "DEVICE_PAIRS", device_pairs)


@pytest.mark.parametrize("case", CASES)
def test_the_devices_decide_as_float64_does(case, small_blocks):
    real, fake = CASES[case]()
    for a, b in ((real, fake), (fake, real)):
        small_blocks(2**60)
        host = Manifold(a)
        radii, inside = host.radii, host.inside(b)
        np.testing.assert_array_equal(inside, _loops(b, a, 3))
        small_blocks(0)
        device = Manifold(a)
        np.testing.assert_array_equal(device.radii, radii)
        np.testing.assert_array_equal(device.inside(b), inside)


def test_the_devices_do_most_of_it(small_blocks, monkeypatch):
    real, fake = _normal()
    small_blocks(0)
    again = []
    for name in ("_radii", "_inside"):
        found = getattr(Manifold, name)
        monkeypatch.setattr(
            Manifold,
            name,
            lambda self, x, *rest, f=found: again.append(len(x)) or f(self, x, *rest),
        )
    precision_recall(real, fake)
    assert sum(again) < 5


def test_the_bound_holds_and_is_no_wider_than_needed():
    rng = np.random.default_rng(0)
    for width in (1, 700):
        x, y = (rng.normal(size=(64, width)).astype(np.float32) for _ in range(2))
        norms = np.sum(x.astype(np.float64) ** 2, axis=1)[:, None]
        norms = norms + np.sum(y.astype(np.float64) ** 2, axis=1)[None, :]
        exact = np.sum((x[:, None].astype(np.float64) - y[None]) ** 2, axis=2)
        empty = np.full((64, 2), np.inf, np.float32)
        for j in range(3):
            found = jax.jit(pairs.margins)(empty, x, y[j : j + 1], np.zeros(1, np.float32))
            lower, upper = np.asarray(found, np.float64).T
            assert (lower <= exact[:, j]).all() and (exact[:, j] <= upper).all()
            assert (upper - lower <= 2.1 * pairs.bound(width) * norms[:, j] + 1e-5).all()


def test_what_float32_cannot_hold_is_left_open():
    point, empty = np.ones((1, 4), np.float32), np.full((1, 2), np.inf, np.float32)
    for other, reach, inside, outside in (
        (0, np.inf, True, False),
        (1e30, np.inf, False, False),  # both squares are infinite
        (1e30, 1, False, True),
    ):
        balls = np.full((1, 4), other, np.float32)
        found = jax.jit(pairs.margins)(empty, point, balls, np.full(1, reach, np.float32))
        lower, upper = np.asarray(found)[0]
        assert (upper <= 0, lower > 0) == (inside, outside)
    balls = np.zeros((1, 4), np.float32)
    no_ball = jax.jit(pairs.margins)(empty, point, balls, np.full(1, -np.inf, np.float32))
    assert np.isposinf(np.asarray(no_ball)).all()


def test_files_are_read_in_blocks(small_blocks, tmp_path):
    real, fake = _normal()
    np.save(tmp_path / "real.npy", real)
    np.save(tmp_path / "fake.npy", fake[:100])
    files = Rows([tmp_path / "real.npy"]), Rows([tmp_path / "fake.npy", fake[100:]])
    expected = precision_recall(real, fake)
    assert precision_recall(*files) == expected
    small_blocks(0)
    assert precision_recall(*files) == expected


def test_golden():
    golden = np.load(pathlib.Path(__file__).parents[1] / "golden" / "metrics.npz")
    expected = float(golden["precision"]), float(golden["recall"])
    assert precision_recall(golden["real"], golden["fake"]) == pytest.approx(expected, rel=1e-9)


def test_bad_features_are_refused():
    x = np.random.default_rng(0).normal(size=(8, 3))
    broken = x.copy()
    broken[2, 1] = np.nan
    with pytest.raises(UserError, match="fake has NaN or infinity in 1 of 8"):
        precision_recall(x, broken)
    with pytest.raises(UserError, match=r"3 features per sample.* has 2"):
        precision_recall(x, x[:, :2])
    with pytest.raises(UserError, match=r"features has 3 features per sample and points has 2"):
        Manifold(x).inside(x[:, :2])
    with pytest.raises(UserError, match="fake has 3 samples; at least 4"):
        precision_recall(x, x[:3], k=3)
    for k in (0, 1.5, True):
        with pytest.raises(UserError, match=f"k={k}"):
            precision_recall(x, x, k=k)
