"""Blocks on each device's own part of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sg_jax.parallel import blocks, sharding


@pytest.mark.parametrize(
    "images, tokens, chunk, parts",
    [
        (32, 256, 4096, 2),  # 16 images of 256 tokens
        (32, 128, 4096, 1),
        (64, 128, 4096, 2),
        (12, 256, 2048, 2),  # 8 would fit, but do not divide 12: 6
        (3, 256, 100, 3),  # an image is not cut
        (32, 256, 0, 1),
    ],
)
def test_a_batch_is_cut_into_as_few_equal_parts_as_fit(images, tokens, chunk, parts):
    assert blocks._parts(images, tokens, chunk) == parts


@pytest.mark.parametrize("sizes", [dict(tensor=2), dict(data=2, tensor=2)])
def test_tensor_may_split_weights_whether_or_not_other_axes_split_the_batch(sizes):
    """Two blocks W [4, 4] and four rows h, all ones: d sum(h W W) / dW is 4 rows times 4."""
    count = 2 * sizes.get("data", 1)
    mesh = sharding.make_mesh(**sizes, devices=jax.devices()[:count])
    stack = sharding.stacked(nnx.Param(jnp.ones((2, 4, 4))))
    stack = jax.device_put(stack, sharding.infer(stack, mesh))

    def total(stack, h):
        def scan(run, h, c, stack):
            return jax.lax.scan(lambda h, w: (run(w, h, c), None), h, stack)[0]

        with sharding.on(mesh):
            return blocks.scan_blocks(lambda w, h, c: h @ w[...], scan, h, h, stack).sum()

    gradient = jax.jit(jax.grad(total))(stack, jnp.ones((4, 1, 4)))
    np.testing.assert_array_equal(gradient[...], np.full((2, 4, 4), 16.0))
