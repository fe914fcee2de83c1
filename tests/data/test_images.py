import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sg_jax.data.images import centre_crop, decode, to_float, to_uint8


def test_bytes_survive_the_way_to_floats_and_back():
    values = np.arange(256, dtype=np.uint8)
    floats = to_float(values)
    assert floats.dtype == np.float32
    assert (floats[0], floats[255]) == (-1, 1)
    np.testing.assert_array_equal(to_uint8(floats), values)


def test_to_uint8_rounds_and_clips():
    # (x + 1) * 127.5: -1.5 -> below 0, 0.001 -> 127.6, 2 -> above 255
    np.testing.assert_array_equal(to_uint8(jnp.array([-1.5, 0.001, 2.0])), [0, 128, 255])


def test_centre_crop_halves_by_averaging_then_cuts_the_middle():
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 3:] = 255  # columns 3 to 7 are white
    # Halved to [2, 4]: 0, (0 + 255) / 2, 255, 255; the middle two columns remain.
    cropped = np.asarray(centre_crop(Image.fromarray(pixels), 2))
    np.testing.assert_array_equal(cropped, [[128, 255], [128, 255]])


@pytest.mark.parametrize("size", [(5, 9), (9, 5), (7, 7), (40, 30), (3, 4)])
def test_centre_crop_is_square(size):
    assert centre_crop(Image.new("RGB", size, (1, 2, 3)), 7).size == (7, 7)


def test_centre_crop_of_the_right_size_changes_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    np.testing.assert_array_equal(centre_crop(Image.fromarray(pixels), 5), pixels)


@pytest.mark.parametrize(("mode", "colour"), [("L", 9), ("P", 9), ("CMYK", (0, 0, 0, 246))])
def test_decode_gives_the_channels_asked_for(mode, colour):
    file = io.BytesIO()
    image = Image.new(mode, (4, 3), colour)
    if mode == "P":
        image.putpalette([9, 9, 9] * 256)
    image.save(file, format="PNG" if mode != "CMYK" else "JPEG")
    pixels = decode(file.getvalue(), channels=3)
    assert pixels.shape == (3, 4, 3)
    assert (pixels == 9).all()
