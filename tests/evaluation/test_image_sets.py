"""Images that others made: ADM's files, and folders of pictures."""

import numpy as np
import pytest
from PIL import Image

from sg_jax.errors import UserError
from sg_jax.evaluation import image_sets

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 6, 5, 3), np.uint8)


def whole(found, **how):
    return np.concatenate(list(found.batches(**how)))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_is_read_in_batches_from_any_image_on(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, IMAGES, labels=np.arange(11))
    found = image_sets.open_images(path)
    assert (len(found), found.image_shape) == (11, (6, 5, 3))
    assert [len(part) for part in found.batches(size=4)] == [4, 4, 3]
    np.testing.assert_array_equal(whole(found, size=4), IMAGES)
    np.testing.assert_array_equal(whole(found, start=7, size=3), IMAGES[7:])


def test_what_the_sampling_mode_writes_is_read_too(tmp_path):
    np.savez(tmp_path / "b.npz", labels=np.arange(11), images=IMAGES, about=np.array("x"))
    np.testing.assert_array_equal(whole(image_sets.open_images(tmp_path / "b.npz")), IMAGES)


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    for i, image in enumerate(IMAGES):
        (tmp_path / "c" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "c" / str(i % 2) / f"{i:06d}.png")
    found = image_sets.open_images(tmp_path / "c")
    expected = np.concatenate([IMAGES[::2], IMAGES[1::2]])
    np.testing.assert_array_equal(whole(found, size=3), expected)
    np.testing.assert_array_equal(whole(found, start=5, size=3), expected[5:])


WRONG = {
    "floats": (dict(arr_0=IMAGES / 255), "arr_0 is float64 .*must be uint8"),
    "one image": (dict(arr_0=IMAGES[0]), r"arr_0 is uint8 \[6, 5, 3\]"),
    "four channels": (dict(arr_0=np.zeros((2, 4, 4, 4), np.uint8)), r"\[2, 4, 4, 4\]"),
    "none": (dict(arr_0=IMAGES[:0]), r"\[0, 6, 5, 3\]"),
    "no images": (dict(mu=np.zeros(3)), "it needs arr_0, but has mu"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_images_is_named(tmp_path, case):
    parts, words = WRONG[case]
    np.savez(tmp_path / "x.npz", **parts)
    with pytest.raises(UserError, match=rf"x\.npz.*{words}"):
        image_sets.open_images(tmp_path / "x.npz")


def test_a_damaged_or_missing_file_is_named(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(UserError, match=r"x\.npz does not exist"):
        image_sets.open_images(path)
    np.savez(path, IMAGES)
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with pytest.raises(UserError, match=r"x\.npz cannot be read"):
        image_sets.open_images(path)
    broken = bytearray(content)
    broken[400] ^= 255  # the sum of the member no longer fits
    path.write_bytes(bytes(broken))
    with pytest.raises(UserError, match=r"x\.npz (is damaged|cannot be read)"):
        whole(image_sets.open_images(path))
    with pytest.raises(UserError, match=r"--samples=.*neither an \.npz file.*nor images"):
        image_sets.open_images(tmp_path / "nothing", "--samples")


def test_a_picture_that_is_damaged_or_of_another_size_is_named(tmp_path):
    for i, image in enumerate(IMAGES[:3]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    Image.fromarray(IMAGES[0, :4]).save(tmp_path / "1.png")
    with pytest.raises(UserError, match=r"1\.png has 4x5 pixels, but the first .* 6x5"):
        whole(image_sets.open_images(tmp_path))
    (tmp_path / "1.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"1\.png cannot be read"):
        whole(image_sets.open_images(tmp_path))
