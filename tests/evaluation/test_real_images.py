"""Scores say which real images they compare with, where the digest of no network says it."""

import re
import types

import numpy as np
import pytest
from image_files import animals, picture, write

from sg_jax.config import parsing, record, tree
from sg_jax.config.sections import Data, Evaluate
from sg_jax.errors import UserError
from sg_jax.evaluation import real_images, scoring
from sg_jax.evaluation.judge import Judge
from sg_jax.evaluation.real import View
from sg_jax.modes import dry_draw


def config(split="train", images=""):
    return types.SimpleNamespace(data=Data(name="d", split=split), evaluate=Evaluate(images=images))


@pytest.fixture
def run(monkeypatch):
    """The config of a run -> a function of another config and an origin: what is said of it."""

    def of(saved):
        monkeypatch.setattr(record, "is_run", lambda workdir: True)
        monkeypatch.setattr(record, "read", lambda workdir: (saved, ()))

        def said(given, origin=None, **images):
            origin = origin and types.SimpleNamespace(images=dict(name=origin, **images))
            source = types.SimpleNamespace(latents=origin is not None, origin=origin)
            return real_images.unlike_run(given, source, "run")

        return said

    return of


def test_those_of_the_run_are_not_named(run, tmp_path):
    assert run(config())(config()) == ""
    assert run(config())(config(images="pixels"), origin="pixels") == ""
    assert run(config(images="others"))(config(images="others"), origin="pixels") == ""


def test_others_are_named(run):
    assert run(config())(config("test")) == "split test"
    assert run(config())(config(images="others"), origin="pixels") == "others"
    assert run(config(images="others"))(config("test"), origin="pixels") == "pixels, split test"


def test_a_split_that_the_latents_name_is_the_one_that_is_read(run):
    assert run(config())(config("test"), origin="pixels", split="train") == ""
    others = run(config())(config("test", images="others"), origin="pixels", split="train")
    assert others == "others, split test"


def test_a_judge_says_what_it_compared(tmp_path):
    real = types.SimpleNamespace(
        count=40, statistics=types.SimpleNamespace(mean=np.zeros(2), scatter=np.eye(2))
    )
    judge = Judge({"classifier": View(None, real)}, reference="split test")
    assert re.fullmatch(
        r"40 images of cifar10, split test \([0-9a-f]{8}\)", judge.compared_with("cifar10")
    )
    judge = Judge({}, reference="r.npz (0123)", from_file=True)
    assert judge.compared_with("cifar10") == "r.npz (0123)"


def test_a_folder_that_is_no_run_has_none_of_its_own(tmp_path):
    source = types.SimpleNamespace(latents=False)
    assert real_images.unlike_run(config("test"), source, tmp_path) == ""


def sources(*names):
    return [types.SimpleNamespace(name="made", class_names=each) for each in names]


def test_classes_in_another_order_are_named():
    real_images.check_classes(*sources(("cat", "dog"), ("cat", "dog ")))
    real_images.check_classes(*sources(("cat", "dog"), ("0", "1", "2")))
    words = r"those of 'made' differ .*'made': class 0 is 'dog' instead of 'cat'\. Name other"
    with pytest.raises(UserError, match=words):
        real_images.check_classes(*sources(("cat", "dog"), ("dog", "cat")))
    with pytest.raises(UserError, match="3 classes instead of 2"):
        real_images.check_classes(*sources(("cat", "dog"), ("cat", "dog", "fox")))


@pytest.fixture
def latents(tmp_path):
    """Latents of images whose classes a file named, which lies beside the images, and a config."""
    contents = animals(2) | {"names.txt": b"dog Hund\ncat Katze"}
    write(tmp_path / "pets", contents)
    images = dict(name=str(tmp_path / "gone"), classes=str(tmp_path / "gone" / "names.txt"))
    source = types.SimpleNamespace(
        name="made", latents=True, class_names=("Hund", "Katze"),
        origin=types.SimpleNamespace(images=images),
    )  # fmt: skip
    config = parsing.merge(dict(evaluate=dict(images=str(tmp_path / "pets"))))
    config.data.name, config.data.test_split = "made", "train"
    return config, source


def test_images_do_not_have_others():
    pixels = types.SimpleNamespace(latents=False, name="digits")
    assert real_images.of_images(config(), pixels, 8)[1] is pixels
    with pytest.raises(UserError, match=r"images='pets' has no effect.*reference"):
        real_images.of_images(config(images="pets"), pixels, 8)


def test_other_images_have_the_classes_of_the_latents(latents, tmp_path):
    config, source = latents
    _, real = real_images.of_images(tree.check(config), source, 4)
    assert real.class_names == ("Hund", "Katze")
    scoring.check_ready(tree.check(config), source, 4)
    for metrics, least in (((), 4), (("frechet",), 2)):
        config.evaluate.metrics, config.data.split = metrics, f"train[:{least - 1}]"
        words = rf"Scores need {least} real images or more, and split .* has {least - 1}: use more"
        with pytest.raises(UserError, match=words):
            scoring.check_ready(tree.check(config), source, 4)
    config.evaluate.metrics, config.data.split = (), "train"
    source.origin.images["classes"] = str(tmp_path / "none.txt")
    with pytest.raises(UserError, match="class 0 is 'cat' instead of 'Hund'"):
        scoring.check_ready(tree.check(config), source, 4)
    config.evaluate.metrics = ("frechet",)
    scoring.check_ready(tree.check(config), source, 4)
    np.savez(tmp_path / "r.npz", np.zeros((4, 4, 4, 3), np.uint8))  # the classifier is not of it
    config.evaluate.reference = str(tmp_path / "r.npz")
    scoring.check_ready(tree.check(config), source, 4)
    config.evaluate.reference = ""
    config.evaluate.images = f"wds:{write(tmp_path / 'tar', {'0.png': picture(1)}, 'tar')}"
    _, real = real_images.of_images(tree.check(config), source, 4)
    assert real.class_names == ("image",)


def test_other_images_may_be_in_another_folder_than_the_latents(
    latents, digits_dir, tmp_path, monkeypatch
):
    config, source = latents
    monkeypatch.setenv("TFDS_DATA_DIR", str(digits_dir))
    config.evaluate.images, config.data.data_dir = "digits", str(tmp_path)
    given, real = real_images.of_images(tree.check(config), source, 16)
    assert real.image_shape == (16, 16, 3) and given.data.data_dir == ""
    assert real.files[0].startswith(str(digits_dir)) and not (tmp_path / "digits").exists()
    config.data.data_dir = str(digits_dir)
    assert real_images.keys_of(tree.check(config), None, 16)["data_dir"] == str(digits_dir)


def test_a_dry_run_makes_other_images_as_large_as_the_decoded_ones(tmp_path):
    write(tmp_path / "odd", {"0.png": picture(1), "1.png": picture(2, size=(5, 7))})
    config = tree.check(parsing.merge(dict(evaluate=dict(images=str(tmp_path / "odd")))))
    job = types.SimpleNamespace(config=config, experiment=types.SimpleNamespace(config=config))
    decoder = types.SimpleNamespace(latents=True, shape=(4, 4, 3))
    assert dry_draw._real(job, decoder).source.image_shape == (4, 4, 3)
