"""The cost of the networks that measure images, counted as jax traces them."""

from typing import Any

import jax
import jax.numpy as jnp

from sg_jax.costs import autoencoders
from sg_jax.encoders.judges import Judge


def features(network: Judge, height: int, width: int) -> float:
    """Return the FLOPs of an image's features, with its resizing, 2 per multiply-add.

    Args:
      network: shapes in place of its weights are enough.
      height, width: of the image, in pixels.
    """

    def call(network: Any, images: jax.Array) -> Any:
        return network(images)

    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8)
    return 2.0 * autoencoders.macs(jax.make_jaxpr(call)(network, images).jaxpr)
