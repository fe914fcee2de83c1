"""Images with their captions: a grid with a text under each picture, and captions as headings.

A character that the font lacks becomes a box; one that cannot be drawn at all becomes a space.
"""

import functools
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sg_jax.config.experiment import Experiment
from sg_jax.data.asked import Asked
from sg_jax.data.sources import Source
from sg_jax.evaluation import scored
from sg_jax.evaluation.pictures import GAP, INK, MARGIN, PAPER, SHOWN_SIDE, font_of
from sg_jax.evaluation.table import Key

if TYPE_CHECKING:
    from PIL import Image

FONT_SIZE = 12
LINES = 5  # of a caption, at most; the last ends in "…" if there is more
NARROWEST = 112  # least pixels of a caption's column
SHORT = 60  # most characters of a heading


def plain(text: str) -> str:
    """Return a text on one line, without characters that fonts or files cannot take."""
    odd = ("Cc", "Cf", "Cs", "Co", "Cn")  # control, format, surrogates, private, unassigned
    kept = "".join(" " if unicodedata.category(c) in odd else c for c in text)
    return " ".join(kept.split())


def short(text: str, most: int = SHORT) -> str:
    """Return a text on one line of at most `most` characters."""
    line = plain(text[: 10 * most])
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def grid(images: np.ndarray, texts: Sequence[str], columns: int) -> "Image.Image":
    """Draw images side by side, each with its caption below, wrapped.

    Args:
      images: uint8 [B, H, W, 1 or 3].
      texts: B captions.
      columns: images in a row; the last row may have fewer.

    Returns:
      An RGB image. Image i begins at `image.info["places"][i]`.
    """
    from PIL import Image, ImageDraw

    count, height, width, _ = images.shape
    scale = max(1, round(2 * SHOWN_SIDE / max(height, width)))
    font = font_of(FONT_SIZE)
    pitch_x = max(width * scale, NARROWEST) + 2 * GAP
    wrapped = [_wrapped(text, font, pitch_x - 2 * GAP) for text in texts]
    line = sum(font.getmetrics())
    rows = -(-count // columns)
    tall = [max(map(len, wrapped[r * columns : (r + 1) * columns])) for r in range(rows)]
    heights = [height * scale + GAP + lines * line + 2 * GAP for lines in tall]
    size = (2 * MARGIN + columns * pitch_x, 2 * MARGIN + sum(heights))
    picture = Image.new("RGB", size, PAPER)
    draw, places = ImageDraw.Draw(picture), []
    for i, (image, lines) in enumerate(zip(images, wrapped, strict=True)):
        row, column = divmod(i, columns)
        x, y = MARGIN + column * pitch_x, MARGIN + sum(heights[:row])
        left = x + (pitch_x - width * scale) // 2
        pixels = np.broadcast_to(image, (height, width, 3)).repeat(scale, 0).repeat(scale, 1)
        picture.paste(Image.fromarray(pixels), (left, y))
        places.append((left, y))
        for n, words in enumerate(lines):
            at = (x + (pitch_x - font.getlength(words)) / 2, y + height * scale + GAP + n * line)
            draw.text(at, words, font=font, fill=INK)
    picture.info = {"places": places}
    return picture


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """Return the lines of a caption within a width in pixels; words that are too long are cut."""
    length = functools.lru_cache(None)(font.getlength)
    lines, words = [""], short(text, LINES * width // 3).split(" ")
    while words:
        word = words.pop(0)
        joined = f"{lines[-1]} {word}".lstrip()
        if length(joined) <= width:
            lines[-1] = joined
        elif lines[-1]:
            lines.append("")
            words.insert(0, word)
        else:
            fits = next(
                n for n in range(len(word) - 1, 0, -1) if n == 1 or length(word[:n]) <= width
            )
            lines[-1] = word[:fits]
            lines.append("")
            words.insert(0, word[fits:])
    lines = [each for each in lines if each]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], lines[LINES - 1][:-1] + "…"]
    return lines


def shown_of(experiment: Experiment, source: Source, columns: int, samples: int) -> int:
    """Return how many images a row of a picture shows: one per class, or some of the captions."""
    most = columns if experiment.captions else min(columns, source.num_classes)
    return min(most, samples)


def headings(
    experiment: Experiment, source: Source, shown: int, samples: int, seed: int
) -> list[str]:
    """Return what the first `shown` of `samples` images of a seed show: classes, or captions."""
    key = Key(samples=samples, seed=seed, labels=experiment.config.evaluate.labels)
    wanted = scored.wanted_by(experiment, key)
    if isinstance(wanted, Asked):
        return [short(text) for text in wanted[:shown].words]
    return [source.class_names[label] for label in wanted[:shown]]
