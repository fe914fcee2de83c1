"""Encoded bytes to uint8 pixels, and pixels to the floats a model sees."""

import io

import numpy as np
from PIL import Image

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def decode(encoded: bytes, channels: int, image_size: int | None = None) -> np.ndarray:
    """Decode a PNG or JPEG to uint8 [H, W, channels], centre-cropped if `image_size` is given.

    It always uses Pillow, because TFDS would switch to OpenCV, which gives other pixels, if it is
    installed. It converts the grey, palette and CMYK files that data sets of colour images contain.
    """
    with Image.open(io.BytesIO(encoded)) as file:
        mode = _MODES[channels]
        image = file if file.mode == mode else file.convert(mode)  # convert always copies
        if image_size is not None:
            image = centre_crop(image, image_size)
        return np.asarray(image).reshape(image.height, image.width, channels)


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
