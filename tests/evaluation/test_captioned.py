"""A grid with captions below: where the pictures are, and texts that fonts do not like."""

import numpy as np
import pytest

from sg_jax.evaluation import captioned

ODD = [
    "", " ", "\n", "a\x00b\x1b[31m\x7f", "字" * 500, "مرحبا بالعالم", "🙂👨\u200d👩\u200d👧",
    "\ud800 half",
    "x" * 10_000, "word " * 3000, "\u202eabc", "e\u0301" * 40, "\uffff\U0010ffff",
]  # fmt: skip


def pictures(count, channels=3):
    levels = np.arange(count, dtype=np.uint8) * 15
    return np.broadcast_to(levels[:, None, None, None], (count, 8, 8, channels))


@pytest.mark.parametrize("channels", [1, 3])
def test_each_picture_is_where_it_is_said_to_be(channels):
    texts = [f"number {i}" for i in range(5)]
    picture = captioned.grid(pictures(5, channels), texts, 2)
    assert len(picture.info["places"]) == 5
    for i, place in enumerate(picture.info["places"]):
        assert picture.getpixel((place[0] + 3, place[1] + 3)) == (15 * i,) * 3
    pixels, (x, y) = np.asarray(picture), picture.info["places"][4]
    assert (pixels[y + 112 :, x : x + 112] < 128).any()  # its caption


def test_captions_that_no_font_likes_do_not_stop_it():
    picture = captioned.grid(pictures(len(ODD)), ODD, 4)
    assert picture.width < 700 and picture.height < 1200  # none is wider than its column


def test_headings_are_short_lines():
    for text in ODD:
        line = captioned.short(text)
        assert len(line) <= captioned.SHORT and "\n" not in line and line.isprintable(), text
    assert captioned.short("a red\n  circle") == "a red circle"
    assert captioned.short("word " * 30).endswith("…")
