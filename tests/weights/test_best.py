"""The best checkpoint: which it is, that it stays, and that no kill loses it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from states import NAMES, TX, assert_equal, completed, make_model, random_state

from sg_jax.config import record
from sg_jax.errors import UserError
from sg_jax.programs.training import abstract_state
from sg_jax.weights import best, checkpoints
from sg_jax.weights.best import Best
from sg_jax.weights.saver import Saver

VALUE = 0.1 + 0.2 + 1e-16  # all 64 bits count


@pytest.mark.parametrize(
    "value, better, improves",
    [(1.0, -1, True), (2.0, -1, False), (3.0, -1, False), (3.0, 1, True), (1.0, 1, False)]
    + [(value, sign, False) for value in (np.nan, np.inf, -np.inf) for sign in (1, -1)],
)
def test_what_is_better(value, better, improves):
    assert best.improves(value, "fid", better, Best(1, "fid", 2.0)) == improves
    assert best.improves(value, "fid", better, None) == bool(np.isfinite(value))
    assert best.improves(value, "fid", better, Best(1, "mind", 2.0)) == bool(np.isfinite(value))


def test_the_numbers_of_a_checkpoint():
    found = Best(40, "a/b", VALUE)
    assert best.split({"data_position": 7, **found.numbers}) == ({"data_position": 7}, found)
    assert best.split({"step": 7}) == ({"step": 7}, None)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "[" * 9999,
        '{"step": 1}',
        '{"step": "1", "metric": "a", "value": 1}',
        '{"step": 1, "metric": "a", "value": NaN}',
        '{"step": true, "metric": "a", "value": 1}',
    ],
)
def test_a_damaged_file_names_no_step(tmp_path, content):
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(UserError, match=r"no best checkpoint was kept: .*keep_best"):
        best.best_step(tmp_path)


@pytest.fixture
def saves(tmp_path, mesh_of):
    """(steps, values by step) -> save them, the best with its value; returns the folders left."""
    folder = tmp_path / "run"
    record.prepare(str(folder), completed(), NAMES, begun=False)
    state = random_state(mesh_of(1, 1))

    def save(steps, values, keep=1, period=0):
        with Saver(str(folder), 10, keep, period) as saver:
            saver.restore(abstract_state(make_model, TX, mesh_of(1, 1)))
            for step in steps:
                found = None
                if step in values and best.improves(values[step], "fid", -1, saver.best):
                    found = Best(step, "fid", values[step])
                stepped = dataclasses.replace(state, step=np.int32(step))
                saver.save(stepped, step, {"data_position": step}, found)
        return left(folder)

    save.folder, save.state = folder, state
    return save


def left(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


@pytest.mark.slow
def test_the_best_one_stays_until_a_better_one_is_there(saves):
    assert saves([10, 15, 20, 30], {15: 1.0, 20: 2.0}) == [15, 30]
    assert json.loads((saves.folder / "best.json").read_text()) == {
        "step": 15, "metric": "fid", "value": 1.0,
    }  # fmt: skip
    assert saves([35, 40], {35: 1.5, 40: np.nan}) == [15, 40]  # after the run continued
    assert best.best_step(saves.folder) == 15
    assert saves([45], {45: 0.5}) == [45]  # at the end no other save removes the older one
    assert saves([50, 60], {}) == [45, 60]
    assert_equal(checkpoints.load(saves.folder, step="best"), saves.state.ema)
    assert checkpoints.load_with_step(saves.folder, step="best")[1] == 45


@pytest.mark.slow
def test_one_that_is_kept_for_another_reason_stays(saves):
    assert saves([20, 25, 30], {20: 1.0, 25: 0.5}, keep=1, period=20) == [20, 25, 30]
    assert saves([32], {32: 0.1}, keep=2, period=20) == [20, 30, 32]


@pytest.mark.slow
@pytest.mark.every(2)
@pytest.mark.parametrize("when", ["before best.json", "before the older one is removed"])
def test_a_kill_loses_no_best_one(saves, monkeypatch, when):
    saves([10], {10: VALUE})
    copy = saves.folder.with_name("copy")
    shutil.copytree(saves.folder, copy)
    if when == "before best.json":
        monkeypatch.setattr(best, "write", lambda *_: None)
    monkeypatch.setattr(Saver, "_remove_replaced", lambda _: None)
    assert saves([15], {15: VALUE / 2}) == [10, 15]  # one more than is needed
    monkeypatch.undo()
    assert best.best_step(saves.folder) == (10 if when == "before best.json" else 15)
    assert checkpoints.load_with_step(saves.folder, step="best")[1] in (10, 15)
    assert saves([], {}) == [15]
    assert best.read(saves.folder) == Best(15, "fid", VALUE / 2)
    shutil.copy(copy / "best.json", saves.folder / "best.json")  # of before
    assert saves([20], {20: VALUE}) == [15, 20]
    assert best.best_step(saves.folder) == 15


@pytest.mark.slow
def test_a_run_that_goes_back_forgets_a_later_best_one(saves):
    saves([10, 20, 25], {10: 1.0, 25: 0.1}, keep=3)
    checkpoints.set_aside(saves.folder, 20, "diverged")
    assert saves([30], {30: 0.5}, keep=3)
    assert best.read(saves.folder) == Best(30, "fid", 0.5)


@pytest.mark.slow
def test_a_best_one_that_is_gone_is_forgotten(saves):
    saves([10, 20], {10: 1.0})
    shutil.rmtree(saves.folder / "checkpoints" / "10")
    with pytest.raises(UserError, match=r"step=10 is not a checkpoint"):
        checkpoints.load(saves.folder, step="best")
    assert saves([30], {30: 9.0}) == [30]
    assert best.best_step(saves.folder) == 30


@pytest.mark.slow
def test_the_best_one_in_a_bucket(bucket, mesh_of):
    state = random_state(mesh_of(1, 1))
    with Saver("gs://b/run", every=10, keep=1) as saver:
        for step, value in {10: 1.0, 20: 2.0, 25: 0.5, 30: 0.7}.items():
            found = Best(step, "fid", value) if value in (1.0, 0.5) else None
            saver.save(dataclasses.replace(state, step=np.int32(step)), step, {}, found)
    assert best.best_step("gs://b/run") == 25
    assert checkpoints.steps_of("gs://b/run") == [25, 30]
    with Saver("gs://b/run", every=10, keep=1) as saver:
        saver.restore(abstract_state(make_model, TX, mesh_of(1, 1)))
        assert saver.best == Best(25, "fid", 0.5)
