"""Show images as one labelled picture, and a training run as one curve.

PIL and matplotlib are imported inside the functions: training and sampling do without them.
"""

import functools
import io
import math
import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from sg_jax.errors import UserError
from sg_jax.runs.files import write_atomically

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

SHOWN_SIDE = 56  # pixels: about what an image is scaled up to
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
      An RGB image. With margins left, top = `image.info["origin"]`, image (r, c) begins at
      (left + c * pitch_x, top + r * pitch_y), `image.info["pitch"]` being (pitch_x, pitch_y).

    Raises:
      UserError: for images of another type or shape, or a wrong number of labels.
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
    # Cells grow with the longest label rather than cutting it off.
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


class _Text:
    """Lines of a label and their measures; after the first smaller and grey, unless `equal`."""

    def __init__(self, lines: Sequence[str], equal: bool = False):
        self.lines = []
        for i, line in enumerate(lines):
            leading = equal or i == 0
            font = _font(FONT_SIZE if leading else FONT_SIZE - 3)
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
    # Class names can be long ("great white shark, white shark"): lines, not wide columns.
    return textwrap.wrap(label, width=12, break_long_words=False)


@functools.cache
def _font(size: int) -> "ImageFont.FreeTypeFont":
    from PIL import ImageFont

    try:
        # PIL's own font draws boxes for omega, gamma and accents; matplotlib brings a better one.
        import matplotlib

        return ImageFont.truetype(
            os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size
        )
    except (ImportError, OSError):
        return ImageFont.load_default(size)


def loss_curve(
    steps: Sequence[int],
    losses: Sequence[float],
    path: str | os.PathLike,
    *,
    title: str = "Training loss",
    label: str = "loss: mean squared error of the velocity",
) -> epath.Path:
    """Plot the loss of each logged step faintly and its running mean boldly, as PNG.

    Args:
      steps: training steps, ascending.
      losses: the loss at each; NaN and infinity are left out and counted in the title.
      path: the PNG file to write, whole or not at all.
      title: text above the plot.
      label: what the vertical axis shows, with its unit.

    Returns:
      `path` as a path.

    Raises:
      UserError: for unequal lengths, or without one finite loss.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator, ScalarFormatter

    steps, losses = np.asarray(steps, np.float64), np.asarray(losses, np.float64)
    if steps.shape != losses.shape or steps.ndim != 1:
        raise UserError(
            f"steps {list(steps.shape)} and losses {list(losses.shape)} must be two lists of one "
            "length."
        )
    finite = np.isfinite(losses)
    if not finite.any():
        raise UserError(f"None of the {len(losses)} losses is finite; there is nothing to plot.")
    if not finite.all():
        title += f" ({np.sum(~finite)} of {len(losses)} not finite)"
    steps, losses = steps[finite], losses[finite]
    smooth = running_mean(losses, window=max(1, len(losses) // 20))

    # Figure and canvas by hand: pyplot would keep global state, and pick a backend.
    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    dots = {"marker": "."} if len(losses) < 40 else {}
    axes.plot(steps, losses, color="#0969da", alpha=0.3, linewidth=0.8, label="as logged")
    axes.plot(steps, smooth, color="#0969da", linewidth=2, label="running mean", **dots)
    # A steep start would press the rest into a line: show ratios then, or else equal differences.
    if losses.min() > 0 and smooth.max() > 10 * smooth.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
    else:
        low, high = np.quantile(losses, [0.0, 0.995])
        high = max(high, smooth.max())
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(low - room, high + room)
    axes.set_title(title, loc="left", fontweight="bold", color=INK)
    axes.set_xlabel("training step", color=INK)
    axes.set_ylabel(label, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(colors=FAINT_INK)
    axes.grid(alpha=0.25)
    axes.set_xlim(0, 1.01 * max(steps.max(), 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, labelcolor=INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return write_atomically(path, buffer.getvalue())


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Average each value with its neighbours.

    Args:
      values: [N].
      window: neighbours taken on each side. Near the start only as many as exist on both sides, so
        that a steep beginning keeps its height; near the end all on the left, so that the last
        value is a mean too.

    Returns:
      [N].
    """
    places = np.arange(len(values))
    before = np.minimum(window, places)
    after = np.minimum(before, places[::-1])
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return (sums[places + after + 1] - sums[places - before]) / (before + after + 1)


def save_png(image: "Image.Image", path: str | os.PathLike) -> epath.Path:
    """Write a PIL image as PNG, whole or not at all, and return `path` as a path."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return write_atomically(path, buffer.getvalue())
