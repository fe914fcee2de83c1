"""Configs: files and command lines over the defaults; every mistake is named."""

import pathlib

import pytest
from ml_collections import ConfigDict

from sg_jax.config import parsing
from sg_jax.errors import UserError, nearest
from sg_jax.method.guidance import Guidance
from sg_jax.method.presets import PRESETS

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SHIPPED = [p for p in sorted(CONFIGS.glob("*.py")) if "def get_config" in p.read_text()]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(
        "def get_config():\n"
        "    return dict(train=dict(steps=7), model=dict(depth=4, routes=((1, 2),)))\n"
    )
    return str(path)


def parse(path, *argv):
    return parsing.parse(argv, path, known=("config", "workdir", "mode"))


def test_a_file_changes_what_it_names_and_nothing_else(file):
    given, default = parsing.load(file).to_dict(), parsing.defaults().to_dict()
    assert given["train"].pop("steps") == 7 and default["train"].pop("steps") == 1000
    assert given["model"].pop("depth") == 4 and default["model"].pop("depth") == 0
    assert given["model"].pop("routes") == ((1, 2),) and default["model"].pop("routes") == ()
    assert given == default


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_configs_load_and_say_how_to_run_them(path):
    given = parsing.load(str(path))
    assert f"--config configs/{path.name}" in path.read_text().split('"""')[1]
    settings = {name: Guidance(**setting) for name, setting in given.guidance.items()}
    assert set((*given.evaluate.guidance, *given.diversity.guidance)) <= set(settings)


@pytest.mark.parametrize("size", ["dit_s2", "small"])
def test_the_cifar10_settings_need_no_checkpoint_that_is_not_kept(size):
    kinds = ("dense", "routing", "masking")
    found = [parsing.load(str(CONFIGS / f"cifar10_{size}_{kind}.py")) for kind in kinds]
    for given in found:
        weak = {given.guidance[name].weak_step for name in given.evaluate.guidance} - {0}
        kept = range(0, given.train.steps + 1, given.checkpoint.keep_period)
        assert weak and weak <= set(kept)
    dense, routing, masking = (set(given.evaluate.guidance) for given in found)
    assert {"unguided", "cfg_150", "icg_150", "sg_150", "sg_flops_150"} < dense < masking < routing
    assert not any(name.startswith("pdg") for name in masking)


def test_defaults_are_the_papers():
    default = parsing.defaults()
    objective = default.objective
    assert (objective.gamma, objective.label_dropout, objective.time) == (0.5, 0.1, "logit_normal")
    assert (objective.time_mean, objective.time_std, objective.shift) == (0.0, 1.0, 1.0)
    assert objective.reconstruction == 0.1  # MaskDiT's lambda
    rate = default.optimizer
    assert (rate.learning_rate, rate.b1, rate.b2, rate.weight_decay) == (1e-4, 0.9, 0.999, 0.0)
    assert (default.train.ema_decay, default.train.batch_size, default.sample.steps) == (
        0.9999,
        256,
        40,
    )
    assert {n: Guidance(**g) for n, g in default.guidance.items()} == PRESETS


def test_a_config_may_add_guidance_settings_of_its_own():
    merged = parsing.merge(dict(guidance=dict(mine=dict(scale=3.0, gamma_weak=0.4))))
    assert Guidance(**merged.guidance.mine) == Guidance(3.0, 0.0, 0.4)
    assert set(merged.guidance) == {*PRESETS, "mine"}


def test_lists_become_tuples_and_ints_become_floats():
    merged = parsing.merge(
        dict(model=dict(routes=[[1, 2], [3, 3]]), optimizer=dict(learning_rate=1))
    )
    assert merged.model.routes == ((1, 2), (3, 3))
    assert type(merged.optimizer.learning_rate) is float


def test_a_config_is_locked():
    with pytest.raises((AttributeError, KeyError)):
        parsing.merge({}).train.stepz = 1


