"""Several real processes on this machine, as on several hosts: what they train, draw and save.

Every run is a command of its own. Runs that several tests look at are made once, also where
pytest-xdist gives those tests to different workers.
"""

import csv
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import compiling
import numpy as np
import pytest
from published import golden

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
    "--config=configs/digits.py", "--config.data.split=train[:100]",
    "--config.data.test_split=test[:40]", "--config.model.depth=1", "--config.model.width=16",
    "--config.model.heads=2", "--config.model.patch=2", "--config.model.routes=((0,0),)",
    "--config.optimizer.warmup=0", "--config.train.batch_size=8", "--config.train.log_every=1",
    "--config.train.sample_every=0", "--config.train.then=()", "--config.checkpoint.every=4",
    "--config.checkpoint.keep=9", "--config.sample.steps=2", "--config.sample.count=20",
    "--config.sample.batch_size=16", "--config.evaluate.samples=40",
    "--config.evaluate.guidance=unguided,sg",
)  # fmt: skip
FSDP = ("--config.mesh.data=1", "--config.mesh.fsdp=4")
STEPS = ("--config.train.steps=8",)


class Group:
    """Processes of one run: `number` of them with `devices` devices each, or of other `code`."""

    def __init__(self, base, workdir, *arguments, number=1, devices=1, code=""):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        given = (*TINY, f"--config.data.data_dir={base / 'data'}", f"--workdir={workdir}")
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(base / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {compiling.FAST}",
        }
        self.logs = [base / f"{workdir.name}.{time.monotonic_ns()}.{i}" for i in range(number)]
        self.processes = []
        for i, log in enumerate(self.logs):
            if number > 1:
                environment |= {
                    "JAX_COORDINATOR_ADDRESS": address,
                    "JAX_NUM_PROCESSES": str(number),
                    "JAX_PROCESS_ID": str(i),
                }
            with log.open("w") as file:  # not a pipe, which a long run would fill
                main = ["-c", code] if code else ["-m", "sg_jax.main"]
                command = [sys.executable, *main, *given, *arguments]
                self.processes.append(
                    subprocess.Popen(
                        command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
                    )
                )

    def text(self, i=0):
        return self.logs[i].read_text()

    def wait_for(self, words, timeout=200):
        """Wait until process 0 has printed `words`."""
        until = time.monotonic() + timeout
        while words not in self.text():
            assert self.processes[0].poll() is None and time.monotonic() < until, self.text()
            time.sleep(0.1)

    def end(self, timeout=300):
        """Return the exit statuses; nothing is left running."""
        try:
            return [process.wait(timeout) for process in self.processes]
        finally:
            self.kill()

    def kill(self):
        for process in self.processes:
            process.kill()


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A folder that all workers of this test run share."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "multihost"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def start(base):
    """Workdir, arguments, number, devices -> a running group, at the end of the tests no more."""
    groups = []

    def make(*arguments, **options):
        groups.append(Group(base, *arguments, **options))
        return groups[-1]

    yield make
    for group in groups:
        group.kill()


@pytest.fixture(scope="session")
def run(start):
    """The same, run to its good end."""

    def make(*arguments, **options):
        group = start(*arguments, **options)
        statuses = group.end()
        assert not any(statuses), "\n".join(map(group.text, range(len(statuses))))
        return group.text()

    return make


@pytest.fixture(scope="session")
def once(base):
    """Name, function -> folder that the function has filled, once for all workers."""

    def make(name, fill):
        with (base / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (base / f"{name}.done").exists():
                fill(base / name)
                (base / f"{name}.done").touch()
        return base / name

    return make


@pytest.fixture(scope="session")
def one(once, run):
    """8 steps, samples and scores, by one process with one device."""
    then = "--config.train.then=sample,evaluate"
    return once("one", lambda folder: run(folder, *STEPS, then))


@pytest.fixture(scope="session")
def four(once, run):
    """The same 8 steps by four processes with a device each; saved after 4 too."""
    return once("four", lambda folder: run(folder, *STEPS, number=4))


def losses(workdir):
    records = list(map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()))
    found = {r["step"]: r["loss"] for r in records}
    assert list(found) == [r["step"] for r in records]  # each written once, by one process
    return found


