"""Inception against its published outputs, and what it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import error, golden

import sg_jax
from sg_jax.encoders import inception
from sg_jax.encoders.inception_plan import MIXED, outputs
from sg_jax.errors import UserError
from sg_jax.parallel import sharding

SHAPES = {"pool": (2048,), "spatial": (17, 17, 7), "logits": (1008,), "logits_unbiased": (1008,)}


@pytest.fixture(scope="module")
def published():
    found, weights = golden("inception_fid")
    return found, sg_jax.load_encoder("inception", weights)


@pytest.mark.parametrize("side", [32, pytest.param(64, marks=pytest.mark.slow)])
def test_outputs_equal_the_published_ones(published, side):
    found, network = published
    ours = network(found[f"images_{side}"])
    assert {name: value.shape[1:] for name, value in ours.items()} == SHAPES
    for name, value in ours.items():
        assert value.dtype == jnp.float32
        assert error(value, found[f"{name}_{side}"]) < 2e-5, name


@pytest.mark.slow
def test_bfloat16_is_close(published):
    found, _ = published
    network = sg_jax.load_encoder("inception", golden("inception_fid")[1], dtype="bfloat16")
    ours = network(found["images_32"])
    assert 1e-4 < error(ours["pool"], found["pool_32"]) < 1e-2
    assert error(ours["spatial"], found["spatial_32"]) < 5e-2


@pytest.mark.slow
def test_images_may_be_divided_and_within_a_program(published, mesh_of):
    found, network = published
    mesh = mesh_of(2, 1)
    images = jax.device_put(found["images_32"], sharding.batch_sharding(mesh))
    spread = jax.device_put(network, jax.sharding.NamedSharding(mesh, jax.P()))
    pool = jax.jit(lambda network, images: network(images)["pool"] + 1)(spread, images)
    assert len(pool.sharding.device_set) == 2
    assert error(pool - 1, found["pool_32"]) < 2e-5


def test_shapes_of_any_sides_and_of_grey_images():
    network = inception.of_shapes("shapes", jnp.dtype("float32"))
    for shape in ((3, 256, 256, 3), (1, 17, 300, 1)):
        found = jax.eval_shape(
            lambda network, x: network(x), network, jax.ShapeDtypeStruct(shape, np.uint8)
        )
        assert {n: value.shape for n, value in found.items()} == {
            n: (shape[0], *rest) for n, rest in SHAPES.items()
        }


@pytest.mark.parametrize("images, said", [
    (np.zeros((1, 8, 8, 3), np.float32), "must be uint8"),
    (np.zeros((8, 8, 3), np.uint8), r"must be \[B, H, W, 3\]"),
    (np.zeros((1, 8, 8, 4), np.uint8), r"must be \[B, H, W, 3\]"),
    (np.zeros((1, 0, 8, 3), np.uint8), r"must be \[B, H, W, 3\]"),
    (np.zeros((1, 20_000, 1, 3), np.uint8), "a side of 20,000 pixels"),
    ([[1], [1, 2]], "must be one array"),
])  # fmt: skip
def test_what_it_does_not_take(images, said):
    network = inception.of_shapes("shapes", jnp.dtype("float32"))
    with pytest.raises(UserError, match=said):
        network(images)


def test_averages_count_only_what_is_in_the_image():
    """Corners average 4 pixels, edges 6."""
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    ours = inception.averaged(x)[0, :, :, 0]
    np.testing.assert_allclose(ours, [[2, 2.5, 3], [3.5, 4, 4.5], [5, 5.5, 6]], rtol=1e-6)


def test_maxima_by_hand():
    x = -jnp.arange(25.0).reshape(1, 5, 5, 1)
    np.testing.assert_array_equal(inception.largest(x)[0, :, :, 0], [[0, -2], [-10, -12]])
    assert inception.largest(x, stride=1)[0, 4, 4, 0] == -18


def test_blocks_have_the_published_widths():
    width, found = 192, []
    for mixed in MIXED.values():
        width = outputs(mixed, width)
        found.append(width)
    assert found == [256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048, 2048]
