"""Compiling ahead for TPUs: the real compiler, a tiny network."""

import json

import jax
import pytest

from sg_jax import aot, config, experiment, flops, tpu
from sg_jax.errors import UserError
from sg_jax.main import main

pytest.importorskip("libtpu", reason="the TPU compiler is not installed")

TINY = dict(
    model=dict(
        depth=3, width=128, heads=2, patch=2, routes=((1, 1),), image_size=8, channels=4,
        num_classes=10, dtype="bfloat16", remat="selective",
    ),
    mesh=dict(data=1, fsdp=-1),
    train=dict(batch_size=8),
    sample=dict(batch_size=8, steps=4, guidance="sg_flops"),
)  # fmt: skip


def completed():
    return experiment.fill_geometry(config.merge(TINY))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("aot") / "report.json"
    return aot.run(completed(), "v5e:2x2", "train", str(path)), path


def test_the_report_of_a_training_step(report):
    found, path = report
    assert json.loads(path.read_text()) == found
    assert found["devices"] == 4 and found["mesh"]["fsdp"] == 4
    assert found["fits"] and 0 < found["peak_gib"] < 1 and found["hbm_gib"] == 15.75
    model = experiment.build(completed(), aot.devices_of("v5e:2x2")[1]).model
    assert found["model_flops"] == flops.training_step(model, 0.5, 8, full=True) / 4
    assert found["cycles"]["matmul"] > 0
    assert found["step_seconds"] == pytest.approx(sum(found["cycles"].values()) / 1.5e9)
    assert found["mfu"] == pytest.approx(found["model_flops"] / found["step_seconds"] / 197e12)


def test_weights_are_gathered_and_their_gradients_scattered(report):
    """Of each block's matrices, float32 or as bfloat16, never less than once forward."""
    found, _ = report
    matrices = 3 * (4 * 128**2 + 2 * 128 * 512 + 128 * 6 * 128)
    assert found["collectives"]["all-gather"]["bytes"] >= 2 * matrices
    assert "all-to-all" not in found["collectives"]


def test_the_text_says_what_it_is_and_what_not(report):
    text = aot.render(report[0])
    for words in ("v5e:2x2: 4 chips, fsdp 4", "fits", "MFU", "all-gather", "not: a measurement"):
        assert words in text


@pytest.mark.slow
@pytest.mark.parametrize("topology, devices", [("v4:2x2x1", 4), ("v5p:2x2x1", 4), ("v6e:2x2", 4)])
def test_every_generation_of_chips(topology, devices):
    for purpose in ("train", "sample"):
        found = aot.run(completed(), topology, purpose)
        assert found["devices"] == devices and found["fits"] and 0 < found["mfu"] < 1


@pytest.mark.slow
def test_only_gradients_cross_slices():
    given = completed()
    given.mesh.replica = 2
    found = aot.run(given, "2*v5e:2x2", "train")
    assert found["devices"] == 8 and found["mesh"]["replica"] == 2 and found["fits"]


@pytest.mark.parametrize(
    "topology, named",
    [
        ("v5e", ["'v5e'", "v5e:16x16"]),
        ("v7:2x2", ["'v7:2x2'", "v4, v5e, v5p, v6e"]),
        ("v5e:3x3", ["'v5e:3x3'", "not divisible"]),
    ],
)
def test_topologies_that_are_none_are_named(topology, named):
    with pytest.raises(UserError) as error:
        aot.devices_of(topology)
    assert all(part in str(error.value) for part in named)


def test_what_does_not_fit_is_said_with_a_remedy():
    message = (
        "RESOURCE_EXHAUSTED: the total memory required (20.50G) exceeds available HBM (15.75G)."
    )
    assert aot._overflow(message) == {"peak_gib": 20.5}
    report = dict(
        topology="v5e:2x2", devices=4, mesh=dict(data=4), program="A step", fits=False,
        peak_gib=20.5, hbm_gib=15.75,
    )  # fmt: skip
    text = aot.render(report)
    assert "4.75 GiB" in text and "config.model.remat" in text
    with pytest.raises(RuntimeError, match="something else"):
        aot._overflow("something else")


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


def test_compiler_flags_leave_those_of_the_user(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_scoped_vmem_limit_kib=1 --other=2")
    tpu.set_flags()
    assert tpu.os.environ["LIBTPU_INIT_ARGS"] == "--xla_tpu_scoped_vmem_limit_kib=1 --other=2"
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "")
    tpu.set_flags()
    assert tpu.os.environ["LIBTPU_INIT_ARGS"] == "--xla_tpu_scoped_vmem_limit_kib=32768"


def test_devices_stay_those_of_this_machine():
    aot.devices_of("v5e:2x2")
    assert {d.platform for d in jax.devices()} == {"cpu"}
