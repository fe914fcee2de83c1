"""Encoded bytes to uint8 pixels, and pixels to the floats a model sees."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from sg_jax.errors import UserError, one_line

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")  # of others, Pillow runs a program for some
MOST_PIXELS = 2**25  # of an image: a few bytes of a file can stand for gigabytes of pixels
MOST_SIDE = 4096  # of config.data.image_size


def decode(encoded: bytes, channels: int, image_size: int | None = None) -> np.ndarray:
    """Decode an image file to uint8 [H, W, channels], centre-cropped if `image_size` is given.

    It always uses Pillow, because TFDS would switch to OpenCV, which gives other pixels, if it is
    installed. It converts the grey, palette and CMYK files that data sets of colour images contain.

    Raises:
      UserError: these bytes are no image of `FORMATS`, are cut short or damaged, or stand for more
        than `MOST_PIXELS` pixels.
    """
    if channels not in _MODES:
        raise UserError(
            f"Images are decoded to {', '.join(map(str, _MODES))} channels, not {channels}."
        )
    mode = _MODES[channels]
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as file:
            _check_pixels(file.size, "An image")
            image = file if file.mode == mode else file.convert(mode)  # convert always copies
            if image_size is not None:
                image = centre_crop(image, image_size)
            return np.asarray(image).reshape(image.height, image.width, channels)
    except UserError:
        raise
    except UnidentifiedImageError:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise UserError(f"These {len(encoded)} bytes are no image in {known}.") from None
    except Exception as cause:  # damaged files raise many kinds
        raise UserError(
            f"The image in these {len(encoded)} bytes cannot be decoded ({one_line(cause)})."
        ) from cause


def _check_pixels(size: tuple[int, int], what: str) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise UserError(
            f"{what} of {size[0]} x {size[1]} pixels is too large: at most {MOST_PIXELS:,} pixels "
            "are decoded."
        )


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to `size` pixels, then crop the centre to [size, size].

    Halve by averaging while it is at least twice too large, then resize by bicubic interpolation.
    This is ADM's preprocessing (Dhariwal & Nichol 2021, `center_crop_arr`), which FID statistics
    assume.
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
