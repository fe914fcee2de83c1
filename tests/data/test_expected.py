"""How much data there is, for a dry run: as published, or counted where it is."""

import numpy as np
import pytest
from image_files import picture, write
from PIL import Image

from sg_jax.data import expected
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError


@pytest.mark.parametrize(
    "split, examples, size",
    [
        ("train", 1_281_167, 147_897_477_120),
        ("train[:1000]", 1_000, 147_897_477_120 * 1_000 / 1_281_167),
        ("train+validation", 1_331_167, 154_642_401_280),
    ],
)
def test_imagenet_as_published(tmp_path, split, examples, size):
    found = expected.look("imagenet2012", split, str(tmp_path))
    assert (found.examples, found.size, found.here) == (examples, pytest.approx(size, abs=1), False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["my_latents", "hf:owner/name", "/nowhere/photos"])
def test_what_is_neither_here_nor_published_is_not_known(tmp_path, name):
    found = expected.look(name, "train", str(tmp_path))
    assert (found.examples, found.size, found.here) == (0, 0, False)


def test_a_split_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="'test' is not a split of 'imagenet2012'"):
        expected.look("imagenet2012", "test", str(tmp_path))


def test_what_is_here_is_counted(tmp_path):
    open_source("digits", "train", str(tmp_path))
    found = expected.look("digits", "train[:100]", str(tmp_path))
    assert found.examples == 100 and found.here and found.source.image_shape == (8, 8, 1)
    files = [path for path in tmp_path.rglob("*train.array_record*")]
    assert found.size == sum(path.stat().st_size for path in files) > 0
    photos = tmp_path / "photos" / "cat"
    photos.mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(photos / f"{i}.png")
    assert expected.look(str(photos.parent), "train").examples == 3


def test_tars_that_are_here_are_counted(tmp_path):
    write(tmp_path / "some", {f"{i}.png": picture(i) for i in range(3)}, "tar")
    found = expected.look(f"wds:{tmp_path}/some.tar", "train", str(tmp_path))
    assert found.examples == 3 and found.here
    assert not expected.look(f"wds:{tmp_path}/some.tar,{tmp_path}/others", "train").here
