"""Resizing: Pillow's to the last bit, TF1's by its formula, torch's bicubic by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sg_jax.encoders import resizing


@pytest.mark.parametrize("sides", [(256, 256), (31, 300), (224, 100), (1, 2)])
def test_bicubic_is_pillows_to_the_last_bit(sides):
    image = np.random.default_rng(0).integers(0, 256, (*sides, 3), np.uint8)
    image[: sides[0] // 2] = 255 * (image[: sides[0] // 2] > 127)  # overshoot, which is clipped
    rows = Image.fromarray(image).resize((224, sides[0]), Image.Resampling.BICUBIC)
    theirs = rows.resize((224, 224), Image.Resampling.BICUBIC)  # rows first, whatever Pillow does
    ours = resizing.bicubic_pillow(jnp.asarray(image[None]), 224)
    assert ours.dtype == jnp.uint8
    np.testing.assert_array_equal(ours[0], np.asarray(theirs))


def test_square_images_are_resized_as_pillow_does_it_at_once():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    theirs = Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)
    ours = resizing.bicubic_pillow(jnp.asarray(image[None]), 224)
    np.testing.assert_array_equal(ours[0], np.asarray(theirs))


@pytest.mark.parametrize("inputs", [1, 224, 255, 1000, 14_000])
def test_digits_of_weights_stay_exact(inputs):
    """Together they are Pillow's weights; sums of digits times 255 are below 2^24."""
    digits = resizing._digits(inputs, 224)
    whole = sum(part.astype(np.int64) << shift for shift, part in digits)
    np.testing.assert_allclose(whole.sum(1) / 2**22, 1, atol=1e-4)
    for _, part in digits:
        assert np.abs(part).max() <= 255
        assert np.abs(part).sum(1).max() * 255 < 2**24


def test_bilinear_has_no_centres_of_half_a_pixel():
    """Twice as large: every second pixel is one of the image, the others lie halfway."""
    image = jnp.asarray([[[[0.0], [8.0]], [[4.0], [20.0]]]])
    ours = resizing.bilinear_tf1(image, 4)[0, :, :, 0]
    np.testing.assert_array_equal(
        ours, [[0, 4, 8, 8], [2, 8, 14, 14], [4, 12, 20, 20], [4, 12, 20, 20]]
    )


def test_bilinear_takes_single_pixels_of_a_larger_image():
    image = jnp.arange(36.0).reshape(1, 6, 6, 1)
    np.testing.assert_array_equal(
        resizing.bilinear_tf1(image, 3)[0, :, :, 0], image[0, ::2, ::2, 0]
    )


def test_antialiased_tables_keep_planes_away_from_their_edges():
    """6 of 4 places, so place i is at 2/3 (i + 1/2) - 1/2."""
    table = jnp.arange(8.0)[:, None, None] + jnp.zeros((8, 8, 1))
    ours = resizing.bicubic_table(table, 12, 8, antialias=True)[:, 4, 0]
    np.testing.assert_allclose(ours[3:9], 2 / 3 * (np.arange(3, 9) + 0.5) - 0.5, rtol=1e-6)


def test_an_offset_moves_places_towards_the_start():
    """Place 1 of 2 of 4: from 2.5 to 1.5 * 4 / 2.5 - 0.5 = 1.9; 2 is then nearer than 3."""
    assert np.argmax(resizing.torch_weights(4, 2, offset=0.5)[1]) == 2
    table = jnp.arange(4.0)[:, None, None] + jnp.zeros((4, 4, 1))
    plain, moved = (resizing.bicubic_table(table, 2, 4, offset)[:, 0, 0] for offset in (0.0, 0.5))
    assert (moved < plain).all()


def test_torchs_weights_by_hand():
    """Halfway between two places with a = -3/4: -3/32, 19/32, 19/32, -3/32; edges are repeated."""
    halves = resizing.torch_weights(4, 2)
    np.testing.assert_allclose(halves, np.array([[16, 19, -3, 0], [0, -3, 19, 16]]) / 32)
