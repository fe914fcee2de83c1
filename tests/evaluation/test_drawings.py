"""Images are written as they come: each whole, and the archive only when all are there."""

import numpy as np
import pytest
from PIL import Image

from sg_jax.evaluation import drawings

SHAPE = (8, 6, 3)


def write(folder, images, *sizes, labels=None, **options):
    labels = np.arange(len(images)) if labels is None else labels
    with drawings.writing(folder, "x", labels, "how", images.shape[1:], **options) as add:
        first = 0
        for size in sizes:
            add(images[first : first + size])
            first += size
    with np.load(folder / "x.npz") as file:
        return dict(file)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (7, *SHAPE), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sizes", [(7,), (3, 3, 1)])
def test_the_archive_and_the_files_are_the_images(tmp_path, images, channels, sizes):
    images = images[..., :channels]
    found = write(tmp_path, images, *sizes)
    np.testing.assert_array_equal(found["images"], images)
    np.testing.assert_array_equal(found["labels"], np.arange(7))
    assert str(found["about"]) == "how"
    paths = sorted((tmp_path / "x").iterdir())
    assert [p.name for p in paths] == [f"00000{i}.png" for i in range(7)]
    for path, image in zip(paths, images, strict=True):
        with Image.open(path) as png:
            assert png.mode == ("L" if channels == 1 else "RGB")
            np.testing.assert_array_equal(np.asarray(png).reshape(image.shape), image)


def test_equal_images_are_equal_files(tmp_path, images):
    write(tmp_path / "a", images, 7)
    write(tmp_path / "b", images, 4, 3)
    assert (tmp_path / "a" / "x.npz").read_bytes() == (tmp_path / "b" / "x.npz").read_bytes()


def test_latents_are_an_archive_alone(tmp_path):
    latents = np.random.default_rng(0).standard_normal((3, 4, 4, 16)).astype(np.float32)
    np.testing.assert_array_equal(write(tmp_path, latents, 2, 1, latents=True)["latents"], latents)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_an_interrupted_drawing_has_no_archive(tmp_path, images):
    with pytest.raises(KeyboardInterrupt):
        with drawings.writing(tmp_path, "x", np.arange(7), "how", SHAPE) as add:
            add(images[:4])
            raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert len(list((tmp_path / "x").iterdir())) == 4


def test_a_missing_image_is_noticed(tmp_path, images):
    with pytest.raises(AssertionError, match="4 of 7 images"):
        write(tmp_path, images, 4)
    assert not (tmp_path / "x.npz").exists()


def test_a_bucket_gets_the_same(bucket, images):
    with drawings.writing("gs://b/run", "x", np.arange(7), "how", SHAPE) as add:
        add(images)
    with np.load(bucket / "b" / "run" / "x.npz") as file:
        np.testing.assert_array_equal(file["images"], images)
    assert len(list((bucket / "b" / "run" / "x").iterdir())) == 7


def test_the_picture_has_the_first_images_in_whole_rows(tmp_path):
    def size(count, columns):
        path = drawings.save_grid(np.zeros((count, 4, 4, 1), np.uint8), columns, tmp_path / "x.png")
        with Image.open(path) as picture:
            return picture.size

    assert size(1000, 10) == size(drawings.SHOWN, 10)
    assert size(7, 3) == size(6, 3) and size(2, 3 - 1)[0] > 0
