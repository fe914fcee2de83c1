"""Show images as one labelled picture.

PIL and matplotlib are imported inside the functions, because training does not need them.
"""

import functools
import io
import math
import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from etils import epath

from sg_jax.data import embedded
from sg_jax.errors import UserError
from sg_jax.runs.files import write_atomically

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

SHOWN_SIDE = 56  # pixels: about the side that an image is scaled up to
GAP = 4  # pixels between images
MARGIN = 16  # pixels around everything, and between labels and images
FONT_SIZE = 16
INK, FAINT_INK, PAPER = "#1f2328", "#656d76", "#ffffff"


def grid(
    images: np.ndarray,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: int | None = None,
) -> "Image.Image":
    """Draw images in rows and columns with labels in the margins.

    Args:
      images: uint8 [R, columns, H, W, channels], 1 channel for grey or 3 for RGB.
      row_labels: R texts, drawn left of the rows; lines after the first are smaller and grey.
      column_labels: one text above each column, wrapped at spaces.
      scale: pixels drawn per pixel, without smoothing. None: the whole number that brings the
        longer side closest to 56 pixels, or 1 for larger images.

    Returns:
      An RGB image. With margins left, top = `image.info["origin"]` and pitch_x, pitch_y =
      `image.info["pitch"]`, image (r, c) begins at (left + c * pitch_x, top + r * pitch_y).

    Raises:
      UserError: images have another type or shape, or the number of labels is wrong.
    """
    from PIL import Image, ImageDraw

    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 5 or images.shape[-1] not in (1, 3):
        raise UserError(
            f"images is {images.dtype} {list(images.shape)}; it must be uint8 "
            "[rows, columns, H, W, 1 or 3]."
        )
    if images.size == 0:
        raise UserError(f"images of shape {list(images.shape)} is empty; there is nothing to draw.")
    rows, columns, height, width, _ = images.shape
    for name, labels, count in (
        ("row_labels", row_labels, rows),
        ("column_labels", column_labels, columns),
    ):
        if labels is not None and len(labels) != count:
            raise UserError(f"{name} has {len(labels)} texts for {count} {name[:-7]}s.")
    if scale is None:
        scale = max(1, round(SHOWN_SIDE / max(height, width)))

    row_texts = [_Text(str(label).split("\n")) for label in row_labels or []]
    column_texts = [_Text(_wrapped(str(label)), equal=True) for label in column_labels or []]
    wide, high = width * scale, height * scale
    # Cells grow with the longest label instead of cutting it off.
    pitch_x = max([wide + GAP] + [text.width + 2 * GAP for text in column_texts])
    pitch_y = max([high + GAP] + [text.height + GAP for text in row_texts])
    left = MARGIN + max([text.width + MARGIN for text in row_texts], default=0)
    top = MARGIN + max([text.height + GAP * 2 for text in column_texts], default=0)
    size = (left + columns * pitch_x - GAP + MARGIN, top + rows * pitch_y - GAP + MARGIN)
    picture = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)

    inset_x, inset_y = (pitch_x - GAP - wide) // 2, (pitch_y - GAP - high) // 2
    origin = (left + inset_x, top + inset_y)
    for r in range(rows):
        for c in range(columns):
            pixels = np.broadcast_to(images[r, c], (height, width, 3))
            tile = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
            picture.paste(Image.fromarray(tile), (origin[0] + c * pitch_x, origin[1] + r * pitch_y))
    for r, text in enumerate(row_texts):
        middle = origin[1] + r * pitch_y + high // 2
        text.draw(draw, MARGIN, middle - text.height // 2, align=0.0)
    for c, text in enumerate(column_texts):
        middle = origin[0] + c * pitch_x + wide // 2
        bottom = origin[1] - 2 * GAP
        text.draw(draw, middle - text.width // 2, bottom - text.height, align=0.5)
    picture.info = {"origin": origin, "pitch": (pitch_x, pitch_y)}
    return picture


def credited(picture: "Image.Image", name: str) -> "Image.Image":
    """Return a picture with a credit below it, if it shows data that requires one.

    Args:
      picture: RGB.
      name: config.data.name of the data that it shows, or that its network was trained on.
    """
    from PIL import Image, ImageDraw

    if not (credit := embedded.CREDITS.get(name, "")):
        return picture
    text = _Text(["", credit])  # small and grey, as a second line
    width = max(picture.width, text.width + 2 * MARGIN)
    whole = Image.new("RGB", (width, picture.height + text.height), PAPER)
    whole.paste(picture.convert("RGB"), (0, 0))
    text.draw(ImageDraw.Draw(whole), MARGIN, picture.height - MARGIN, align=0.0)
    whole.info = dict(picture.info)
    return whole


class _Text:
    """Lines of a label and their sizes; the later ones are smaller and grey, unless `equal`."""

    def __init__(self, lines: Sequence[str], equal: bool = False):
        self.lines = []
        for i, line in enumerate(lines):
            leading = equal or i == 0
            font = font_of(FONT_SIZE if leading else FONT_SIZE - 3)
            length, height = math.ceil(font.getlength(line)), sum(font.getmetrics())
            self.lines.append((line, font, length, height, INK if leading else FAINT_INK))
        self.width = max((length for _, _, length, _, _ in self.lines), default=0)
        self.height = sum(height for _, _, _, height, _ in self.lines)

    def draw(self, draw: "ImageDraw.ImageDraw", x: int, y: int, align: float) -> None:
        for line, font, length, height, colour in self.lines:
            place = (x + int(align * (self.width - length)), y)
            draw.text(place, line, font=font, fill=colour)
            y += height


def _wrapped(label: str) -> list[str]:
    # Class names can be long ("great white shark, white shark"), so they wrap in narrow columns.
    return textwrap.wrap(label, width=12, break_long_words=False)


@functools.cache
def font_of(size: int) -> "ImageFont.FreeTypeFont":
    """Return the font for pictures in a given size."""
    from PIL import ImageFont

    try:
        # PIL's own font draws boxes for omega, gamma and accents; matplotlib has a better one.
        import matplotlib

        return ImageFont.truetype(
            os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size
        )
    except (ImportError, OSError):
        return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))


def save_png(image: "Image.Image", path: str | os.PathLike) -> epath.Path:
    """Write a PIL image as PNG, completely or not at all, and return `path` as a path."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return write_atomically(path, buffer.getvalue())
