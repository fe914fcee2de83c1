"""Drawings that are scored as they come: progress, what is timed, what an interruption leaves."""

import contextlib
import time

import numpy as np
import pytest
from tiny_networks import Pixels

from sg_jax.evaluation import tally
from sg_jax.evaluation.found import FeatureSet
from sg_jax.evaluation.judge import Judge
from sg_jax.evaluation.real import View
from sg_jax.evaluation.stream import Stream
from sg_jax.programs.sampling import COMPILE
from sg_jax.runs import progress

PIXELS = Pixels(classes=3)
COUNT, BATCH = 23, 5
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 3), np.uint8)
LABELS = np.arange(COUNT) % 3


@pytest.fixture
def judge():
    real = FeatureSet(PIXELS.score(IMAGES[::-1])[0], LABELS, LABELS)
    return Judge({"classifier": View(PIXELS, real)})


class Interrupted(Exception):
    """What ends a drawing."""


class Drawer:
    """Yields the images in batches, and stops in the middle if it is told to.

    Each row of its program takes a second, and a new program has to be compiled.
    """

    def __init__(self, stop=None):
        self.calls, self.stop, self.now, self._compiled = [], stop, 0.0, set()

    def __call__(self, labels, first=0, spent=None):
        self.calls.append((len(labels), first))
        rows = min(BATCH, len(labels))
        if rows not in self._compiled:
            self._compiled.add(rows)
            with spent.on(COMPILE):
                self.now += 100.0
        for begin in range(0, len(labels), BATCH):
            if self.stop is not None and first + begin >= self.stop:
                raise Interrupted
            self.now += rows
            end = min(begin + BATCH, len(labels))
            yield IMAGES[first + begin : first + end]


def of(draw, judge, kept=None, shown=3, **options):
    how = dict(keep=None if kept is None else kept.append, shown=shown)
    return Stream(draw, LABELS, judge, batch_size=BATCH, **{**how, **options})


def test_a_stream_scores_what_all_images_at_once_score(judge, tmp_path):
    kept, draw = [], Drawer()
    drawn = of(draw, judge, kept).run(tmp_path / "part", "x")
    assert draw.calls == [(COUNT, 0)] and drawn.rate > 0
    np.testing.assert_array_equal(kept, [IMAGES[:3]])
    whole = {
        "classifier": FeatureSet(
            PIXELS.score(IMAGES)[0], LABELS, (IMAGES.reshape(COUNT, -1)[:, :3]).argmax(1)
        )
    }
    found, expected = judge.scores_of(drawn.sets), judge.scores_of(whole)
    assert found.keys() == expected.keys() and "kid" in found
    for name in found:
        assert found[name] == pytest.approx(expected[name], rel=1e-9, abs=1e-12)
    drawn.finish()
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize("stop", [5, 10, 20])
def test_an_interrupted_stream_goes_on_where_it_was(judge, tmp_path, monkeypatch, capsys, stop):
    monkeypatch.setattr(tally, "PAUSE", 0.0)
    monkeypatch.setattr(tally.time, "monotonic", lambda: 0.0)  # always time to save
    with pytest.raises(Interrupted):
        of(Drawer(stop), judge, []).run(tmp_path / "part", "x")
    kept, draw = [], Drawer()
    drawn = of(draw, judge, kept).run(tmp_path / "part", "x")
    again = (max(COUNT - stop, BATCH), min(stop, COUNT - BATCH))  # full batches
    assert f"Continue after {stop} of {COUNT}" in capsys.readouterr().out
    assert draw.calls[-1] == again and (COUNT, 0) not in draw.calls
    np.testing.assert_array_equal(kept, [IMAGES[:3]])  # drawn again, for they are in no file
    whole = of(Drawer(), judge).run(tmp_path / "other", "x")
    assert judge.scores_of(drawn.sets) == pytest.approx(judge.scores_of(whole.sets), rel=1e-9)
    np.testing.assert_array_equal(
        np.concatenate(list(drawn.sets["classifier"].features.blocks(7))),
        PIXELS.score(IMAGES)[0],
    )


@pytest.mark.parametrize("count", [4, COUNT])
def test_all_images_are_drawn_once_and_no_compilation_is_timed(judge, tmp_path, monkeypatch, count):
    draw = Drawer()
    monkeypatch.setattr(time, "perf_counter", lambda: draw.now)
    stream = Stream(draw, LABELS[:count], judge, keep=None, shown=3, batch_size=BATCH)
    assert stream.run(tmp_path / "part", "x").rate == 1.0
    assert draw.calls == [(count, 0)]


@pytest.mark.parametrize("stop", [5, 20, None])
@pytest.mark.parametrize("kept", [None, []])
def test_what_is_left_of_a_drawing_is_as_fast_as_all_of_it(
    judge, tmp_path, monkeypatch, stop, kept
):
    monkeypatch.setattr(tally, "PAUSE", 0.0)
    monkeypatch.setattr(tally.time, "monotonic", lambda: 0.0)  # always time to save
    with contextlib.suppress(Interrupted):
        of(Drawer(stop), judge, []).run(tmp_path / "part", "x")
    draw = Drawer()
    monkeypatch.setattr(time, "perf_counter", lambda: draw.now)
    assert of(draw, judge, kept).run(tmp_path / "part", "x").rate == 1.0


def test_a_long_drawing_says_how_far_it_is(judge, tmp_path, monkeypatch, capsys):
    of(Drawer(), judge).run(tmp_path / "a", "x")
    assert not capsys.readouterr().out  # it was quick
    monkeypatch.setattr(progress, "OFTEN", 0.0)
    of(Drawer(), judge).run(tmp_path / "b", "x")
    lines = capsys.readouterr().out.splitlines()
    begun = [line.partition("/23  ")[0].split() for line in lines]
    assert begun == [["image", n] for n in ("5", "10", "15", "20")]
    assert all("ETA" in line for line in lines)


def test_first_images_alone(judge):
    kept, draw = [], Drawer()
    of(draw, None, kept, shown=7).first()
    np.testing.assert_array_equal(kept, [IMAGES[:7]])
    assert draw.calls == [(7, 0)]
