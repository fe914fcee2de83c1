"""Drawings side by side: each setting has files of its own."""

import dataclasses
import types

import numpy as np
import pytest
from PIL import Image

from sg_jax.config import parsing
from sg_jax.config.sections import Data, Sample
from sg_jax.errors import UserError
from sg_jax.evaluation.table import Key
from sg_jax.method.guidance import Guidance
from sg_jax.method.sampler import Sampler
from sg_jax.modes import sample
from sg_jax.weights import checkpoints

KEY = Key(Guidance(3.0, 0.0, 0.9), "euler", 20, 4, checkpoint=1500)
LABELS = np.arange(4)


UNCHANGED = {name: parsing.merge({})[name] for name in ("objective", "train")}


def test_a_name_says_the_setting_scale_steps_and_seed():
    name = sample.name_of("sg", KEY, LABELS)
    assert name.startswith("sg_w3_20steps_seed0_") and name == sample.name_of("sg", KEY, LABELS)
    scheduled = dataclasses.replace(KEY, guidance=Guidance(("linear", 1.0, 2.5)), seed=7, steps=5)
    assert sample.name_of("sg", scheduled, LABELS).startswith("sg_wlinear_5steps_seed7_")


def test_all_that_images_depend_on_has_another_name():
    changes = [
        dict(guidance=dataclasses.replace(KEY.guidance, **change))
        for change in (
            dict(gamma_weak=0.8), dict(weak_label="null"), dict(interval=(0.0, 0.5)),
            dict(ids="nested"), dict(weak_step=500), dict(weak_workdir="other"), dict(scale=3.5),
        )
    ]  # fmt: skip
    changes += [dict(sampler="heun"), dict(steps=21), dict(seed=1), dict(checkpoint=1000)]
    names = {sample.name_of("sg", dataclasses.replace(KEY, **c), LABELS) for c in [{}, *changes]}
    names |= {sample.name_of("sg", KEY, LABELS[::-1]), sample.name_of("other", KEY, LABELS)}
    assert len(names) == len(changes) + 3


def test_long_names_are_files_too(tmp_path):
    for setting in ("x" * 64, "ω" * 64, "字" * 64):
        name = sample.name_of(setting, KEY, LABELS) + ".npz"
        (tmp_path / name).touch()
        assert name.startswith(setting[:30])


@pytest.fixture
def draw(tmp_path, zero, mesh_of, monkeypatch):
    """Scale and seed -> the path that was written, of a network whose samples are its noise."""
    monkeypatch.setattr(checkpoints, "load_with_step", lambda *args, **kwargs: (zero, 7))

    def run(scale, seed, count=4):
        mesh, sampler = mesh_of(1, 1), Sampler()
        experiment = types.SimpleNamespace(
            config=types.SimpleNamespace(
                **UNCHANGED, seed=seed, data=Data(),
                sample=Sample(guidance="sg", steps=2, batch_size=4, count=count),
            ),
            settings={"sg": Guidance(scale, 0.0, 0.5)}, model=zero, mesh=mesh, sampler=sampler,
            pixels=True, image_shape=(8, 8, 3), autoencoder=None,
            sampling=dict(steps=2, seed=seed, batch_size=4, mesh=mesh, sampler=sampler),
        )  # fmt: skip
        return sample.draw(experiment, str(tmp_path))

    return run


def test_another_scale_or_seed_replaces_nothing(draw, tmp_path):
    written = [draw(2.0, 0), draw(3.0, 0), draw(2.0, 1)]
    assert len(set(written)) == 3 and len(list((tmp_path / "samples").iterdir())) == 9
    files = everything(tmp_path)
    with np.load(written[2].with_suffix(".npz")) as drawn:
        assert drawn["images"].shape == (4, 8, 8, 3)
        np.testing.assert_array_equal(drawn["labels"], np.arange(4))
        about = "sg: ω 2, γ 0 / 0.5, euler, 2 steps, seed 1, checkpoint 7"
        assert str(drawn["about"]) == about
        images = drawn["images"]
    assert draw(2.0, 1) == written[2]  # the same again
    assert everything(tmp_path) == files
    for image, path in zip(images, pictures(written[2]), strict=True):
        with Image.open(path) as png:
            np.testing.assert_array_equal(np.asarray(png), image)
    assert pictures(written[2])[-1].name == "000003.png"


@pytest.mark.parametrize("there", [1, 4, 5, 8])
def test_an_interrupted_drawing_continues(draw, tmp_path, monkeypatch, capsys, there):
    whole = draw(2.0, 0, count=8)
    expected = everything(tmp_path)
    for path in (whole, whole.with_suffix(".npz"), *pictures(whole)[there:]):
        path.unlink()
    drawn = []
    batches = sample.sample_batches
    monkeypatch.setattr(
        sample, "sample_batches", lambda *args, **options: watched(batches(*args, **options), drawn)
    )
    capsys.readouterr()
    assert draw(2.0, 0, count=8) == whole
    assert everything(tmp_path) == expected
    assert sum(drawn) == {1: 7, 4: 4, 5: 4, 8: 0}[there]  # 5: the last ones are a full batch
    printed = capsys.readouterr().out
    assert f"Continue after {there} of them" in printed and (there == 8 or "image 8/8" in printed)


def test_a_drawing_after_a_gap_is_drawn_again(draw, tmp_path):
    whole = draw(2.0, 0, count=8)
    expected = everything(tmp_path)
    for path in (whole.with_suffix(".npz"), pictures(whole)[0]):
        path.unlink()
    draw(2.0, 0, count=8)
    assert everything(tmp_path) == expected


def test_a_damaged_image_of_an_interrupted_drawing_is_named(draw):
    whole = draw(2.0, 0)
    whole.with_suffix(".npz").unlink()
    damaged = pictures(whole)[1]
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(UserError, match=rf"{damaged.name} .*: delete it, and it is drawn again"):
        draw(2.0, 0)
    damaged.unlink()
    draw(2.0, 0)
    assert len(pictures(whole)) == 4


def pictures(whole):
    return sorted(whole.with_suffix("").iterdir())


def watched(batches, drawn):
    for images in batches:
        drawn.append(len(images))
        yield images


@pytest.mark.parametrize("asked, step", [(0, None), (4, 4), (-1, 4)])
def test_a_kept_checkpoint_is_drawn(monkeypatch, asked, step):
    monkeypatch.setattr(checkpoints, "saved_steps", lambda _: [4, 8])
    monkeypatch.setattr(checkpoints.best, "best_step", lambda _: 4)
    drawn = types.SimpleNamespace(config=types.SimpleNamespace(sample=Sample(checkpoint=asked)))
    assert sample.drawn_step(drawn, "run") == step
    drawn.config.sample = Sample(checkpoint=5)
    with pytest.raises(UserError, match=r"config\.sample\.checkpoint=5 is not .* run: \[4, 8\]"):
        sample.drawn_step(drawn, "run")


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
