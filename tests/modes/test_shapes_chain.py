"""The shapes from end to end, in two minutes on two cores: trained, drawn by prompts, composed."""

import csv
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
SHORT = (
    "--config.train.steps=2400", "--config.train.sample_every=0", "--config.train.then=()",
)  # fmt: skip
COMPOSE = (
    "--config.sample.steps=8", "--config.compose.most=4", "--config.compose.samples=1",
    "--config.compose.scales=(1.25,)", "--config.compose.report_seeds=(1,2)",
    "--config.compose.keep=geneval",
)  # fmt: skip


def command(*given):
    """Run the command as a user does, and return what it printed."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    done = subprocess.run(
        [sys.executable, "-m", "sg_jax.main", *given],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_shapes_are_trained_drawn_and_composed(tmp_path):
    run, data = str(tmp_path / "run"), f"--config.data.data_dir={tmp_path}"
    said = command("--config", "configs/shapes_t2i.py", "--workdir", run, data, *SHORT)
    losses = [float(line.split("loss ")[1].split()[0]) for line in said.splitlines()
              if line.startswith("step ")]  # fmt: skip
    assert np.mean(losses[-4:]) < 0.085 < 0.7 < losses[0]

    (tmp_path / "prompts.txt").write_text("a red circle\n\na blue star left of a green square\n")
    command("--mode", "sample", "--workdir", run, data, "--prompts", str(tmp_path / "prompts.txt"),
            "--config.sample.steps=8")  # fmt: skip
    assert len(list(tmp_path.glob("run/samples/cfg_sg_*/*.png"))) == 2

    said = command("--mode", "compose", "--workdir", run, data, *COMPOSE)
    assert "held out" in said and "ETA" in said
    with (tmp_path / "run/compose.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"unguided", "cfg", "sg", "cfg_sg"}
    assert len(rows) == 4 * 2 * 11
    shares = [float(row["score"]) for row in rows if row["task"] == "colors"]
    assert np.mean(shares) > 0.1  # a shape and a colour at random are right in 1 of 30 images
    assert len(list(tmp_path.glob("run/samples/geneval_*/*/metadata.jsonl"))) == 4 * 2 * 44
    said = command("--mode", "compose", "--workdir", run, data, *COMPOSE)
    assert "8 drawings, 0 left" in said
