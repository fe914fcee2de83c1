"""Pictures, pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from sg_jax.errors import UserError
from sg_jax.evaluation.pictures import MARGIN, credited, grid, save_png


def _random(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labelled", [False, True])
def test_every_pixel_is_where_it_belongs(channels, labelled):
    images = _random(2, 3, 8, 8, channels)
    labels = (["a", "a long name\nω 1.5, γ 0 / 0.75"], ["0", "1", "two words"])
    picture = grid(images, *(labels if labelled else ()))
    pixels = np.asarray(picture)
    (left, top), (pitch_x, pitch_y) = picture.info["origin"], picture.info["pitch"]
    for r in range(2):
        for c in range(3):
            x, y = left + c * pitch_x, top + r * pitch_y
            shown = pixels[y : y + 56, x : x + 56]  # 8 pixels, 7 times as large
            expected = np.broadcast_to(images[r, c], (8, 8, 3)).repeat(7, axis=0).repeat(7, axis=1)
            np.testing.assert_array_equal(shown, expected)
    if not labelled:
        assert picture.size == (2 * MARGIN + 3 * 56 + 2 * 4, 2 * MARGIN + 2 * 56 + 4)


@pytest.mark.parametrize(("side", "shown"), [(4, 56), (8, 56), (28, 56), (32, 64), (64, 64)])
def test_scale_brings_images_to_about_56_pixels(side, shown):
    assert grid(_random(1, 1, side, side, 1)).width == shown + 2 * MARGIN
    assert grid(_random(1, 1, side, side, 1), scale=2).width == 2 * side + 2 * MARGIN


@pytest.mark.parametrize("text", ["W" * 60, "short\n" + "W" * 60, "W\n" * 9 + "W"])
def test_labels_are_never_cut_off(text):
    images = np.full((2, 2, 8, 8, 1), 255, np.uint8)  # white: all ink is text
    for labels in ([text, ""], None), (None, ["", text]), ([text, text], [text, text]):
        ink = np.asarray(grid(images, *labels)).min(axis=-1) < 200
        assert ink.any()
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        assert rows[0] >= 8 and rows[-1] < len(ink) - 8
        assert columns[0] >= 8 and columns[-1] < ink.shape[1] - 8


def test_greek_letters_are_drawn():
    blank = np.zeros((1, 1, 8, 8, 1), np.uint8)
    omega, gamma, missing = (np.asarray(grid(blank, [s])) for s in ("ω", "γ", "\uffff"))
    for letter in omega, gamma:
        assert letter.shape != missing.shape or (letter != missing).any()


def test_bad_grids_are_refused():
    with pytest.raises(UserError, match=r"uint8 \[2, 8, 8, 1\]; it must be uint8 \[rows"):
        grid(_random(2, 8, 8, 1))
    with pytest.raises(UserError, match="float64"):
        grid(np.zeros((1, 1, 8, 8, 1)))
    with pytest.raises(UserError, match="row_labels has 1 texts for 2 rows"):
        grid(_random(2, 3, 8, 8, 1), ["a"])
    with pytest.raises(UserError, match="column_labels has 2 texts for 3 columns"):
        grid(_random(2, 3, 8, 8, 1), None, ["a", "b"])
    with pytest.raises(UserError, match="empty"):
        grid(_random(0, 3, 8, 8, 1))


def test_save_png_keeps_pixels(tmp_path):
    picture = grid(_random(1, 2, 8, 8, 3))
    path = save_png(picture, tmp_path / "new" / "grid.png")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(picture))
    assert [file.name for file in path.parent.iterdir()] == ["grid.png"]


def test_pictures_of_others_name_them():
    picture = grid(np.full((1, 1, 8, 8, 3), 100, np.uint8))
    assert credited(picture, "digits") is picture
    named = credited(picture, "emoji")
    assert named.info == picture.info and named.height > picture.height
    below = np.asarray(named)[picture.height :]
    assert below.min() < 150 and below.max() == 255  # ink on paper
    np.testing.assert_array_equal(
        np.asarray(named)[: picture.height - MARGIN, : picture.width],
        np.asarray(picture)[:-MARGIN],
    )
