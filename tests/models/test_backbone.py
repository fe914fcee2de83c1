"""Cutting images into patches, and putting them together."""

import jax
import jax.numpy as jnp
import numpy as np

from sg_jax.models import backbone


def test_patches_are_cut_in_raster_order():
    image = jnp.arange(16).reshape(1, 4, 4, 1)
    patches = backbone.patchify(image, 2)
    np.testing.assert_array_equal(patches[0, 0], [0, 1, 4, 5])
    np.testing.assert_array_equal(patches[0, 1], [2, 3, 6, 7])
    np.testing.assert_array_equal(patches[0, 2], [8, 9, 12, 13])


def test_channels_are_the_fastest_axis_of_a_patch():
    image = jnp.stack([jnp.zeros((2, 2)), jnp.ones((2, 2))], -1)[None]
    np.testing.assert_array_equal(backbone.patchify(image, 2)[0, 0], [0, 1] * 4)


def test_unpatchify_undoes_patchify():
    x = jax.random.normal(jax.random.key(0), (2, 12, 12, 3))
    np.testing.assert_array_equal(backbone.unpatchify(backbone.patchify(x, 4), 4), x)
