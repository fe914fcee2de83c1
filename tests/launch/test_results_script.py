"""launch/results.sh: what its commands name is there."""

import re
import shlex

import jax
import pytest
from stand_ins import ROOT

from sg_jax.config import experiment, geometry, parsing
from sg_jax.main import FLAGS
from sg_jax.method.candidates import METHODS
from sg_jax.modes.base import Parser


def variants(place):
    help_text, _ = place.run("results.sh", "--help")
    return re.search(r"there are also ([a-z_ ]+?) \[", help_text)[1].split()


@pytest.mark.every(3)
@pytest.mark.parametrize(
    "data, side, channels", [("digits", 8, 1), ("small", 16, 3), ("cifar10", 32, 3)]
)
def test_its_commands_name_configs_settings_and_methods_that_are_there(place, data, side, channels):
    kinds = ["routing", "dense", "masking", *variants(place)]
    options = (f"--data={data}", f"--networks={' '.join(kinds)}", "--seeds=0 7", "--dry-run")
    out, _ = place.run("results.sh", *options, "--", "--config.data.data_dir=my data")
    shown = [shlex.split(line) for line in out.splitlines()]
    commands = [words[3:] for words in shown if words[:3] == ["python", "-m", "sg_jax.main"]]
    modes, trained = [], {}
    for words in commands:
        absolute = [w.replace("configs/", f"{ROOT}/configs/") for w in words]
        flags, rest = Parser(FLAGS).parse_known_args(parsing.joined(absolute))
        modes.append(flags.mode)
        if "--join" in words:
            assert words[words.index("--join") + 1] in trained
            continue
        given = parsing.parse(rest, flags.config)
        assert given.data.data_dir == "my data" and given.seed in (0, 7)
        assert set(given.tune.methods) <= {"all", *METHODS}
        if flags.mode == "train":
            assert not given.train.init_from or given.train.init_from in trained
            trained[flags.workdir] = given
            if given.seed == 0:
                whole = geometry.complete(given, (side, side, channels), 10)
                experiment.build(whole, jax.devices()[:1])
        else:
            assert flags.workdir in trained
            assert given.seed == 0 or given.tune.winners in trained
    assert modes[: 2 * len(kinds)] == ["train"] * 2 * len(kinds) and place.calls() == []
    assert len(trained) == 2 * len(kinds)  # each in a folder of its own


def test_some_networks_elsewhere(place):
    arguments = ("--networks=routing masking", "--runs=/data/r", "--data=small", "--dry-run")
    out, _ = place.run("results.sh", *arguments)
    assert "--workdir /data/r/small_masking_0" in out and "small_dense" not in out


@pytest.mark.parametrize(
    "option, words",
    [
        ("--networks=sparse", "--networks sparse must be"),
        ("--data=mnist", "--data mnist must be"),
        ("--seeds=a", "--seeds a must be"),
        ("--seeds=", "--seeds  must be"),
    ],
)
def test_a_wrong_option_is_named(place, option, words):
    _, err = place.run("results.sh", option, "--dry-run", status=2)
    assert words in err
