"""Several processes that train and save one run. Every run is a command of its own."""

import json
import shutil
import signal

import pytest
from groups import FSDP, STEPS, assert_same_losses, losses, saved


@pytest.mark.slow
def test_four_processes_train_as_one(one, four):
    assert_same_losses(four, one)
    assert list(losses(four)) == list(range(1, 9))
    assert saved(four) == [4, 8]
    assert len(list((four / "tensorboard").iterdir())) == 1  # one process writes


@pytest.mark.slow
def test_processes_that_share_the_weights_train_as_one(one, run, tmp_path):
    run(tmp_path / "two", *STEPS, *FSDP, number=2, devices=2)
    assert_same_losses(tmp_path / "two", one)


TURNED = """
import runpy
import numpy as np
from jax.experimental import mesh_utils

def devices_of(shape, devices, **_):
    return np.array([devices[i] for i in (0, 2, 3, 1)]).reshape(shape)

mesh_utils.create_device_mesh = devices_of
runpy.run_module("sg_jax.main", run_name="__main__")
"""


@pytest.mark.slow
def test_processes_whose_devices_hold_no_neighbouring_rows_train_as_one(one, run, tmp_path):
    """As on a TPU slice, where a host's devices hold the first and the last rows, say."""
    run(tmp_path / "two", *STEPS, number=2, devices=2, code=TURNED)
    assert_same_losses(tmp_path / "two", one)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_what_four_processes_saved_goes_on_in_fewer(one, four, run, tmp_path, number):
    workdir = shutil.copytree(four, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "8")
    assert "from step 4 of 8" in run(workdir, *STEPS, number=number)
    assert_same_losses(workdir, one)


@pytest.mark.slow
def test_two_processes_look_at_a_run_as_one(one, run, tmp_path):
    looks = (
        "--config.train.heldout_every=2", "--config.train.heldout_images=21",
        "--config.train.evaluate_every=4", "--config.train.evaluate_samples=20",
        "--config.checkpoint.keep_best=frechet", "--config.checkpoint.keep=1",
    )  # fmt: skip
    found = []
    for number in (1, 2):
        workdir = tmp_path / str(number)
        text = run(workdir, *STEPS, *looks, number=number)
        assert_same_losses(workdir, one)
        records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        found.append({r["step"]: r for r in records})
        assert text.count(", of 21 images at") == 4  # the writer's, each time
        assert saved(workdir)[-1] == 8
        best = json.loads((workdir / "best.json").read_text())
        values = {s: r["eval/frechet"] for s, r in found[-1].items() if "eval/frechet" in r}
        assert sorted(values) == [4, 8] and best["step"] == min(values, key=values.get)
        assert best["value"] == values[best["step"]]
    for step in (2, 4, 6, 8):
        pair = [each[step]["heldout_loss"] for each in found]
        assert pair[0] == pytest.approx(pair[1], rel=2e-5)
    assert found[0][8]["eval/frechet"] == pytest.approx(found[1][8]["eval/frechet"], rel=1e-2)


NOT_FINITE = """
import runpy
import numpy as np
from sg_jax.programs import sampling

whole = sampling.processes.to_host
sampling.processes.to_host = lambda samples: whole(samples) * np.nan
runpy.run_module("sg_jax.main", run_name="__main__")
"""


@pytest.mark.slow
def test_two_processes_go_on_after_samples_that_are_not_finite(one, run, tmp_path):
    looks = (
        "--config.train.evaluate_every=4", "--config.train.evaluate_samples=20",
        "--config.train.sample_every=4", "--config.checkpoint.keep_best=frechet",
    )  # fmt: skip
    text = run(tmp_path / "run", *STEPS, *looks, number=2, code=NOT_FINITE)
    assert_same_losses(tmp_path / "run", one)
    assert text.count("this evaluation failed and is left out.") == 2
    assert text.count("this grid of images failed and is left out.") == 2


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_a_kill_ends_both(one, start, tmp_path):
    workdir = tmp_path / "run"
    endless = ("--config.train.steps=1000000", "--config.checkpoint.every=1000000")
    group = start(workdir, *endless, number=2)
    group.wait_for("step       8/")
    group.processes[1].send_signal(signal.SIGTERM)
    assert group.end(timeout=60) == [1, 1]
    (step,) = saved(workdir)  # had they saved different steps, neither would be complete
    assert f"Stopped by SIGTERM at step {step} of 1000000; saved." in group.text()
    assert list(losses(workdir)) == list(range(1, step + 1))
    assert_same_losses(workdir, one)

    group = start(workdir, *endless, number=2)
    group.wait_for(f"Continue {workdir} from step {step} of 1000000.")
    group.wait_for(f"step {step + 2:>7}/")
    group.processes[0].kill()
    assert group.end(timeout=30)[1] != 0