def assert_same_losses(workdir, expected):
    """Compare steps 1 to 8: also the batches are the same, as two of them differ by far more."""
    found, expected = losses(workdir), losses(expected)
    steps = range(1, 9)
    assert np.abs(np.diff([expected[s] for s in steps])).min() > 1e-3
    np.testing.assert_allclose([found[s] for s in steps], [expected[s] for s in steps], rtol=2e-5)


def saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


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
def test_two_processes_draw_and_score_as_one(one, run, tmp_path):
    workdir = shutil.copytree(one, tmp_path / "run")
    shutil.rmtree(workdir / "samples")
    for name in ("report.json", "report.html", "guidance.png"):
        (workdir / name).unlink()
    then = "--config.train.then=sample,evaluate"
    text = run(workdir, *STEPS, *FSDP, then, number=2, devices=2)
    assert "trained already" in text
    assert text.count("Written: ") == len(set(re.findall("Written: (.*)", text))) > 1  # once each
    found, expected = (np.load(*w.glob("samples/sg_w*.npz")) for w in (workdir, one))
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    # Split weights and batches are summed in another order, so the floats differ in their last
    # digits, and a value halfway between two greys may round to the other.
    difference = np.abs(found["images"].astype(int) - expected["images"])
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01
    rows, wanted = (json.loads((w / "report.json").read_text()) for w in (workdir, one))
    assert [r["name"] for r in rows] == ["unguided", "sg"]
    for row, want in zip(rows, wanted, strict=True):
        assert row["frechet"] == pytest.approx(want["frechet"], rel=1e-3)
        for name in ("precision", "recall", "accuracy"):
            assert row[name] == pytest.approx(want[name], abs=1 / 40)  # one image
        assert row["gflops_per_step"] == want["gflops_per_step"] and row["samples"] == 40
    assert (workdir / "report.html").exists() and (workdir / "guidance.png").exists()


@pytest.mark.slow
def test_two_processes_judge_by_a_published_network_as_one(one, run, tmp_path):
    """Each looks at its share of the images, drawn or real."""
    (tmp_path / "dino").mkdir()
    np.savez(tmp_path / "dino" / "model.npz", **golden("dinov2_tiny")[1])
    (tmp_path / "dino" / "config.json").write_text('{"num_attention_heads": 4}')
    how = (
        "--mode=evaluate", f"--config.evaluate.dinov2={tmp_path}/dino",
        "--config.evaluate.metrics=fd_dinov2,mind,accuracy", "--config.evaluate.network=dinov2",
        "--config.evaluate.samples=30",
    )  # fmt: skip
    found = []
    for number in (1, 2):
        workdir = shutil.copytree(one, tmp_path / f"of{number}")
        run(workdir, *STEPS, *how, number=number, devices=2)
        rows = json.loads((workdir / "report.json").read_text())
        found.append([[row[n] for n in ("fd_dinov2", "mind", "accuracy")] for row in rows])
        assert (workdir / "real_dinov2.npz").exists() and not (workdir / "real.part").exists()
    assert None not in found[0][0]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)


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


@pytest.mark.slow
def test_an_error_of_the_writer_ends_the_other_process(one, start, tmp_path):
    workdir = shutil.copytree(one, tmp_path / "run")
    group = start(workdir, "--mode=evaluate", "--config.data.test_split=none", number=2)
    assert all(group.end(timeout=120))
    assert "Error: config.data.test_split='none'" in group.text()


@pytest.mark.slow
def test_two_processes_sweep_and_compare_as_one(one, run, tmp_path):
    grid = (
        "--config.sweep.gamma_strong=(0.0,)", "--config.sweep.gamma_weak=(0.0,0.5)",
        "--config.sweep.scale=(1.0,1.5)", "--config.sweep.samples=40",
        "--config.diversity.samples=40",
    )  # fmt: skip
    workdirs = [shutil.copytree(one, tmp_path / name) for name in ("alone", "both")]
    for number, workdir in enumerate(workdirs, start=1):
        for mode in ("sweep", "diversity"):
            text = run(workdir, f"--mode={mode}", *grid, number=number, devices=2)
            assert "Written: " in text
    tables = [list(csv.DictReader((w / "scores.csv").open())) for w in workdirs]
    # No guidance and SG from the evaluation of `one`; the grid adds (0, 0.5) at omega 1.5.
    assert len(tables[0]) == len(tables[1]) == 3
    for row, want in zip(*tables, strict=True):
        assert float(row["frechet"]) == pytest.approx(float(want["frechet"]), rel=1e-3)
        assert row["references"] == want["references"] == "100"
    found, wanted = (json.loads((w / "diversity.json").read_text()) for w in workdirs)
    for name, setting in found["settings"].items():
        assert setting["mean"] == pytest.approx(wanted["settings"][name]["mean"], rel=1e-2)
    again = run(workdirs[1], "--mode=sweep", *grid, number=2, devices=2)
    assert " 0 left" in again


