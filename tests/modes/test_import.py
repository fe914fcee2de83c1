"""Published weights by commands alone: imported, sampled, trained on, exported, started from."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import random_weights

import sg_jax
from sg_jax.models.dit import DiT
from sg_jax.weights import convert
from sg_jax.weights.checkpoints import named

ROOT = pathlib.Path(__file__).parents[2]
SIZES = dict(image_size=8, channels=1, patch=2, width=16, depth=2, heads=2)


def publish(path, classes):
    """Write REPA's weights of a tiny network for the digits."""
    network = random_weights.network(lambda rngs: DiT(**SIZES, num_classes=classes, rngs=rngs), 0.1)
    projectors = {"projectors.0.0.weight": np.ones((4, 4), np.float32)}
    weights = convert.to_state_dict(network, "repa") | projectors
    np.savez(path, **{f"module.{name}": array for name, array in weights.items()})


@pytest.mark.slow
def test_the_whole_way(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    data = ("--config.data.name=digits", f"--config.data.data_dir={tmp_path / 'data'}")
    model = [f"--config.model.{name}={SIZES[name]}" for name in ("patch", "width", "depth")]

    def call(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "sg_jax.main", *map(str, arguments)], capture_output=True,
            text=True, cwd=ROOT, env=environment, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    publish(tmp_path / "repa.npz", 10)
    publish(tmp_path / "four.npz", 4)
    run, small = tmp_path / "run", ("--config.train.batch_size=8", "--config.train.steps=2")
    said = call("--mode=import", "--from", tmp_path / "repa.npz", "--family=repa",
                f"--workdir={run}", "--config.model.heads=2", *small)  # fmt: skip
    assert "projectors.0 (1 arrays)" in said and "returns 'reversed'" in said
    draw = ("--config.sample.steps=2", "--config.sample.count=10")
    call("--mode=sample", f"--workdir={run}", *draw)  # without the data
    assert list((run / "samples").glob("cfg_*.png"))
    before = named(sg_jax.load(run))
    call("--mode=train", f"--workdir={run}", *data)
    after = named(sg_jax.load(run))
    assert any((np.asarray(after[name]) != before[name]).any() for name in after)
    call("--mode=evaluate", f"--workdir={run}", *data, *draw, "--config.evaluate.samples=20",
         "--config.features.epochs=1", "--config.evaluate.guidance=unguided")  # fmt: skip
    assert (run / "report.html").exists()
    call("--mode=export", f"--workdir={run}", "--to", tmp_path / "exported")
    call("--mode=sample", f"--workdir={tmp_path / 'exported'}", *draw)
    other = ("--config", "configs/digits.py", *data, *model, "--config.model.heads=2", *small,
             "--config.model.prediction=reversed", "--config.train.then=()",
             "--config.model.routes=((1,1),)")  # fmt: skip
    said = call(*other, f"--workdir={tmp_path / 'new'}",
                f"--config.train.init_from={tmp_path / 'four.npz'}")  # fmt: skip
    assert "read as weights of family repa" in said and "has 10 new rows" in said
    call(*other, f"--workdir={tmp_path / 'again'}",
         f"--config.train.init_from={tmp_path / 'exported'}")  # fmt: skip
