"""Runs in a bucket, gs://..., as a user types them: every mode, on tiny settings."""

import json
import pathlib

import jax
import numpy as np
import pytest

import sg_jax
from sg_jax.errors import UserError
from sg_jax.main import main
from sg_jax.runs.records import read_metrics
from sg_jax.weights import checkpoints

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"
TINY = (
    "--config.model.depth=3", "--config.model.width=16", "--config.model.heads=2",
    "--config.model.patch=4", "--config.model.routes=((1,1),)", "--config.train.batch_size=8",
    "--config.train.log_every=2", "--config.train.sample_every=0", "--config.checkpoint.every=2",
    "--config.checkpoint.keep=2", "--config.sample.steps=2", "--config.sample.count=8",
    "--config.sample.batch_size=8", "--config.evaluate.samples=16", "--config.sweep.samples=16",
    "--config.diversity.samples=16", "--config.bench.repeats=3",
    "--config.bench.images_per_second=9",
    "--config.evaluate.guidance=('unguided',)", "--config.diversity.guidance=('cfg',)",
    "--config.sweep.gamma_strong=(0.0,)", "--config.sweep.gamma_weak=(0.5,)",
    "--config.sweep.scale=(1.5,)",
)  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def call(data_dir, monkeypatch, tmp_path):
    """Run the command in this process, in a folder where nothing may be left."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def run(workdir, *arguments):
        given = ("--config", str(CONFIG), f"--config.data.data_dir={data_dir}")
        main(["main", *given, *TINY, "--workdir", str(workdir), *arguments])

    yield run
    assert not list(here.iterdir())


def _train(call, workdir, steps, *arguments):
    call(workdir, f"--config.train.steps={steps}", "--config.train.then=()", *arguments)


@pytest.mark.slow
def test_a_run_in_a_bucket_continues_and_equals_one_on_a_disk(call, bucket, tmp_path, capsys):
    remote, local = "gs://bucket/runs/a", tmp_path / "local"
    folder = bucket / "bucket" / "runs" / "a"
    extra = ("--config.profile.start=2", "--config.profile.steps=1")
    _train(call, remote, 4, *extra)
    assert [r["step"] for r in read_metrics(remote)] == [2, 4]
    assert checkpoints.saved_steps(remote) == [2, 4]
    # An interrupted save has the name of a checkpoint, and all of one but this file.
    (folder / "checkpoints" / "4" / "commit_success.txt").unlink()
    assert checkpoints.saved_steps(remote) == [2]
    _train(call, remote, 6, *extra, "--config.train.then=('sample',)")
    printed = capsys.readouterr().out
    assert f"Continue {remote} from step 2 of 6" in printed
    assert "No TensorBoard events in a bucket" in printed
    _train(call, local, 6, "--config.train.then=('sample',)")
    assert [r["step"] for r in read_metrics(remote)] == [2, 4, 6]
    assert _losses(remote) == _losses(local)
    assert checkpoints.saved_steps(remote) == checkpoints.saved_steps(local) == [4, 6]
    for a, b in zip(*(jax.tree.leaves(sg_jax.load(w)) for w in (remote, local)), strict=True):
        np.testing.assert_array_equal(a, b)
    drawn = [np.load(*run.glob("samples/sg_w*.npz"))["images"] for run in (folder, local)]
    np.testing.assert_array_equal(*drawn)
    assert len(list(folder.glob("profile/**/*.xplane.pb"))) == 1
    assert {p.name for p in folder.iterdir()} == {
        "config.json", "checkpoints", "metrics.jsonl", "profile", "samples"
    }  # fmt: skip


def _losses(workdir):
    return [record["loss"] for record in read_metrics(workdir)]


@pytest.mark.slow
def test_what_a_failed_run_recorded_is_in_the_bucket(call, bucket):
    with pytest.raises(UserError, match="training has diverged"):
        _train(
            call, "gs://bucket/run", 9, "--config.optimizer.learning_rate=1e30",
            "--config.train.log_every=1", "--config.checkpoint.every=100",
        )  # fmt: skip
    records = read_metrics("gs://bucket/run")
    assert records and [r["step"] for r in records] == list(range(1, len(records) + 1))


@pytest.mark.slow
def test_a_run_in_a_bucket_is_sampled_and_scored(call, bucket, capsys):
    workdir, folder = "gs://bucket/run", bucket / "bucket" / "run"
    call(
        workdir, "--config.train.steps=2", "--config.train.sample_every=2",
        "--config.train.then=('sample','evaluate')",
    )  # fmt: skip
    assert f"Written: {workdir}/report.html" in capsys.readouterr().out
    (archive,) = folder.glob("samples/sg_w*.npz")
    for name in ("guidance.png", "loss.png", "report.html", "report.json",
                 archive.with_suffix(".png"), "samples/step_0000002.png"):  # fmt: skip
        assert (folder / name).stat().st_size > 100
    with np.load(archive) as drawn:
        assert drawn["images"].shape == (8, 8, 8, 1)
    for mode in ("sweep", "diversity", "data"):
        call(workdir, f"--mode={mode}")
    printed = capsys.readouterr().out
    assert f"feature network: read from {workdir}/classifier.npz" in printed
    for name in ("scores.csv", "sweep_cost.png", "diversity.png", "diversity.json"):
        assert f"Written: {workdir}/{name}" in printed and (folder / name).stat().st_size > 100
    assert json.loads((folder / "data_bench.json").read_text())["pipeline"]
    call(workdir, "--mode=sweep")
    assert " 0 left" in capsys.readouterr().out


@pytest.mark.slow
def test_a_benchmark_is_written_to_a_bucket(call, bucket):
    call("gs://bucket/bench", "--mode=bench")
    assert json.loads((bucket / "bucket" / "bench" / "bench.json").read_text())
