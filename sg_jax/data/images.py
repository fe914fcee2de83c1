"""Encoded bytes to uint8 pixels, and pixels to the floats a model sees."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageColor, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from sg_jax.errors import UserError, one_line, shown

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# For some other formats, Pillow runs a program.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
MOST_PIXELS = 2**25  # of an image: a few bytes of a file can stand for gigabytes of pixels
MOST_OF_JPEG = {False: 2**28, True: 2**27}  # that is reduced; if progressive, it is held whole
MOST_SIDE = 4096  # of config.data.image_size
WHITE = (255, 255, 255)
JPEG = b"\xff\xd8\xff"  # how such a file begins
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF: the bits of a value, and whether 0 is white
_WIDTH, _HEIGHT = 256, 257
_ORIENTATION = 0x0112  # the tag of EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by orientation


def decode(
    encoded: bytes,
    channels: int,
    image_size: int | None = None,
    background: tuple[int, int, int] = WHITE,
) -> np.ndarray:
    """Decode an image file to uint8 [H, W, channels], centre-cropped if `image_size` is given.

    It always uses Pillow, because TFDS would switch to OpenCV if that is installed, which gives
    different pixels. Whatever the file holds becomes plain 8-bit pixels: the rotation in its EXIF
    is applied, grey of more than 8 bits keeps its range, palettes and CMYK are converted, and the
    first frame of an animation is used. Colour profiles are not applied.

    Args:
      encoded: the contents of the file.
      channels: 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA).
      image_size: side in pixels, see `centre_crop`; None: as stored.
      background: the colour under what is transparent, with 1 or 3 channels.

    Raises:
      UserError: the bytes are not an image in one of `FORMATS`, are cut short or damaged, or stand
        for more than `MOST_PIXELS` pixels. Larger JPEGs are reduced while they are decoded, if
        they are to be made smaller anyway.
    """
    if channels not in _MODES:
        raise UserError(
            f"Images are decoded to {', '.join(map(str, _MODES))} channels, not {channels}."
        )
    with _opened(encoded) as file:
        if image_size is not None and file.width * file.height > MOST_PIXELS:
            _reduce(file, image_size)
        _check_pixels(file.size, "An image")
        file.load()
        image = _turned(file, _MODES[channels], background)
        if image_size is not None:
            image = centre_crop(image, image_size)
        return np.asarray(image).reshape(image.height, image.width, channels)


def stored_size(encoded: bytes) -> tuple[int, int]:
    """Return the height and width that `decode` would give, from the header of an image file.

    Raises:
      UserError: the bytes are not an image in one of `FORMATS`.
    """
    with _opened(encoded) as file:
        width, height = file.size
        if isinstance(file, TiffImagePlugin.TiffImageFile):  # Pillow has turned this size already
            width, height = file.tag_v2[_WIDTH], file.tag_v2[_HEIGHT]
        return (width, height) if _orientation(file) > 4 else (height, width)


def colour(text: str) -> tuple[int, int, int]:
    """Return the red, green and blue of a colour, such as "white", "#808080" or "rgb(9, 9, 9)".

    Raises:
      UserError: there is no such colour.
    """
    try:
        red, green, blue, *_ = ImageColor.getrgb(text)
        if max(red, green, blue) > 255:
            raise ValueError
    except (ValueError, AttributeError, TypeError):  # the last two for what is not text
        raise UserError(
            f"config.data.background={shown(text)} must be a colour, such as 'white', '#808080' or "
            "'rgb(128, 128, 128)'."
        ) from None
    return red, green, blue


@contextlib.contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    """Open an image file; whatever goes wrong with it in this context raises a UserError."""
    try:
        # Pillow would refuse a JPEG that is too large, but `decode` can reduce it.
        if encoded.startswith(JPEG):
            opened: Image.Image = JpegImagePlugin.JpegImageFile(io.BytesIO(encoded))
        else:
            opened = Image.open(io.BytesIO(encoded), formats=FORMATS)
        with opened as file:
            yield file
    except UserError:
        raise
    except UnidentifiedImageError:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise UserError(f"These {len(encoded)} bytes are not an image in {known}.") from None
    except Exception as cause:  # damaged files raise many kinds of errors
        raise UserError(
            f"The image in these {len(encoded)} bytes cannot be decoded ({one_line(cause)})."
        ) from cause


def _reduce(file: Image.Image, image_size: int) -> None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 of its size, if that is enough for `image_size`."""
    if file.width * file.height > MOST_OF_JPEG[bool(file.info.get("progressive"))]:
        return
    for scale in (2, 4, 8):
        width, height = file.width // scale, file.height // scale
        if (width + 1) * (height + 1) <= MOST_PIXELS:
            if min(width, height) >= image_size:
                file.draft(None, (width, height))  # does nothing for other formats
            return


