"""Whole runs that draw their rates and learn from a teacher: continued, sampled, and refused."""

import json
import pathlib

import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from sg_jax import main
from sg_jax.errors import UserError
from sg_jax.weights import checkpoints

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
GIVEN = (
    "--config.model.depth=3", "--config.model.width=16", "--config.model.heads=2",
    "--config.model.patch=2", "--config.model.routes=((1,1),)", "--config.train.batch_size=8",
    "--config.train.log_every=2", "--config.train.sample_every=0", "--config.checkpoint.every=2",
    "--config.checkpoint.keep=3", "--config.train.then=()", "--config.optimizer.warmup=0",
)  # fmt: skip
RATES = "--config.objective.rates=((0.5,0.5),(1.0,0.2),(0.0,0.3))"


@pytest.fixture(scope="module")
def call(digits_dir):
    """Run the command with a tiny network, in this process."""

    def run(workdir, *more):
        given = (
            "--config",
            str(ROOT / "configs/digits.py"),
            f"--config.data.data_dir={digits_dir}",
        )
        main.main(["", *given, *GIVEN, "--workdir", str(workdir), *more])

    return run


@pytest.fixture(scope="module")
def source(call, tmp_path_factory):
    """A run that teaches, with a checkpoint at step 2 and another one at 4."""
    folder = tmp_path_factory.mktemp("runs") / "source"
    call(folder, "--config.train.steps=4", "--config.train.ema_decays=(0.5,)")
    return folder


def arrays(workdir, step):
    loaded = ocp.load_checkpointables(pathlib.Path(workdir).absolute() / "checkpoints" / str(step))
    parts = ("model", "ema", "opt_state")
    return {f"{part}/{n}": np.asarray(v) for part in parts for n, v in loaded[part].items()}


def taught(source):
    return (f"--config.train.init_from={source}", "--config.objective.distill=sg")


def test_a_continued_run_equals_one_that_was_not(call, source, tmp_path):
    """Also if the run of the teacher has trained on meanwhile."""
    flags = (RATES, *taught(source), "--config.train.heldout_every=3", "--config.model.inner=1",
             "--config.objective.route_loss=0.1")  # fmt: skip
    for steps in (2, 6):
        call(tmp_path / "two", *flags, f"--config.train.steps={steps}")
        if steps == 2:
            call(tmp_path / "one", *flags, "--config.train.steps=6")
            call(source, "--config.train.steps=6", "--config.train.ema_decays=(0.5,)")
    one, two = (arrays(tmp_path / name, 6) for name in ("one", "two"))
    assert any(name.startswith("model/inner_final") for name in one)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    rows = [json.loads(line) for line in (tmp_path / "one/metrics.jsonl").read_text().splitlines()]
    names = set().union(*rows)
    assert "heldout_loss" in names
    assert len(names & {f"loss_gamma_{g}" for g in ("0.5", "1", "0")}) >= 2
    (source / "checkpoints" / "4").rename(source / "checkpoints" / "gone")
    with pytest.raises(UserError, match="no longer has step 4"):
        call(tmp_path / "two", *flags, "--config.train.steps=8")
    (source / "checkpoints" / "gone").rename(source / "checkpoints" / "4")


def test_autoguidance_teaches_by_two_checkpoints_which_stay(call, source, tmp_path):
    """Continued is equal to uninterrupted, and a weak checkpoint that is gone is named."""
    flags = (f"--config.train.init_from={source}", "--config.objective.distill=ag",
             "--config.guidance.ag.weak_step=0.5")  # fmt: skip
    for name, ends in (("one", (4,)), ("two", (2, 4))):
        for steps in ends:
            call(tmp_path / name, *flags, f"--config.train.steps={steps}")
    one, two = (arrays(tmp_path / name, 4) for name in ("one", "two"))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    kept = ocp.load_checkpointables(tmp_path / "one/checkpoints/4")["progress"]
    assert kept["weak_teacher_step"] < kept["teacher_step"]
    weak = source / "checkpoints" / str(kept["weak_teacher_step"])
    weak.rename(weak.with_name("gone"))
    with pytest.raises(UserError, match=f"no longer has step {weak.name}"):
        call(tmp_path / "two", *flags, "--config.train.steps=6")
    weak.with_name("gone").rename(weak)


def test_a_file_of_weights_has_no_other_checkpoint(call, source, tmp_path):
    file = f"{tmp_path}/w.safetensors"
    main.main(["", "--mode", "export", "--workdir", str(source), "--to", file])
    flags = (f"--config.train.init_from={file}", "--config.objective.distill=ag")
    with pytest.raises(UserError, match=r"a file of one network.*weak_workdir"):
        call(tmp_path / "run", *flags, "--config.train.steps=2")


@pytest.mark.parametrize(
    "flags, named",
    [
        (("--config.model.width=32",), ["width 16", "config.model.width=32"]),
        (("--config.guidance.sg.weak_weights=0.9",), ["average of decay 0.9", "'0.5' or 'raw'"]),
        (("--config.guidance.sg.weak_step=3",), ["needs step 3", "which has [2"]),
        (("--config.train.init_from=",), ["config.objective.distill='sg'", "init_from"]),
    ],
)
def test_what_cannot_teach_is_named(call, source, tmp_path, flags, named):
    with pytest.raises(UserError) as error:
        call(tmp_path / "run", *taught(source), "--config.train.steps=2", *flags)
    assert all(part in str(error.value) for part in named)
    assert not (tmp_path / "run").exists()


def test_another_average_makes_the_weak_prediction(call, source, capsys):
    """Raw and averaged weights draw other images; a decay that is not kept ends the command."""
    drawn = []
    flags = ("--mode", "sample", "--config.train.ema_decays=(0.5,)", "--config.sample.count=10",
             "--config.sample.batch_size=16", "--config.sample.steps=2",
             "--config.guidance.sg.gamma_weak=0.0")  # fmt: skip
    for weights in ("raw", "0.5"):
        call(source, *flags, f"--config.guidance.sg.weak_weights={weights}")
        said = capsys.readouterr().out
        assert {"raw": "raw weights", "0.5": "average 0.5"}[weights] in said
        path = pathlib.Path(said.split("Written: ")[1].split()[0])
        drawn.append(np.load(path.with_suffix(".npz"))["images"])
    assert (drawn[0] != drawn[1]).any()
    with pytest.raises(UserError, match=r"'0.5' or 'raw'"):
        call(source, *flags, "--config.guidance.sg.weak_weights=0.9")


def test_an_exported_run_has_no_teacher(call, source, tmp_path):
    call(tmp_path / "run", *taught(source), "--config.train.steps=2")
    main.main(
        ["", "--mode", "export", "--workdir", str(tmp_path / "run"), "--to", f"{tmp_path}/out"]
    )
    assert checkpoints.load(tmp_path / "out").depth == 3
