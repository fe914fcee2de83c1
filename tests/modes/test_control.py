"""`--mode control` finds directions, draws with them, and measures what they change."""

import types

import numpy as np
import pytest

from sg_jax.config.controlling import Control
from sg_jax.data import subjects
from sg_jax.data.directions import Direction
from sg_jax.errors import UserError
from sg_jax.main import main
from sg_jax.modes import prompted
from sg_jax.modes.base import Job
from sg_jax.modes.control import Controller, asked

WORDS = dict(subjects=("circle", "star"), positive=("a large {}",), negative=("a small {}",))


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(methods=("best",)), "config.control.methods"),
        (dict(methods=()), "config.control.methods"),
        (dict(scales=(1.0, 1.0)), "config.control.scales"),
        (dict(scales=("1",)), "config.control.scales"),
        (dict(positive=("a large",)), r"config.control.positive.*\{\} once"),
        (dict(positive=("a large {}", "{}")), "1 neutral, 2 positive, 1 negative"),
        (dict(subjects=("",)), "config.control.subjects"),
        (dict(prompts=("a circle",)), "config.control.prompts.*braces"),
        (dict(attribute="../size"), "config.control.attribute"),
        (dict(pairs="pairs.txt"), "subjects.*has no effect: the prompts come from pairs"),
        (dict(steps=0), "config.control.steps"),
    ],
)
def test_a_wrong_setting_is_named(changes, named):
    with pytest.raises(UserError, match=named):
        Control(**{**WORDS, **changes})


def test_prompts_come_from_templates_or_a_file(tmp_path):
    found = Control(**WORDS).contrasts
    assert [c.positive.text for c in found] == ["a large circle", "a large star"]
    assert [m.text for m in Control(**WORDS).drawn(found)] == ["a circle", "a star"]
    two = Control(**WORDS, prompts=("a {circle} and a star",)).drawn(found)
    assert [(m.text, m.subject) for m in two] == [("a circle and a star", "circle")]
    (tmp_path / "pairs.txt").write_text("a {cat} | an old {cat} | a young {cat}\n")
    assert Control(pairs=str(tmp_path / "pairs.txt")).contrasts[0].negative.text == "a young cat"
    with pytest.raises(UserError, match="no contrastive prompts"):
        _ = Control().contrasts


@pytest.mark.parametrize("given", ["circle", "circle=size.npz", "=size.npz:1", "circle=a.npz:x",
                                   "circle=:1", "circle=a.npz:nan"])  # fmt: skip
def test_a_wrong_flag_is_named(given):
    with pytest.raises(UserError, match=r"--control.*SUBJECT=FILE:SCALE"):
        prompted.control([given])


def test_a_flag_names_a_subject_a_file_and_a_scale(tmp_path):
    direction = Direction(np.ones(3, np.float32), "size", "1", "", "learned", ())
    path = direction.save(tmp_path / "a.npz")
    ((subject, direction, scale),) = prompted.control([f"red circle#2={path}:-1.5"])
    assert (subject, scale, direction.attribute) == ("red circle#2", -1.5, "size")


@pytest.mark.parametrize(
    "wording, data, attribute, named",
    [
        (None, "shapes", "size", "reads class labels"),
        ("texts", "digits", "size", "config.data.name='digits'"),
        ("texts", "shapes", "age", "config.control.attribute='age'"),
    ],
)
def test_what_cannot_be_measured_is_named(wording, data, attribute, named):
    space = types.SimpleNamespace
    config = space(
        model=space(kind="dit"),
        data=space(name=data),
        control=Control(**WORDS, attribute=attribute),
    )
    job = Job(options={"measure": True})
    job.__dict__["experiment"] = space(config=config, wording=wording)
    with pytest.raises(UserError, match=named):
        asked(job)


def test_a_subject_beyond_the_text_is_named_before_anything_is_learned():
    space = types.SimpleNamespace
    words = space(length=10, features=0, tokens=10, most_words=0, most="10 bytes")
    config = space(control=Control(**WORDS), text=space(encoder="bytes"))
    experiment = space(config=config, model=space(conditioning=words))
    with pytest.raises(UserError, match=r"'circle' of .* beyond the 10 bytes"):
        Controller(experiment, "nowhere", [], [subjects.marked("a star and a {circle}")])


SMALL = (
    "--config.model.depth=2", "--config.model.width=16", "--config.model.heads=2",
    "--config.model.routes=((1,1),)", "--config.train.steps=2", "--config.train.sample_every=0",
    "--config.train.then=()", "--config.checkpoint.every=2", "--config.optimizer.warmup=0",
)  # fmt: skip
FEW = (
    "--config.control.steps=2", "--config.control.images=4", "--config.control.draw_steps=2",
    "--config.control.measured=3", "--config.control.scales=(-1,0,1)", "--config.sample.steps=2",
)  # fmt: skip


@pytest.mark.slow
def test_from_training_to_a_steered_picture(tmp_path):
    run, data = f"--workdir={tmp_path / 'run'}", f"--config.data.data_dir={tmp_path}"
    main(["sg_jax", "--config=configs/shapes_t2i.py", run, data, *SMALL])
    main(["sg_jax", "--mode=control", run, data, "--measure", *FEW])
    folder = tmp_path / "run" / "control"
    methods, kinds = ("difference", "learned"), ("npz", "png")
    names = {f"size_{method}.{kind}" for method in methods for kind in kinds}
    assert {path.name for path in folder.iterdir()} == {*names, "size.md"}
    assert (folder / "size.md").read_text().count("\n| ") == 1 + 2 * 3  # methods and settings
    (tmp_path / "prompts.txt").write_text("a red circle\na circle left of a star\n")
    sample = ["sg_jax", "--mode=sample", run, data, f"--prompts={tmp_path / 'prompts.txt'}"]
    steps = "--config.sample.steps=2"
    main([*sample, steps])
    main([*sample, steps, "--control", f"circle={folder / 'size_learned.npz'}:2"])
    assert len(list((tmp_path / "run" / "samples").glob("*.npz"))) == 2
    with pytest.raises(UserError, match=r"prompts\[0\]='a red circle' does not have .*'star'"):
        main([*sample, steps, "--control", f"star={folder / 'size_learned.npz'}:2"])
