import io
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sg_jax.data.images import FORMATS, centre_crop, decode, to_float, to_uint8
from sg_jax.errors import UserError


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


def _saved(kind, size=(6, 5)):
    file = io.BytesIO()
    Image.new("RGB", size, (1, 2, 3)).save(file, format=kind)
    return file.getvalue()


def _png(width, height, data=b""):
    """Return a PNG of any size, as its header says; colour, 8 bits."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", data)]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (*parts, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_that_is_cut_short_is_an_error(kind):
    whole = _saved(kind)
    assert decode(whole, 3).shape == (5, 6, 3)
    with pytest.raises(UserError):
        decode(whole[: len(whole) // 2], 3)


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (6000, 6000)])
def test_a_header_of_a_few_bytes_takes_no_gigabytes(size):
    with pytest.raises(UserError, match=r"33,554,432 pixels are decoded|DecompressionBomb"):
        decode(_png(*size, zlib.compress(bytes(1000))), 3)


def test_a_strip_is_not_resized_beyond_all_memory():
    strip = _saved("PNG", (60_000, 1))
    assert decode(strip, 3).shape == (1, 60_000, 3)
    with pytest.raises(UserError, match=r"60000 x 1, resized to one of 15360000 x 256 pixels"):
        decode(strip, 3, image_size=256)


@pytest.mark.parametrize("encoded", [b"", b"hello", _png(0, 5), _saved("EPS"), _saved("TIFF")])
def test_what_is_no_image_of_these_formats_is_an_error(encoded):
    with pytest.raises(UserError, match="no image in PNG, JPEG, GIF, BMP or WEBP"):
        decode(encoded, 3)


def test_images_have_one_to_four_channels():
    with pytest.raises(UserError, match="1, 2, 3, 4 channels, not 5"):
        decode(_saved("PNG"), 5)
