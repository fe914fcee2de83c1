"""DINOv2 against its published outputs, and what it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from published import error, golden

import sg_jax
from sg_jax.encoders import dinov2
from sg_jax.errors import UserError
from sg_jax.parallel import sharding


@pytest.fixture(scope="module")
def published():
    found, weights = golden("dinov2_tiny")
    return found, sg_jax.load_encoder("dinov2", weights, heads=4)


@pytest.mark.parametrize("side", [70, 42])
def test_tokens_equal_the_published_ones(published, side):
    found, network = published
    tokens = network.embed(found[f"pixels_{side}"])
    assert tokens.dtype == jnp.float32
    assert error(tokens, found[f"tokens_{side}"]) < 5e-6
    assert error(tokens[:, 0], found[f"class_{side}"]) < 5e-6


def test_bfloat16_is_close():
    found, weights = golden("dinov2_tiny")
    network = sg_jax.load_encoder("dinov2", weights, "bfloat16", heads=4)
    assert 1e-4 < error(network.embed(found["pixels_70"]), found["tokens_70"]) < 2e-2


def test_the_offset_changes_resized_positions_alone(published):
    found, network = published
    other = sg_jax.load_encoder("dinov2", golden("dinov2_tiny")[1], heads=4, offset=0.1)
    assert error(other.embed(found["pixels_70"]), found["tokens_70"]) < 5e-6
    assert error(other.embed(found["pixels_42"]), found["tokens_42"]) > 1e-2
    assert other.fingerprint() != network.fingerprint()


def test_images_are_resized_by_pillow_and_normalised(published):
    _, network = published
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    large = [
        Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC) for image in images
    ]
    pixels = (np.stack([np.asarray(x) for x in large]) / 255 - dinov2.MEAN) / dinov2.STD
    theirs = network.embed(pixels.astype(np.float32))[:, 0]
    assert error(network(images)["class"], theirs) < 5e-6


def test_images_may_be_divided_and_within_a_program(published, mesh_of):
    found, network = published
    mesh = mesh_of(2, 1)
    pixels = jax.device_put(found["pixels_70"], sharding.batch_sharding(mesh))
    spread = jax.device_put(network, jax.sharding.NamedSharding(mesh, jax.P()))
    tokens = jax.jit(lambda network, x: network.embed(x) + 1)(spread, pixels)
    assert len(tokens.sharding.device_set) == 2
    assert error(tokens - 1, found["tokens_70"]) < 5e-6


def test_grey_images_are_repeated(published):
    _, network = published
    grey = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 1), np.uint8)
    np.testing.assert_array_equal(
        network(grey)["class"], network(np.repeat(grey, 3, axis=-1))["class"]
    )


@pytest.mark.parametrize("pixels, said", [
    (np.zeros((1, 70, 70, 3), np.uint8), "must be normalised floats"),
    (np.zeros((1, 70, 71, 3), np.float32), "multiples of 14"),
    (np.zeros((70, 70, 3), np.float32), r"must be \[B, H, W, 3\]"),
    (np.zeros((1, 70, 70, 1), np.float32), r"must be \[B, H, W, 3\]"),
])  # fmt: skip
def test_what_it_does_not_take(published, pixels, said):
    with pytest.raises(UserError, match=said):
        published[1].embed(pixels)


def test_registers_come_after_the_class():
    sizes = dinov2.Sizes(64, 2, 1, 96, gated=True, patch=14, table=5, registers=4)
    network = dinov2.of_shapes("shapes", sizes, jnp.dtype("float32"))
    pixels = jax.ShapeDtypeStruct((3, 28, 56, 3), np.float32)
    tokens = jax.eval_shape(lambda network, x: network.embed(x), network, pixels)
    assert tokens.shape == (3, 1 + 4 + 8, 64)