@pytest.mark.slow
def test_two_processes_tune_as_one(one, run, tmp_path):
    flags = (
        "--mode=tune", "--config.tune.methods=sg", "--config.tune.settings=2",
        "--config.tune.samples=40", "--config.tune.report_samples=40", "--config.tune.seeds=(3,)",
        "--config.tune.report_seeds=(4,)", "--config.tune.budgets=(1.0,)",
    )  # fmt: skip
    workdirs = [shutil.copytree(one, tmp_path / name) for name in ("alone", "both")]
    for number, workdir in enumerate(workdirs, start=1):
        text = run(workdir, *flags, number=number, devices=2)
        assert text.count("Written: ") == 6
    tables = [list(csv.DictReader((w / "tune.csv").open())) for w in workdirs]
    assert [row["stage"] for row in tables[0]] == ["search"] * 3 + ["report"] * 2
    for row, want in zip(*tables, strict=True):
        assert [row[n] for n in ("setting", "steps", "chosen")] == [
            want[n] for n in ("setting", "steps", "chosen")
        ]
        assert float(row["frechet"]) == pytest.approx(float(want["frechet"]), rel=1e-3)


@pytest.mark.slow
def test_sigterm_ends_a_mode_that_saves_nothing(one, start, tmp_path):
    workdir = shutil.copytree(one, tmp_path / "run")
    group = start(workdir, "--mode=evaluate", "--config.evaluate.samples=1000000", number=2)
    group.wait_for("feature network")
    time.sleep(3)
    for process in group.processes:
        process.send_signal(signal.SIGTERM)
    assert group.end(timeout=10) == [128 + signal.SIGTERM] * 2
    assert all("Stopped by SIGTERM." in group.text(i) for i in range(2))


@pytest.mark.slow
def test_two_processes_bench_the_programs_of_all_devices(run, tmp_path):
    text = run(tmp_path, "--mode=bench", "--config.bench.repeats=3", number=2, devices=2)
    printed = [text.count(f"Compiling {name} (") for name in ("train, γ 0.25", "sample, cfg")]
    assert printed == [1, 1]  # by one process
    assert json.loads((tmp_path / "bench.json").read_text())[0]["time_ratio"] == 1


SLOW = """
import dataclasses, runpy, time
from sg_jax.errors import UserError
from sg_jax.modes import MODES
from sg_jax.parallel import processes

def work(job):
    time.sleep(35)  # others wait at most 30 s for the first connection
    {end}

processes.SHUTDOWN = 2
MODES["flops"] = dataclasses.replace(MODES["flops"], run=work)
runpy.run_module("sg_jax.main", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "end, status",
    [("return ['it']", 0), ("raise UserError('bad')", 2), ("raise OSError(28, 'full')", 1)],
)
def test_what_one_process_does_alone_is_waited_for(start, tmp_path, end, status):
    group = start(tmp_path / "run", "--mode=flops", number=2, code=SLOW.format(end=end))
    assert group.end(timeout=120) == [status] * 2, group.text() + group.text(1)
    texts = [group.text(i) for i in range(2)]
    assert [text.count("Written: it") for text in texts] == [not status, 0]
    assert ("Process 1: Error: --mode=flops has failed in process 0" in texts[1]) == bool(status)
    assert "Traceback" not in texts[0] + texts[1]


@pytest.mark.slow
def test_what_orbax_writes_for_one_process_is_refused_in_several(start, tmp_path):
    code = "import runpy, sys; del sys.argv[1:-3]; runpy.run_module('sg_jax.main', {}, '__main__')"
    flags = ("--mode=export", f"--workdir={tmp_path}", f"--to={tmp_path}/to")
    group = start(tmp_path / "run", *flags, number=2, code=code)
    assert group.end(timeout=60) == [2, 2], group.text()
    assert "Error: --mode=export does not work in one of several processes" in group.text()