def _check_pixels(size: tuple[int, int], what: str) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise UserError(
            f"{what} of {size[0]} x {size[1]} pixels is too large: at most {MOST_PIXELS:,} pixels "
            "are decoded. Store it smaller."
        )


def _orientation(file: Image.Image) -> int:
    with contextlib.suppress(Exception):  # the EXIF may be damaged and the pixels intact
        return int(file.getexif().get(_ORIENTATION, 1))
    return 1


def _turned(file: Image.Image, mode: str, background: tuple[int, int, int]) -> Image.Image:
    """Return a decoded file upright and in a mode of `_MODES`."""
    image = _narrowed(file) if file.mode[0] in "IF" else file
    if mode in ("L", "RGB") and image.has_transparency_data:
        below = Image.new("RGBA", image.size, (*background, 255))
        below.alpha_composite(image.convert("RGBA"))
        image = below
    if image.mode != mode:
        image = image.convert(mode)
    turn = _TURNS.get(_orientation(file))
    return image if turn is None else image.transpose(turn)


def _narrowed(file: Image.Image) -> Image.Image:
    """Return grey of 16 or 32 bits, or of floats, in 8 bits: its range becomes 0 to 255.

    Files of 16 bits have the range of their bits. Files of 32 bits or floats do not state theirs:
    it is taken as 0 to 255 or 0 to 65,535, for floats also 0 to 1, the smallest that fits.
    """
    values = np.asarray(file)
    most = 65535
    if file.mode.startswith("I;16"):
        tags = getattr(file, "tag_v2", {})
        most = 2 ** min(tags.get(_BITS, (16,))[0], 16) - 1  # 12 bits in some
        if tags.get(_PHOTOMETRIC) == 0:
            values = most - values
    elif file.format != "PPM" or file.mode != "I":  # Pillow has scaled those
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= most):
            raise UserError(
                f"The image has values from {low:g} to {high:g}, but they must be 0 to 65,535: "
                "store it in 8 or 16 bits."
            )
        ranges = (1, 255, most) if file.mode == "F" else (255, most)
        most = next(most for most in ranges if high <= most)
    scaled = np.multiply(values, np.float32(255 / most), dtype=np.float32)
    grey = Image.fromarray(np.rint(scaled).clip(0, 255).astype(np.uint8))
    if isinstance(hidden := file.info.get("transparency"), int):  # this value is transparent
        grey.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to `size` pixels, then crop the centre to [size, size].

    Halve by averaging while that side is at least twice `size`, then resize by bicubic
    interpolation. This is ADM's preprocessing (Dhariwal & Nichol 2021, `center_crop_arr`), which
    FID statistics assume.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    if scale != 1:
        resized = (round(image.width * scale), round(image.height * scale))
        _check_pixels(resized, f"An image of {image.width} x {image.height}, resized to one")
        image = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_float(images: np.ndarray) -> np.ndarray:
    """Map uint8 [..., H, W, C] to float32 in [-1, 1]; `to_uint8` undoes it exactly."""
    floats = np.array(images, np.float32)
    floats /= 127.5
    floats -= 1
    return floats


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Map floats in [-1, 1] to rounded uint8 [..., H, W, C]; values outside are clipped."""
    return np.clip(np.rint((np.asarray(images, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def png(image: np.ndarray) -> io.BytesIO:
    """Return an image uint8 [H, W, 1 or 3] as a PNG file.

    TFDS encodes arrays with tensorflow, but does not encode a file of encoded bytes again.
    """
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, format="PNG")
    file.seek(0)
    return file
