"""What is gathered in a stream: the same as at once, in any batches, and again from its files."""

import numpy as np
import pytest

from sg_jax.evaluation import tally
from sg_jax.evaluation.distances import Predictions, Rows, Statistics
from sg_jax.evaluation.found import Seen
from sg_jax.evaluation.tally import Tallies, Tally

COUNT = 37
RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((COUNT, 6)).astype(np.float32)
SPATIAL = RNG.standard_normal((COUNT, 9)).astype(np.float32)
LOGITS = RNG.standard_normal((COUNT, 4)).astype(np.float32)
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
LABELS = np.arange(COUNT) % 4
EVERY, SOME, NONE = np.arange(COUNT), np.array([0, 3, 10, 36]), np.arange(0)


def seen(rows):
    return Seen(FEATURES[rows], PROBABILITIES[rows], SPATIAL[rows], LOGITS[rows])


def add(tallies, size, stop=COUNT):
    for first in range(tallies.count, stop, size):
        rows = slice(first, min(first + size, stop))
        tallies.add({kind: seen(rows) for kind in tallies.tallies}, LABELS[rows])
    return tallies


def check(found, kept):
    whole = Statistics.of(FEATURES)
    np.testing.assert_allclose(found.statistics.scatter, whole.scatter, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.spatial.mean, SPATIAL.mean(0, dtype=np.float64), atol=1e-12)
    assert found.predictions.score() == Predictions.of(LOGITS).score()
    np.testing.assert_array_equal(found.labels, LABELS)
    np.testing.assert_array_equal(found.predicted, LOGITS.argmax(1))
    if not len(kept):
        assert found.features is None
        return
    features = found.features
    features = np.concatenate(list(features.blocks(5))) if isinstance(features, Rows) else features
    np.testing.assert_array_equal(features, FEATURES[kept])


@pytest.mark.parametrize("size", [1, 8, COUNT])
@pytest.mark.parametrize("kept", [EVERY, SOME, NONE])
def test_a_stream_gathers_what_all_at_once_have(size, kept):
    found = add(Tallies({"a": Tally(kept, EVERY)}), size).results()["a"]
    check(found, kept)
    assert found.count == COUNT


@pytest.mark.parametrize("kept", [EVERY, SOME, NONE])
@pytest.mark.parametrize("stop", [8, 16, 36])
def test_what_was_interrupted_goes_on(tmp_path, kept, stop):
    def new(about="x"):
        kinds = {"a": Tally(kept, EVERY), "b": Tally(NONE, EVERY)}
        return Tallies(kinds, tmp_path / "part", about)

    first = add(new(), 4, stop)
    first.save()
    add(first, 1, min(stop + 3, COUNT))  # lost with the process, though some reached a file
    first._spill(tmp_path / "part")
    again = new()
    assert again.count == stop
    found = add(again, 5).results()
    check(found["a"], kept)
    check(found["b"], NONE)
    again.save()
    assert new().count == COUNT
    assert new("something else").count == 0 and not (tmp_path / "part").exists()
    again.remove()


@pytest.mark.parametrize("damage", ["state cut", "file cut", "file gone", "no state"])
def test_what_is_damaged_is_done_again(tmp_path, capsys, damage):
    def new():
        return Tallies({"a": Tally(EVERY)}, tmp_path / "part", "x")

    tallies = add(new(), 10, 20)
    tallies.save()
    (file,) = (tmp_path / "part").glob("*.npy")
    state = tmp_path / "part" / "state.npz"
    if damage == "state cut":
        state.write_bytes(state.read_bytes()[:-30])
    elif damage == "file cut":
        file.write_bytes(file.read_bytes()[:-30])
    else:
        (file if damage == "file gone" else state).unlink()
    again = new()
    assert again.count == 0 and not (tmp_path / "part").exists()
    assert ("done again" in capsys.readouterr().out) == (damage != "no state")
    check(add(again, 9).results()["a"], EVERY)


def test_memory_holds_no_more_than_a_few_features(tmp_path, monkeypatch):
    monkeypatch.setattr(tally, "IN_MEMORY", 5 * FEATURES[0].nbytes)
    tallies = Tallies({"a": Tally(EVERY, EVERY)}, tmp_path / "part", "x")
    most = 0
    for first in range(COUNT):
        rows = slice(first, first + 1)
        tallies.add({"a": seen(rows)}, LABELS[rows])
        most = max(most, tallies.tallies["a"].waiting)
    assert most <= 6 * FEATURES[0].nbytes
    check(tallies.results()["a"], EVERY)
