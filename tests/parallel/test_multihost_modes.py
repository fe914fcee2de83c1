"""Several processes that draw, score, tune and time as one. Every run is a command of its own."""

import csv
import json
import re
import shutil
import signal
import time

import numpy as np
import pytest
from groups import FSDP, STEPS
from published import golden


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


@pytest.mark.slow
def test_an_error_of_the_writer_ends_the_other_process(one, start, tmp_path):
    workdir = shutil.copytree(one, tmp_path / "run")
    group = start(workdir, "--mode=evaluate", "--config.data.test_split=none", number=2)
    assert all(group.end(timeout=120))
    assert "Error: config.data.test_split='none'" in group.text()