@pytest.mark.parametrize(
    "given, named",
    [
        (dict(train=dict(stepz=1)), ["config.train.stepz", "mean 'steps'"]),
        (dict(trian={}), ["config.trian", "mean 'train'"]),
        (dict(guidance=dict(mine=dict(scael=1.0))), ["config.guidance.mine.scael", "'scale'"]),
        (dict(train=3), ["config.train=3", "section", "batch_size"]),
        (dict(guidance=3), ["config.guidance=3", "section"]),
        (dict(guidance=dict(mine=3)), ["config.guidance.mine=3", "gamma_weak"]),
        (dict(train=dict(steps="a")), ["config.train.steps='a'", "int"]),
        (dict(train=dict(steps=1.5)), ["config.train.steps=1.5", "int"]),
        (dict(train=dict(then="sample")), ["config.train.then='sample'", "tuple"]),
        (dict(data=dict(flip=1)), ["config.data.flip=1", "bool"]),
        (dict(model=dict(routes=5)), ["config.model.routes=5", "tuple"]),
    ],
)
def test_a_mistake_in_a_file_is_named(given, named):
    with pytest.raises(UserError) as error:
        parsing.merge(ConfigDict(given))
    for part in named:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "name, text, named",
    [
        ("smal.py", None, ["smal.py: no such file", "mean", "small.py"]),
        ("other.py", "x = 1\n", ["other.py", "get_config()"]),
        ("other.txt", "", ["other.txt", "Python file"]),
        ("other.py", "def get_config():\n    pass\n", ["other.py", "get_config()", "None"]),
    ],
    ids=["missing", "no function", "no Python", "returns nothing"],
)
def test_a_wrong_file_is_named(file, name, text, named):
    path = pathlib.Path(file).with_name(name)
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        parsing.load(str(path))
    for part in named:
        assert part in str(error.value)


def test_a_missing_config_is_asked_for():
    with pytest.raises(UserError, match=r"--config is missing.*configs/digits\.py"):
        parse(None)


def test_without_a_file_the_config_is_the_runs():
    of_run = parsing.merge(dict(train=dict(steps=11)))
    given = parsing.parse(["--config.train.batch_size=4"], None, lambda: of_run)
    assert (given.train.steps, given.train.batch_size) == (11, 4)


@pytest.mark.parametrize(
    "argument, key, value",
    [
        ("train.steps=9", "steps", 9),
        ("train.ema_decay=0.5", "ema_decay", 0.5),
        ("train.then=('sample', 'evaluate')", "then", ("sample", "evaluate")),
        ("train.then=sample", "then", ("sample",)),
        ("train.then=()", "then", ()),
    ],
)
def test_a_command_line_lies_over_the_file(file, argument, key, value):
    given = parse(file, f"--config.{argument}")
    assert given.train[key] == value
    assert parse(file, *f"--config.{argument}".split("=", 1)) == given  # a space will do
    assert given.model.depth == 4


@pytest.mark.parametrize("text", ["((0, 1), (3, 3))", "((0,1),(3,3))", "[[0, 1], [3, 3]]"])
def test_routes_on_a_command_line(file, text):
    given = parse(file, f"--config.model.routes={text}")
    assert given.model.routes == ((0, 1), (3, 3))


@pytest.mark.parametrize(
    "text, value",
    [("", ()), ("3", (3,)), ("0,1", (0, 1)), ("[0, 1]", (0, 1)), (" (0,) ", (0,))],
)
def test_a_tuple_on_a_command_line(file, text, value):
    assert parse(file, f"--config.evaluate.seeds={text}").evaluate.seeds == value


@pytest.mark.parametrize("text, value", [("=true", True), ("=0", False), ("=F", False), ("", True)])
def test_a_switch_on_a_command_line(file, text, value):
    assert parse(file, f"--config.data.flip{text}").data.flip is value
    found = parse(file, f"--config.guidance.cfg.rescale{text}")  # not a scale, which is a number
    assert found.guidance.cfg.rescale is value


@pytest.mark.parametrize("step", ["50000", "0.25"])
def test_a_weak_step_keeps_its_type(file, step):
    found = parse(file, f"--config.guidance.ag.weak_step={step}").guidance.ag.weak_step
    assert repr(found) == step


@pytest.mark.parametrize(
    "name", ["/tmp/x", "../x", "a/b", "a\\b", "", " a", "a.b", "a<b>", "a\n", "x" * 101, 3, None]
)
def test_the_name_of_a_setting_can_name_a_file(name):
    with pytest.raises(UserError, match="cannot name a setting, because files get its name"):
        parsing.merge(dict(guidance={name: dict(scale=2.0)}))
    parsing.merge(dict(guidance={"γ_0-5 (+)": dict(scale=2.0)}))


