"""Saving in the background, and continuing from the latest checkpoint that is whole."""

import dataclasses
import json
import os
import shutil
import threading

import numpy as np
import pytest
from states import NAMES, TX, assert_equal, completed, make_model, random_state

from sg_jax.config import record
from sg_jax.errors import UserError
from sg_jax.programs.training import abstract_state
from sg_jax.weights import best, checkpoints, integrity
from sg_jax.weights.saver import Saver


def state_of(mesh, step):
    return dataclasses.replace(random_state(mesh, seed=step), step=np.int32(step))


@pytest.fixture(scope="module")
def written(tmp_path_factory, mesh_of):
    """A run with checkpoints of steps 4 and 8, and their states."""
    folder = tmp_path_factory.mktemp("runs") / "lr[3e-3]?*"  # patterns are names, too
    record.prepare(str(folder), completed(), NAMES, begun=False)
    states = {step: state_of(mesh_of(1, 1), step) for step in (4, 8)}
    with Saver(str(folder), every=4, keep=9) as saver:
        for step, state in states.items():
            saver.save(state, step, {"data_position": step})
    return folder, states


@pytest.fixture
def run(written, tmp_path):
    """A copy to damage."""
    folder, states = written
    shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path / folder.name, states


def restored(folder, mesh_of, every=4):
    with Saver(str(folder), every=every, keep=9) as saver:
        return saver.restore(abstract_state(make_model, TX, mesh_of(1, 1)))


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def truncate(path):
    path.write_bytes(path.read_bytes()[:10])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def foreign(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def test_every_file_of_a_checkpoint_has_a_checksum(written):
    step = written[0] / "checkpoints" / "8"
    found = {str(p.relative_to(step)) for p in step.rglob("*") if p.is_file()}
    assert set(json.loads((step / "sha256.json").read_text())) == found - {"sha256.json"}
    assert len(found) > 20


@pytest.mark.every(8)
@pytest.mark.parametrize("damage", [truncate, flip, foreign, os.unlink])
@pytest.mark.parametrize("kind", ["model/d/*", "ema/d/*", "*/manifest.ocdbt", "_CHECKPOINT*"])
def test_a_damaged_checkpoint_is_set_aside(run, mesh_of, capsys, damage, kind):
    folder, states = run
    step = folder / "checkpoints" / "8"
    path = max(step.glob(kind), key=lambda p: p.stat().st_size)
    damage(path)
    state, progress = restored(folder, mesh_of)
    assert progress == {"step": 4, "data_position": 4}
    assert_equal(state, states[4])
    assert names(folder) == ["4", "8.damaged"]  # nothing is deleted
    what = "is missing" if damage is os.unlink else "is not as it was written"
    printed = capsys.readouterr().out
    assert f"{folder}/checkpoints/8 is damaged: {path.relative_to(step)} {what}" in printed
    assert "Checkpoint 8 is now 8.damaged" in printed


@pytest.mark.parametrize("damage", [truncate, foreign])
def test_damaged_checksums_do_not_vouch_for_a_checkpoint(run, mesh_of, damage):
    folder, _ = run
    damage(folder / "checkpoints" / "8" / "sha256.json")
    assert restored(folder, mesh_of)[1]["step"] == 4


def test_a_checkpoint_without_checksums_is_taken_and_the_log_says_so(run, mesh_of, capsys):
    folder, states = run
    (folder / "checkpoints" / "8" / "sha256.json").unlink()
    assert_equal(restored(folder, mesh_of)[0], states[8])
    assert "8 has no sha256.json, so its files are not verified" in capsys.readouterr().out
    truncate(max((folder / "checkpoints" / "8").glob("ema/d/*"), key=lambda p: p.stat().st_size))
    assert restored(folder, mesh_of)[1]["step"] == 4  # it cannot be read


@pytest.mark.slow
def test_a_step_is_saved_again_after_its_damage(run, mesh_of):
    folder, states = run
    for _ in range(2):
        flip(next((folder / "checkpoints" / "8").glob("model/manifest*")))
        with Saver(str(folder), every=4, keep=9) as saver:
            saver.restore(abstract_state(make_model, TX, mesh_of(1, 1)))
            saver.save(states[8], 8, {"data_position": 8})
    assert names(folder) == ["4", "8", "8.damaged", "8.damaged.1"]
    assert_equal(restored(folder, mesh_of)[0], states[8])


def test_a_run_without_a_whole_checkpoint_is_not_started_again(run, mesh_of):
    folder, _ = run
    for step in ("4", "8"):
        flip(next((folder / "checkpoints" / step).glob("model/manifest*")))
    with pytest.raises(UserError, match=r"No checkpoint in \S+ is whole.* Nothing was deleted"):
        restored(folder, mesh_of)
    assert names(folder) == ["4", "8"]


def test_weights_come_from_the_checkpoint_before_a_damaged_one(run, capsys):
    folder, states = run
    flip(max((folder / "checkpoints" / "8").glob("ema/d/*"), key=lambda p: p.stat().st_size))
    assert_equal(checkpoints.load(folder), states[4].ema)
    assert "8 is damaged" in capsys.readouterr().out
    assert_equal(checkpoints.load(folder, weights="model"), states[8].model)  # another part
    with pytest.raises(UserError, match="8 is damaged: ema/"):
        checkpoints.load(folder, step=8)
    assert names(folder) == ["4", "8"]


@pytest.mark.parametrize("asked, verified", [(None, False), ("best", True), (8, False)])
def test_a_checkpoint_that_training_removes_meanwhile_is_not_damaged(
    run, monkeypatch, capsys, asked, verified
):
    """A command reads the latest one, or the best, while the run saves the next and removes it."""
    folder, states = run
    best.write(folder, best.Best(8, "frechet", 1.0))
    verify, saved = integrity.verify, folder / "checkpoints"

    def late(*given):
        sound = verified and verify(*given)
        if (saved / "8").exists():
            shutil.rmtree(saved / "4")
            (saved / "8").rename(saved / "12")
            best.write(folder, best.Best(12, "frechet", 0.5))
        return sound or verify(*given)

    monkeypatch.setattr(integrity, "verify", late)
    if asked == 8:
        with pytest.raises(UserError, match=r"step=8 is not a checkpoint in .*: there are \[12\]"):
            checkpoints.load(folder, step=8)
    else:
        network, step = checkpoints.load_with_step(folder, asked)
        assert step == 12
        assert_equal(network, states[8].ema)
    assert "damaged" not in capsys.readouterr().out


def test_a_file_that_may_not_be_read_is_no_damage(run, mesh_of, monkeypatch):
    folder, _ = run

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(integrity, "_sum", denied)
    with pytest.raises(UserError, match=r"checkpoints/8/\S+ cannot be read \(Permission denied\)"):
        restored(folder, mesh_of)
    assert names(folder) == ["4", "8"]


@pytest.mark.slow
def test_saving_releases_its_threads_and_descriptors(tmp_path, mesh_of):
    state = random_state(mesh_of(1, 1))
    counts = []
    with Saver(str(tmp_path), every=1, keep=1) as saver:
        for step in range(1, 9):
            saver.save(state, step, {})
            saver.wait()
            counts.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
    assert counts[-1] == counts[2]


def test_a_save_that_failed_is_noticed_before_the_next(tmp_path, mesh_of, monkeypatch):
    def full(folder):
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(integrity, "seal", full)  # the end of a save
    saved = []
    with pytest.raises(
        UserError, match=r"step 1 could not be saved\. \S+/checkpoints/1: no space is left"
    ):
        with Saver(str(tmp_path), every=1, keep=1) as saver:
            for step in (1, 2):
                saver.save(state_of(mesh_of(1, 1), step), step, {})
                saved.append(step)
    assert saved == [1]


def test_a_folder_that_cannot_be_written_is_noticed_before_saving(tmp_path, mesh_of):
    with pytest.raises(UserError, match="checkpoints is a file, but a folder is needed"):
        with Saver(str(tmp_path), every=1, keep=1) as saver:
            saver.save(state_of(mesh_of(1, 1), 1), 1, {})
            saver.wait()
            shutil.rmtree(tmp_path / "checkpoints")
            (tmp_path / "checkpoints").write_text("")
            saver.save(state_of(mesh_of(1, 1), 2), 2, {})


def test_what_a_killed_save_left_is_removed(run, mesh_of):
    folder, states = run
    partial = folder / "checkpoints" / "12.orbax-checkpoint-tmp"
    (partial / "model").mkdir(parents=True)
    with Saver(str(folder), every=4, keep=9) as saver:
        assert saver.restore(abstract_state(make_model, TX, mesh_of(1, 1)))[1]["step"] == 8
        saver.save(states[4], 12, {})
    assert names(folder) == ["12", "4", "8"]


def test_a_checkpoint_without_checksums_gets_them_when_the_run_continues(run, mesh_of):
    """As after a kill between the two."""
    folder, states = run
    sums = folder / "checkpoints" / "8" / "sha256.json"
    whole = json.loads(sums.read_text())
    sums.unlink()
    assert_equal(restored(folder, mesh_of)[0], states[8])
    assert json.loads(sums.read_text()) == whole


@pytest.mark.every(6)
@pytest.mark.parametrize("gone", ["sha256.json", "model/manifest.ocdbt", "ema/_METADATA"])
@pytest.mark.parametrize("keep, keep_period", [(1, 0), (1, 8), (2, 0), (1, 4)])
def test_what_is_left_of_a_removed_checkpoint_is_removed(run, mesh_of, gone, keep, keep_period):
    """As after a kill while it was removed: only if it was not to be kept."""
    folder, states = run
    (folder / "checkpoints" / "4" / gone).unlink()
    abstract = abstract_state(make_model, TX, mesh_of(1, 1))
    with Saver(str(folder), 4, keep, keep_period) as saver:
        assert_equal(saver.restore(abstract)[0], states[8])
    kept = keep == 2 or keep_period == 4
    assert names(folder) == (["4", "8"] if kept else ["8"])


@pytest.mark.slow
def test_whole_checkpoints_that_are_too_many_stay_until_a_save(run, mesh_of):
    folder, _ = run
    shutil.copytree(folder / "checkpoints" / "4", folder / "checkpoints" / "3")
    abstract = abstract_state(make_model, TX, mesh_of(1, 1))
    for left in (["3", "4", "8"], ["8"]):
        with Saver(str(folder), every=4, keep=1) as saver:
            saver.restore(abstract)
        assert names(folder) == left
        shutil.rmtree(folder / "checkpoints" / "3", ignore_errors=True)  # one: a kill's
