"""MIND against its definition: by hand in one dimension, and by plain sums in more."""

import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.evaluation import rows, sliced
from sg_jax.evaluation.distances import Rows, SlicedReference, frechet, mind


def test_by_hand():
    # In one dimension, the vectors are 1 and -1, and α is 3. Sorted: 0, 1, 5 and 1, 2, 3.
    assert mind([[5.0], [0.0], [1.0]], [[1.0], [2.0], [3.0]]) == pytest.approx(3 * (1 + 1 + 4) / 3)
    # Of 2 and 3 samples, the quantiles are 0 0 0 6 6 6 and 1 1 2 2 3 3, each for a sixth.
    expected = 3 * (1 + 1 + 4 + 16 + 9 + 9) / 6
    assert mind([[0.0], [6.0]], [[3.0], [1.0], [2.0]]) == pytest.approx(expected)
    assert mind([[3.0], [1.0], [2.0]], [[6.0], [0.0]]) == pytest.approx(expected)


def _plain(x, y, projections, seed):
    """Return MIND with each sample repeated, until both sets have equally many."""
    width = x.shape[1]
    vectors = np.random.default_rng([seed, 2605]).standard_normal((projections, width))
    total = 0.0
    for vector in vectors:
        unit = vector / np.sqrt(np.sum(vector**2))
        a = np.sort(np.repeat(x.astype(np.float64) @ unit, len(y)))
        b = np.sort(np.repeat(y.astype(np.float64) @ unit, len(x)))
        total += np.mean((a - b) ** 2)
    return 3 * width * total / projections


def _repeated(x, y):
    return np.repeat(x[:1], 40, axis=0), y


def _constant(x, y):
    return tuple(np.concatenate([z, np.full((len(z), 1), 2.7)], axis=1) for z in (x, y))


CASES = {
    "as they are": lambda x, y: (x, y),
    "float16": lambda x, y: (x.astype(np.float16), y),
    "fewer samples than features": lambda x, y: (x[:3], y[:4]),
    "one sample many times": _repeated,
    "a constant feature": _constant,
    "near-singular": lambda x, y: (np.concatenate([x, x + 1e-9], 1), np.concatenate([y, y], 1)),
    "far from the origin": lambda x, y: (x + 1e4, y + 1e4),
}


@pytest.mark.parametrize("case", CASES)
def test_it_equals_plain_sums_in_any_batches(case, monkeypatch):
    rng = np.random.default_rng(0)
    x, y = CASES[case](rng.normal(size=(24, 6)), 1.2 * rng.normal(size=(18, 6)) + 0.3)
    expected = _plain(x, y, 30, seed=5)
    assert mind(x, y, 30, seed=5) == pytest.approx(expected, rel=1e-10)
    assert mind(y, x, 30, seed=5) == pytest.approx(expected, rel=1e-10)
    monkeypatch.setattr(sliced, "GROUP", 7)
    assert mind(Rows([x[:2], x[2:]]), Rows([y]), 30, seed=5) == pytest.approx(expected, rel=1e-10)


def test_equal_sets_are_0_apart():
    x = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    assert mind(x, x) == 0
    assert mind(x, x[::-1]) == pytest.approx(0, abs=1e-20)
    assert mind(x, np.repeat(x, 3, axis=0)) == pytest.approx(0, abs=1e-20)


def test_a_shift_counts_three_times_its_square():
    # E (u·d)^2 = |d|^2 / F for a unit vector u, and α = 3 F.
    x = np.random.default_rng(0).normal(size=(50, 6))
    shift = np.array([[3.0, 4, 0, 0, 0, 0]])
    assert mind(x, x + shift, projections=20_000) == pytest.approx(3 * 25, rel=0.03)
    assert frechet(x, x + shift) == pytest.approx(25)


def test_projections_are_fixed_by_the_seed():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 64)), rng.normal(size=(40, 64)) + 0.5
    assert mind(x, y) == mind(x, y) != mind(x, y, seed=1)
    assert mind(x, y) == pytest.approx(mind(x, y, seed=1), rel=0.15)


def test_a_reference_is_projected_once(monkeypatch):
    rng = np.random.default_rng(0)
    x, ys = rng.normal(size=(40, 6)), [rng.normal(size=(n, 6)) + 0.3 for n in (20, 30)]
    reference = SlicedReference(x, 300, seed=5)
    assert mind(reference, ys[0]) == mind(x, ys[0], 300, seed=5)
    expected = mind(x, ys[1], 300, seed=5)
    projected, compute = [], sliced._sorted_projections
    monkeypatch.setattr(
        sliced,
        "_sorted_projections",
        lambda rows, vectors: projected.append(len(rows)) or compute(rows, vectors),
    )
    assert mind(reference, ys[1]) == expected
    assert projected == [30, 30, 30]  # 128, 128 and 44 vectors


def test_files_are_read_in_blocks(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(30, 5))
    np.save(tmp_path / "x.npy", x)
    expected = mind(x, y, 20)
    monkeypatch.setattr(rows.Rows.blocks, "__defaults__", (7,))
    assert mind(Rows([tmp_path / "x.npy"]), y, 20) == pytest.approx(expected, rel=1e-12)


def test_bad_input_is_refused():
    x = np.random.default_rng(0).normal(size=(8, 3))
    with pytest.raises(UserError, match="real has 0 samples"):
        mind(x[:0], x)
    with pytest.raises(UserError, match=r"real has 3 features .* fake has 2"):
        mind(x, x[:, :2])
    with pytest.raises(UserError, match="fake has NaN or infinity in 8 of 8"):
        mind(x, x * np.nan)
    with pytest.raises(UserError, match="projections=0 must be at least 1"):
        mind(x, x, projections=0)
    with pytest.raises(UserError, match="seed=-1"):
        mind(x, x, seed=-1)
