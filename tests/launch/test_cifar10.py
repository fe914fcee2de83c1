"""launch/cifar10.sh: what its commands name is there."""

import shlex

import jax
import pytest
from stand_ins import ROOT

from sg_jax.config import experiment, geometry, parsing
from sg_jax.main import FLAGS
from sg_jax.modes.base import Parser


@pytest.mark.every(2)
@pytest.mark.parametrize("small", [(), ("--small",)])
def test_cifar10_names_configs_settings_and_checkpoints_that_are_there(place, small):
    out, _ = place.run("cifar10.sh", *small, "--dry-run", "--", "--config.data.data_dir=my data")
    shown = [shlex.split(line) for line in out.splitlines()]
    commands = [words[2:] for words in shown if words[:3] == ["python", "-m", "sg_jax.main"]]
    modes, built = [], set()
    for words in commands:
        absolute = [w.replace("configs/", f"{ROOT}/configs/") for w in words[1:]]
        flags, rest = Parser(FLAGS).parse_known_args(parsing.joined(absolute))
        given = parsing.parse(rest, flags.config)
        assert given.data.data_dir == "my data"
        assert given.evaluate.step % given.checkpoint.keep_period == 0
        assert given.evaluate.step < given.train.steps
        modes.append(flags.mode)
        with given.unlocked():
            given.evaluate.step = 0  # nothing that is built depends on it
        if str(given) not in built:
            built.add(str(given))
            side = given.data.image_size or 32
            experiment.build(geometry.complete(given, (side, side, 3), 10), jax.devices()[:1])
    assert set(modes) == {"train", "evaluate", "sweep", "diversity"} and modes[:3] == ["train"] * 3
    workdirs = [words[words.index("--workdir") + 1] for words in commands[:3]]
    assert shown[-1][:3] == ["python", "-m", "sg_jax.evaluation.compare"]
    assert shown[-1][3:6] == workdirs and place.calls() == []


def test_cifar10_runs_some_networks_elsewhere(place):
    arguments = ("--networks=routing masking", "--runs=/data/r", "--small", "--dry-run")
    out, _ = place.run("cifar10.sh", *arguments)
    assert "--workdir /data/r/small_masking" in out and "small_dense" not in out
    _, err = place.run("cifar10.sh", "--networks=sparse", "--dry-run", status=2)
    assert "--networks sparse must be" in err
