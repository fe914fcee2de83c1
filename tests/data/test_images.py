import io
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sg_jax.data.images import (
    FORMATS,
    centre_crop,
    colour,
    decode,
    stored_size,
    to_float,
    to_uint8,
)
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


@pytest.mark.parametrize("encoded", [b"", b"hello", _png(0, 5), _saved("EPS"), _saved("ICO")])
def test_what_is_no_image_of_these_formats_is_an_error(encoded):
    with pytest.raises(UserError, match=r"not an image in PNG, JPEG, .* AVIF or JPEG2000"):
        decode(encoded, 3)


def test_images_have_one_to_four_channels():
    with pytest.raises(UserError, match="1, 2, 3, 4 channels, not 5"):
        decode(_saved("PNG"), 5)


def _encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


# By orientation: where the pixels 1, 2 (upper row) and 3, 4 (lower row) of the file belong.
UPRIGHT = {
    1: [[1, 2], [3, 4]],
    2: [[2, 1], [4, 3]],  # mirrored
    3: [[4, 3], [2, 1]],  # by a half turn
    4: [[3, 4], [1, 2]],
    5: [[1, 3], [2, 4]],
    6: [[3, 1], [4, 2]],  # stored a quarter turn to the left
    7: [[4, 2], [3, 1]],
    8: [[2, 4], [1, 3]],
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_photo_is_turned_as_its_exif_says(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.array([[1, 2], [3, 4]], np.uint8) * 50).convert("RGB")
    options = dict(lossless=True) if kind == "WEBP" else {}
    encoded = _encoded(stored, kind, exif=exif, **options)
    np.testing.assert_array_equal(decode(encoded, 3)[..., 0], np.array(UPRIGHT[orientation]) * 50)
    wide = _encoded(Image.new("L", (4, 2)), kind, exif=exif)
    assert stored_size(wide) == decode(wide, 3).shape[:2]


def test_a_turned_photo_has_its_size_before_it_is_decoded_and_is_cropped_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, :4] = 255  # the left half of the file is the upper one
    encoded = _encoded(Image.fromarray(pixels), "JPEG", exif=exif, quality=95)
    assert stored_size(encoded) == (8, 4) == decode(encoded, 3).shape[:2]
    np.testing.assert_allclose(decode(encoded, 1, 2)[..., 0], [[255, 255], [0, 0]], atol=2)


def test_damaged_exif_is_no_damaged_image():
    encoded = _encoded(Image.new("RGB", (2, 2), (9, 9, 9)), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert (decode(encoded, 3) == 9).all()


GREY16 = np.array([[0, 300, 30000, 65535]], np.uint16)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("PNG", np.uint16),
        ("TIFF", np.uint16),
        ("JPEG2000", np.uint16),
        ("PPM", np.int32),
        ("TIFF", np.int32),
        ("TIFF", np.float32),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_of_many_bits_keeps_its_range(kind, dtype, channels):
    encoded = _encoded(Image.fromarray(GREY16.astype(dtype)), kind)
    # 255 / 65535 = 1 / 257
    assert decode(encoded, channels)[0, :, 0].tolist() == [0, 1, 117, 255]


def test_grey_that_does_not_say_its_range_takes_the_least_that_fits():
    def read(values, dtype):
        return decode(_encoded(Image.fromarray(np.array([values], dtype)), "TIFF"), 1)[0, :, 0]

    assert read([0, 100, 255], np.int32).tolist() == [0, 100, 255]
    assert read([0, 0.5, 1], np.float32).tolist() == [0, 128, 255]
    assert read([0, 1.5, 255], np.float32).tolist() == [0, 2, 255]
    for values, dtype, words in (
        ([-1, 5, 9], np.int32, "from -1 to 9"),
        ([0, 1, 70000], np.int32, "from 0 to 70000"),
        ([0, np.nan, 1], np.float32, "from nan"),
    ):
        with pytest.raises(UserError, match=f"has values {words}.* store it in 8 or 16 bits"):
            read(values, dtype)


def test_tiffs_of_12_bits_have_their_range():
    encoded = bytearray(_encoded(Image.fromarray(np.array([[0, 4095]], np.uint16)), "TIFF"))
    at = encoded.index(struct.pack("<HHI", 258, 3, 1)) + 8
    encoded[at : at + 2] = struct.pack("<H", 12)
    strip = encoded.index(struct.pack("<HHHH", 0, 4095, 0, 0)[:4])
    encoded[strip : strip + 3] = b"\x00\x0f\xff"  # two values in 3 bytes
    assert decode(bytes(encoded), 1)[0, :, 0].tolist() == [0, 255]


def test_tiffs_in_which_0_is_white():
    encoded = bytearray(_encoded(Image.fromarray(GREY16), "TIFF"))
    at = encoded.index(struct.pack("<HHI", 262, 3, 1)) + 8
    encoded[at] = 0
    assert decode(bytes(encoded), 1)[0, :, 0].tolist() == [255, 254, 138, 0]


RED_OVER_WHITE = [255, 127, 127]  # at half


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "RGB", "L", "I;16"])
def test_what_is_transparent_shows_the_background(mode):
    image = Image.new("RGBA", (2, 1), (40, 40, 40, 255))
    image.putpixel((1, 0), (90, 90, 90, 0))
    options = {}
    if mode in ("P", "PA"):
        image = image.convert("P")
        hidden = image.getpixel((1, 0))
        options = dict(transparency=hidden)
        image = image if mode == "P" else image.convert("PA")
    elif mode in ("RGB", "L", "I;16"):
        options = dict(transparency=(90, 90, 90) if mode == "RGB" else 90)
        image = image.convert("RGB" if mode == "RGB" else "L")
        if mode == "I;16":
            options["transparency"] *= 257
            image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    if mode == "PA":  # no format stores it
        options, image = {}, image.convert("RGBA")
    encoded = _encoded(image, **options)
    assert decode(encoded, 3).tolist() == [[[40] * 3, [255] * 3]]
    assert decode(encoded, 1).tolist() == [[[40], [255]]]
    assert decode(encoded, 3, background=(255, 0, 7)).tolist() == [[[40] * 3, [255, 0, 7]]]
    assert decode(encoded, 4)[0, :, 3].tolist() == [255, 0]