CONTINUED = """
import os, signal, tempfile, time
import jax
from sg_jax.parallel import processes
from sg_jax.weights.saver import Saver

processes.start()
with processes.stop_signals() as stop, Saver(tempfile.mkdtemp(), 10**9, 1) as saver:
    stopped = 0
    for call, step in enumerate([*FIRST, *range(301, 3000)]):
        time.sleep(0.01)
        if call == len(FIRST) + 5 and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        stopped += bool(stop())
        if stopped == 2:  # it is said again, after a rollback in the step that it was said in
            break
        saver.should_save(step)
print("Stopped after step", step, flush=True)
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", ["[]", "list(range(1, 401))"])
def test_a_signal_stops_a_run_that_was_continued_or_has_gone_back(start, tmp_path, first):
    """Its steps are not the number of times that it has asked whether to stop."""
    group = start(tmp_path / "run", number=2, code=CONTINUED.replace("FIRST", first))
    assert group.end(timeout=90) == [0, 0]
    one, other = (group.text(i).split("Stopped after step ")[1].split()[0] for i in range(2))
    assert one == other and 306 < int(one) < 306 + 280  # jax notices it after seconds


@pytest.mark.slow
@pytest.mark.parametrize("who, number", [(1, signal.SIGTERM), (0, signal.SIGINT)])
def test_a_signal_in_the_last_step_ends_both_before_they_draw(start, tmp_path, who, number):
    workdir = tmp_path / "run"
    group = start(workdir, "--config.train.steps=2", "--config.train.then=sample", number=2)
    group.wait_for("step 2/2")  # it is saved now
    group.processes[who].send_signal(number)
    assert group.end(timeout=60) == [1, 1]
    assert "at step 2 of 2; saved. The same command continues." in group.text()
    assert saved(workdir) == [2] and not (workdir / "samples").exists()


@pytest.mark.slow
def test_processes_go_back_together(start, tmp_path):
    workdir = tmp_path / "run"
    flags = ("--config.optimizer.learning_rate=1e6", "--config.train.on_divergence=rollback")
    group = start(workdir, *STEPS, *flags, number=2)
    assert group.end(timeout=120) == [2, 2]
    texts = [group.text(i) for i in range(2)]
    assert texts[0].count("Back to step 0") == 3
    assert all("after 3 rollbacks to step 0 too" in t and "Traceback" not in t for t in texts)
    assert len(json.loads((workdir / "rollbacks.json").read_text())) == 4


@pytest.mark.slow
def test_a_killed_process_ends_the_first(start, tmp_path):
    group = start(tmp_path / "run", "--config.train.steps=1000000", number=2)
    group.wait_for("step       2/")
    group.processes[1].kill()
    assert group.end(timeout=120)[0] != 0


@pytest.mark.slow
def test_processes_take_over_a_run_that_is_gone(four, run, tmp_path):
    """Only process 0 waits for its beat, longer than CPUs wait for each other to connect."""
    workdir = shutil.copytree(four, tmp_path / "run")
    gone = {"host": "tpu-7", "pid": 1, "since": "yesterday", "token": "other", "machine": "?"}
    (workdir / "training.json").write_text(json.dumps(gone))
    text = run(workdir, "--config.train.steps=9", number=2)
    assert "which gives no sign of life" in text and saved(workdir) == [4, 8, 9]


@pytest.mark.slow
def test_an_error_of_all_processes_is_one_paragraph_of_each(start, tmp_path):
    group = start(tmp_path / "run", *STEPS, "--config.objective.gamma=2", number=2)
    assert group.end(timeout=60) == [2, 2]
    texts = [group.text(i) for i in range(2)]
    assert [text.count("Error: ") for text in texts] == [1, 1]
    assert "gamma=2" in texts[0] and "Traceback" not in texts[0] + texts[1]
    assert not (tmp_path / "run").exists()