@pytest.mark.parametrize(
    "text, words",
    [
        ("def get_config(): return 3", "returns 3; it must return"),
        ("x = 1", "has no function get_config"),
        ("get_config = 3", "has no function get_config"),
        ("def get_config(): return {}['x']", "fails with KeyError: 'x'"),
        ("def get_config(", "fails with SyntaxError"),
        ("import nothing_like_it", "fails with ModuleNotFoundError"),
    ],
)
def test_a_file_that_is_no_config_says_why(tmp_path, text, words):
    (tmp_path / "wrong.py").write_text(text)
    with pytest.raises(UserError, match=words):
        parsing.load(str(tmp_path / "wrong.py"))


@pytest.mark.parametrize(
    "path", ["no.py", "a\0b", "x" * 5000, "~nobody-here/x.py", "", "/dev/null"]
)
def test_what_is_no_file_is_named(path):
    with pytest.raises(UserError, match=r"no such file|function get_config"):
        parsing.load(path)


def test_the_last_of_two_values_counts(file):
    given = parse(
        file, "--config.model.routes=((0,1),)", "--config.sample.labels=(1,2)",
        "--config.model.routes=()", "--config.sample.labels=(3,)", "--config.train.steps=3",
    )  # fmt: skip
    assert (given.model.routes, given.sample.labels, given.train.steps) == ((), (3,), 3)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config.guidance.sg.gamma_weak=('cosine',0.6,0.0)",),
        ("--config.guidance.sg.gamma_weak", "('cosine', 0.6, 0.0)"),
        ("--config.guidance.sg.gamma_weak=0.1", "--config.guidance.sg.gamma_weak",
         "('cosine',0.6,0.0)"),
    ],
)  # fmt: skip
def test_a_schedule_on_a_command_line(file, arguments):
    assert parse(file, *arguments).guidance.sg.gamma_weak == ("cosine", 0.6, 0.0)


def test_a_negative_number_may_follow_a_space(file):
    assert parse(file, "--config.mesh.data", "-1", "--config.train.steps", "3").train.steps == 3
    assert parse(file, "--config.guidance.sg.momentum", "-.5").guidance.sg.momentum == -0.5


def test_parsing_twice_keeps_nothing_from_before(file):
    parse(file, "--config.train.steps=9")
    assert parse(file).train.steps == 7


@pytest.mark.parametrize(
    "argument, named",
    [
        ("--config.train.stepz=1", ["--config.train.stepz", "mean 'steps'", "ema_decay"]),
        ("--config.trian.steps=1", ["--config.trian.steps", "mean 'train'"]),
        ("--config.steps=1", ["--config.steps", "mean 'config.train.steps'"]),
        ("--config.train=1", ["--config.train is a section", "ema_decay"]),
        ("--config.train.steps.x=1", ["--config.train.steps.x", "no key 'x'"]),
        ("--config.train.steps=abc", ["--config.train.steps=", "abc", "int"]),
        ("--config.train.steps=1.5", ["--config.train.steps=", "1.5", "int"]),
        ("--config.train.steps", ["--config.train.steps", "Missing value"]),
        ("--config.data.flip=maybe", ["--config.data.flip=", "maybe", "bool"]),
        ("--config.model.routes=((0,1", ["--config.model.routes='((0,1'", "of type tuple"]),
        ("--config.train.steps=" + "9" * 5000, ["--config.train.steps='9", "of type int"]),
        ("--config.guidance.sg.scale=two", ["--config.guidance.sg.scale='two'", "a schedule"]),
        ("--config.guidance.ag.weak_step=x", ["weak_step='x' must be a number."]),
        ("--config.sampler.diffusion_scale=x", ["scale='x' must be of type float, such as 1.0."]),
        ("--config." + "x" * 5000, ["config has no key 'xxx"]),
        ("--worckdir=x", ["worckdir", "Did you mean", "--mode"]),
        ("--steps=5", ["--steps is not a flag", "--config.train.steps", "--config.sample.steps"]),
        ("--config.train.step=5", ["Did you mean 'steps'? Or 'config.evaluate.step'?"]),
        ("--config.train.gamma=0", ["'gammas'? Or 'config.objective.gamma'?"]),
        ("--config.guidance.mine.scale=2", ["no key 'mine'", "A new setting needs a config file"]),
        ("train", ["'train' is not a flag"]),
    ],
)
def test_a_mistake_on_a_command_line_is_named(file, argument, named):
    with pytest.raises(UserError) as error:
        parse(file, argument)
    for part in named:
        assert part in str(error.value)


def test_the_nearest_name():
    assert nearest("steps", ["step", "stop"]) == " Did you mean 'step'?"
    assert nearest("xyz", ["step", "stop"]) == ""