def test_half_transparent_is_half_of_both():
    encoded = _encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 128)))
    assert decode(encoded, 3)[0, 0].tolist() == RED_OVER_WHITE
    opaque = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    opaque[..., 3] = 255
    np.testing.assert_array_equal(decode(_encoded(Image.fromarray(opaque)), 3), opaque[..., :3])


def test_plain_images_are_as_stored():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    np.testing.assert_array_equal(decode(_encoded(Image.fromarray(pixels)), 3), pixels)
    np.testing.assert_array_equal(
        decode(_encoded(Image.fromarray(pixels[..., 0])), 1), pixels[..., :1]
    )
    jpeg = _encoded(Image.fromarray(pixels), "JPEG")
    with Image.open(io.BytesIO(jpeg)) as file:
        np.testing.assert_array_equal(decode(jpeg, 3), np.asarray(file))


def test_two_colours_and_the_first_frame():
    bits = Image.fromarray(np.array([[True, False]]))
    for channels in (1, 3):
        assert decode(_encoded(bits), channels)[0, :, 0].tolist() == [255, 0]
    frames = [Image.new("RGB", (2, 2), (value, 0, 0)) for value in (10, 200)]
    for kind in ("GIF", "PNG", "TIFF"):
        encoded = _encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert (decode(encoded, 3)[..., 0] == 10).all(), kind


def test_a_huge_jpeg_is_reduced_while_it_is_decoded_and_others_are_refused(monkeypatch):
    monkeypatch.setattr("sg_jax.data.images.MOST_PIXELS", 1000)
    ramp = np.repeat(np.linspace(0, 255, 120).astype(np.uint8)[None], 80, 0)  # 9,600 pixels
    jpeg = _encoded(Image.fromarray(ramp), "JPEG", quality=95)
    small = decode(jpeg, 1, 8)  # from 30 x 20, a quarter
    expected = np.asarray(centre_crop(Image.fromarray(ramp), 8))[..., None]
    np.testing.assert_allclose(small, expected, atol=8.0)
    for encoded, size in ((jpeg, None), (jpeg, 64), (_encoded(Image.fromarray(ramp)), 8)):
        with pytest.raises(UserError, match=r"120 x 80 pixels is too large.* Store it smaller"):
            decode(encoded, 1, size)
    monkeypatch.setattr("sg_jax.data.images.MOST_OF_JPEG", {False: 9600, True: 9599})
    assert decode(jpeg, 1, 8).shape == (8, 8, 1)
    with pytest.raises(UserError, match="too large"):
        decode(_encoded(Image.fromarray(ramp), "JPEG", progressive=True), 1, 8)


def test_a_colour_is_named_or_written():
    assert colour("white") == (255, 255, 255) == colour("#fff")
    assert colour("rgb(1, 2, 3)") == colour("#01020380") == (1, 2, 3)
    for text in ("whitish", "", "rgb(300, 0, 0)", "#12", 3):
        with pytest.raises(UserError, match=r"config\.data\.background=.* must be a colour, such"):
            colour(text)
