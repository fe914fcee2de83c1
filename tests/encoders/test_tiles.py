"""Tiles: exact for what sees one pixel, close for networks, less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import golden

import sg_jax
from sg_jax.encoders.convolutions import doubled
from sg_jax.encoders.tiles import in_tiles
from sg_jax.errors import UserError


def test_what_sees_one_pixel_is_the_same_in_tiles():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 21, 5, 3)), jnp.float32)
    np.testing.assert_allclose(in_tiles(doubled, x, 8, up=2), doubled(x), atol=1e-5)


def test_sides_that_shrink():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 24, 40, 2)), jnp.float32)

    def halves(y):
        return y[:, ::2, ::2], -y[:, 1::2, 1::2]

    for ours, wanted in zip(in_tiles(halves, x, 8, down=2), halves(x), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


def distance(ours, wanted):
    """Return the root mean square of the error, over the standard deviation."""
    return np.sqrt(np.square(ours - wanted).mean()) / np.std(wanted)


@pytest.mark.slow
def test_a_network_in_tiles_is_close_to_it_at_once_and_takes_less_memory():
    tiny = sg_jax.load_autoencoder(golden("tae_tiny")[1])
    rng = np.random.default_rng(0)
    images = jax.image.resize(rng.uniform(-1, 1, (1, 8, 12, 3)), (1, 128, 192, 3), "cubic")
    mean, _ = tiny.encode(images)
    tiled, std = tiny.encode(images, tile=96)
    assert tiled.shape == std.shape == (1, 16, 24, 4) and distance(tiled, mean) < 0.3
    decoded = tiny.decode(mean, tile=96)
    assert decoded.shape == images.shape and distance(decoded, tiny.decode(mean)) < 0.3
    np.testing.assert_allclose(tiny.encode(images, tile=256)[0], mean, atol=1e-5)

    def temporary(tile):
        x = jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32)
        program = jax.jit(lambda x: tiny.decode(x, tile=tile))
        return program.lower(x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(128) < temporary(None) / 3


@pytest.mark.parametrize("tile", [0, 100, 56, -64, 64.0, "64"])
def test_a_tile_is_a_multiple_of_the_factor(tile):
    tiny = sg_jax.load_autoencoder(golden("tae_tiny")[1])
    with pytest.raises(UserError, match=f"tile={tile!r} must be"):
        tiny.decode(np.zeros((1, 8, 8, 4)), tile=tile)
