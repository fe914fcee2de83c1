"""KID against loops, and that of the devices against that of float64."""

import functools
import itertools
import pathlib

import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.evaluation import kernel, pairs
from sg_jax.evaluation.distances import KernelReference, Rows, kid


def _loops(x, y):
    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    x, y = (list(np.asarray(z, np.float64)) for z in (x, y))
    xx = np.mean([k(a, b) for a, b in itertools.permutations(x, 2)])
    yy = np.mean([k(a, b) for a, b in itertools.permutations(y, 2)])
    return xx + yy - 2 * np.mean([k(a, b) for a, b in itertools.product(x, y)])


def test_by_hand():
    # k(1, 3) = 4^3, k(0, 2) = 1, of all pairs k = 1, 3^3, 1, 7^3.
    assert kid([[1.0], [3.0]], [[0.0], [2.0]]) == pytest.approx(64 + 1 - 2 * 372 / 4)


def test_it_equals_loops_in_any_block_size(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 5)), 1.3 * rng.normal(size=(17, 5)) + 0.5
    expected = _loops(x, y)
    assert kid(x, y) == pytest.approx(expected, rel=1e-12)
    assert kid(y, x) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(kernel, "BLOCK", 7)
    assert kid(x, y) == pytest.approx(expected, rel=1e-12)


def _sets(case):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(203, 24)), 1.1 * rng.normal(size=(150, 24)) + 0.2
    return {
        "normal": (x.astype(np.float32), y.astype(np.float32)),
        "nearly alike": (x, np.concatenate([x[:140], y[:10]])),
        "fewer samples than features": (x[:9], y[:7]),
        "a constant feature": tuple(
            np.concatenate([z[:, 1:], 0 * z[:, :1] + 3], 1) for z in (x, y)
        ),
        "one sample many times": (np.repeat(x[:1], 40, axis=0), y),
        "far from the origin": (x + 100, y + 100),
        "large": (1e6 * x, 1e6 * y),
        "small": (1e-3 * x, 1e-3 * y),
        "outliers": (x * np.where(np.arange(203) < 3, 1e9, 1)[:, None], y),
        "positive, as Inception's": (np.abs(x) / 3, np.abs(y) / 3),
    }[case]


@pytest.mark.every(2)
@pytest.mark.parametrize(
    "case",
    [
        "normal", "nearly alike", "fewer samples than features", "a constant feature",
        "one sample many times", "far from the origin", "large", "small",
        "outliers", "positive, as Inception's",
    ],
)  # fmt: skip
def test_the_devices_find_what_float64_finds(case, monkeypatch):
    x, y = _sets(case)
    expected = kid(x, y)
    if len(x) < 10:
        assert expected == pytest.approx(_loops(x, y), rel=1e-10)
    for name, value in (("ROWS", 128), ("COLUMNS", 64)):
        monkeypatch.setattr(pairs, name, value)
    monkeypatch.setattr(kernel, "DEVICE_PAIRS", 0)
    assert kid(x, y) == pytest.approx(expected, rel=1e-6)
    parts = Rows([x[:5], x[5:]])
    assert kid(parts, Rows([y])) == kid(x, y)
    assert kid(parts, parts) == kid(x, x)  # the same object is still two sets
    assert kid(y, x) == pytest.approx(expected, rel=1e-6)
    assert kid(KernelReference(x), y) == kid(x, y)


@pytest.mark.parametrize(("device_pairs", "expected"), [(0, [30]), (2**24, [30, 40])])
def test_a_reference_is_summed_once(device_pairs, expected, monkeypatch):
    rng = np.random.default_rng(0)
    x, *ys = (rng.normal(size=(n, 6)) + n / 100 for n in (40, 20, 30))
    monkeypatch.setattr(kernel, "DEVICE_PAIRS", device_pairs)
    reference, distances = KernelReference(x), [kid(x, y) for y in ys]
    assert kid(reference, ys[0]) == distances[0]
    summed = []  # the samples of the first set of each sum over pairs; host: fake's own, and both

    def counted(compute, rows, *others, **how):
        summed.append(len(rows))
        return compute(rows, *others, **how)

    for name in ("_own_sum", "_sum_on_host"):
        compute = getattr(kernel, name)
        monkeypatch.setattr(kernel, name, functools.partial(counted, compute))
    assert kid(reference, ys[1]) == distances[1]
    assert summed == expected
    monkeypatch.undo()
    subsets = dict(subsets=3, size=20)
    assert kid(reference, ys[0], **subsets) == kid(x, ys[0], **subsets)


def test_one_set_compared_with_itself():
    x = np.random.default_rng(0).normal(size=(40, 6))
    rows = Rows([x])
    # All pairs less the diagonal's share: 2 (mean off the diagonal - mean of all).
    k = (x @ x.T / 6 + 1) ** 3
    off = (k.sum() - np.trace(k)) / (40 * 39)
    assert kid(rows, rows) == kid(x, x) == pytest.approx(2 * (off - k.mean()), rel=1e-12)


def test_subsets_are_those_of_the_seed(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), rng.normal(size=(50, 5)) + 0.5
    found = kid(x, y, subsets=20, size=30)
    assert found == kid(x, y, subsets=20, size=30) != kid(x, y, subsets=20, size=30, seed=1)
    assert found == pytest.approx(kid(x, y), rel=0.3)
    np.save(tmp_path / "x.npy", x)
    assert kid(Rows([tmp_path / "x.npy"]), y, subsets=20, size=30) == found
    assert kid(x, y, subsets=1, size=50) == pytest.approx(kid(x, y), rel=0.3)


def test_golden():
    golden = np.load(pathlib.Path(__file__).parents[1] / "golden" / "metrics.npz")
    assert kid(golden["real"], golden["fake"]) == pytest.approx(float(golden["kid"]), rel=1e-9)


def test_bad_input_is_refused():
    x = np.random.default_rng(0).normal(size=(8, 3))
    with pytest.raises(UserError, match="real has 1 samples; at least 2"):
        kid(x[:1], x)
    with pytest.raises(UserError, match="fake has 8 samples; at least 9"):
        kid(np.repeat(x, 2, axis=0), x, subsets=3, size=9)
    with pytest.raises(UserError, match=r"real has 3 features .* fake has 2"):
        kid(x, x[:, :2])
    for wrong in (dict(subsets=0), dict(subsets=2, size=1), dict(subsets=2, seed=-1)):
        with pytest.raises(UserError, match="must be"):
            kid(x, x, **wrong)
