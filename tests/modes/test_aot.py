"""Compiling ahead for TPUs: the real compiler, a tiny network.

The compiler runs in processes of its own: in one that has loaded it, jax's profiler crashes.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from sg_jax.errors import UserError
from sg_jax.main import main

needs_compiler = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="the TPU compiler is not installed"
)
TINY = (
    "--config=configs/digits.py", "--config.model.depth=3", "--config.model.width=128",
    "--config.model.heads=2", "--config.model.patch=2", "--config.model.routes=((1,1),)",
    "--config.model.image_size=8", "--config.model.channels=4", "--config.model.num_classes=10",
    "--config.model.dtype=bfloat16", "--config.model.remat=selective", "--config.mesh.data=1",
    "--config.mesh.fsdp=-1", "--config.train.batch_size=8", "--config.sample.batch_size=8",
    "--config.sample.steps=4", "--config.sample.guidance=sg_flops",
)  # fmt: skip
MACS = 3 * (12 * 128**2 * 16 + 6 * 128**2)  # of dense blocks for an image of 16 tokens


def compile_ahead(path, topology, *flags):
    """Run the command; return (the report, what was printed)."""
    command = [sys.executable, "-m", "sg_jax.main", *TINY, "--mode=aot", f"--topology={topology}"]
    done = subprocess.run(
        [*command, f"--json={path}", *flags],
        cwd=pathlib.Path(__file__).parents[2],
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text()), done.stdout


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return compile_ahead(tmp_path_factory.mktemp("aot") / "report.json", "v5e:2x2")


@pytest.mark.slow
@needs_compiler
def test_the_report_of_a_training_step(report):
    found, _ = report
    assert found["devices"] == 4 and found["mesh"]["fsdp"] == 4
    assert found["fits"] and 0 < found["peak_gib"] < 1 and found["hbm_gib"] == 15.75
    assert 0.5 < found["model_flops"] / (6 * 2 * MACS) < 1.2  # two images; some tokens bypass
    assert found["cycles"]["matmul"] > 0 and found["cycles"]["kernel"] > 0
    assert found["step_seconds"] == pytest.approx(sum(found["cycles"].values()) / 1.5e9)
    assert found["mfu"] == pytest.approx(found["model_flops"] / found["step_seconds"] / 197e12)


@pytest.mark.slow
@needs_compiler
def test_weights_are_gathered_but_activations_are_not_moved(report):
    """Of each block's matrices, float32 or as bfloat16, never less than once forward."""
    found, _ = report
    matrices = 3 * (4 * 128**2 + 2 * 128 * 512 + 128 * 6 * 128)
    assert found["collectives"]["all-gather"]["bytes"] >= 2 * matrices


@pytest.mark.slow
@needs_compiler
def test_the_text_says_what_it_is_and_what_not(report):
    _, text = report
    for words in ("v5e:2x2: 4 chips, fsdp 4", "fits", "MFU", "all-gather", "not: a measurement"):
        assert words in text


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("purpose", ["train", "sample"])
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5p:2x2x1", "v6e:2x2"])
def test_every_generation_of_chips(tmp_path, topology, purpose):
    found, _ = compile_ahead(tmp_path / "report.json", topology, f"--for={purpose}")
    assert found["devices"] == 4 and found["fits"] and 0 < found["mfu"] < 1
    assert ("kernel" in found["cycles"]) == (purpose == "train")  # 16 tokens are few


@needs_compiler
@pytest.mark.slow
def test_each_rate_of_training_has_a_report(tmp_path):
    flag = "--config.train.gammas=((5,0.0),)"
    found, text = compile_ahead(tmp_path / "report.json", "v5e:2x2", flag)
    assert [report["program"].split(", ")[1] for report in found] == ["γ 0.25", "γ 0"]
    assert found[0]["model_flops"] < found[1]["model_flops"]
    assert text.count("Per chip:") == 2 and text.count("What this is:") == 1


@needs_compiler
@pytest.mark.slow
def test_two_slices(tmp_path):
    path, flag = tmp_path / "report.json", "--config.mesh.replica=2"
    found, _ = compile_ahead(path, "2*v5e:2x2", flag, "--config.train.batch_size=16")
    assert found["devices"] == 8 and found["mesh"]["replica"] == 2 and found["fits"]


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--mode=aot"], "--topology"),
        (["--topology=v5e:2x2"], "flag of --mode=aot"),
        (["--mode=flops", "--for=sample"], "flag of --mode=aot"),
    ],
)
def test_flags_that_do_not_belong_together_are_named(flags, named):
    with pytest.raises(UserError, match=named):
        main(["main", "--config=configs/digits.py", "--workdir=unused", *flags])
