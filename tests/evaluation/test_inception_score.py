"""The Inception Score in any batches, and the accuracy of classes."""

import dataclasses
import math
import pathlib

import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.evaluation.distances import Predictions, Rows, class_accuracy, inception_score


@pytest.fixture
def logits():
    rng = np.random.default_rng(0)
    return (3 * rng.normal(size=(53, 7)) + 400).astype(np.float32)  # exp(400) is infinite


def _plain(logits, split):
    """Return the score by the formula, in Python's numbers."""
    scores = []
    for start in range(0, len(logits), split):
        rows = []
        for row in logits[start : start + split].tolist():
            powers = [math.exp(value - max(row)) for value in row]
            rows.append([power / math.fsum(powers) for power in powers])
        mean = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
        divergences = [
            math.fsum(p * math.log(p / m) for p, m in zip(row, mean, strict=True)) for row in rows
        ]
        scores.append(math.exp(math.fsum(divergences) / len(rows)))
    return math.fsum(scores) / len(scores)


@pytest.mark.parametrize("split", [1, 10, 53, 5000])
def test_the_score_is_that_of_the_formula(logits, split):
    # In splits of 10, the sixth has 3 images and counts as much as the others.
    assert inception_score(logits, split) == pytest.approx(_plain(logits, split), rel=1e-12)


def test_the_score_by_hand():
    certain = 1e3 * np.eye(4)
    assert inception_score(certain) == pytest.approx(4)  # 4 classes, each seen once
    assert inception_score(np.repeat(certain[:1], 4, axis=0)) == pytest.approx(1)
    assert inception_score(np.zeros((5, 4))) == pytest.approx(1)  # says nothing
    assert inception_score(certain, split=1) == 1  # one image is its own mean
    assert inception_score(certain, split=2) == pytest.approx(2)


@pytest.mark.parametrize("size", [1, 4, 10, 25])
def test_batches_give_the_same_sums(logits, size):
    found = Predictions.of(logits[:0], split=10)
    for start in range(0, len(logits), size):
        found = found.extend(logits[start : start + size])
    whole = Predictions.of(logits, split=10)
    assert found.count == 53 and len(found.information) == 6
    np.testing.assert_array_equal(found.probabilities, whole.probabilities)
    np.testing.assert_array_equal(found.information, whole.information)
    assert inception_score(found) == whole.score() == inception_score(Rows([logits]), 10)


def test_predictions_are_stored_and_go_on(logits, tmp_path):
    first = Predictions.of(logits[:27], split=10)
    np.savez(tmp_path / "predictions.npz", **dataclasses.asdict(first))
    with np.load(tmp_path / "predictions.npz") as file:
        again = Predictions(**file)
    assert again.extend(logits[27:]).score() == inception_score(logits, 10)
    assert first.count == again.count == 27
    with pytest.raises(
        UserError, match=r"of 37 images in splits of 10.*must be \[4, C\] and \[4\]"
    ):
        dataclasses.replace(first, count=37)


def test_golden():
    golden = np.load(pathlib.Path(__file__).parents[1] / "golden" / "metrics.npz")
    for name, split in (("inception_score", 300), ("inception_score_100", 100)):
        expected = float(golden[name])
        assert inception_score(golden["logits"], split) == pytest.approx(expected, rel=1e-9)


def test_bad_predictions_are_refused(logits):
    for split in (0, -1, 2.5):
        with pytest.raises(UserError, match=f"split={split}"):
            inception_score(logits, split)
    with pytest.raises(UserError, match="logits has 0 samples"):
        inception_score(logits[:0])
    with pytest.raises(UserError, match="logits has NaN or infinity in 1 of 2"):
        inception_score([[0.0, np.inf], [0, 0]])
    with pytest.raises(UserError, match=r"logits has shape \[7\]"):
        inception_score(logits[0])
    with pytest.raises(UserError, match="logits has 3 classes; earlier ones had 7"):
        Predictions.of(logits).extend(logits[:, :3])


def test_class_accuracy_counts_hits():
    probabilities = [[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.4, 0.5, 0.1], [0.3, 0.4, 0.3]]
    assert class_accuracy(probabilities, [0, 2, 0, 1]) == 3 / 4


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"labels of shape \[2\]"):
        class_accuracy([[0.5, 0.5]], [0, 1])
    with pytest.raises(UserError, match=r"0\.\.1"):
        class_accuracy([[0.5, 0.5]], [2])
