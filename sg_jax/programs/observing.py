"""Networks that look at images, on all local devices of a process."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sg_jax.parallel import sharding
from sg_jax.programs import decoding

AT_ONCE = 32  # images that a device runs at once


def observe(network: Any, images: np.ndarray, mesh: Mesh) -> dict[str, np.ndarray]:
    """Return what a network finds in images, uint8 [B, H, W, C]: arrays [B, ...] by name.

    Args:
      network: on all devices of the mesh, see `decoding.place`; maps images to such arrays.
      images: any number of them. They are cut into batches of one size, the last one filled up, so
        that there is one program for each size of images.
      mesh: the local devices.
    """
    size = AT_ONCE * sharding.batch_devices(mesh)
    started = []
    for first in range(0, len(images), size):
        part = images[first : first + size]
        padded = np.zeros((size, *part.shape[1:]), np.uint8)
        padded[: len(part)] = part
        batch = jax.device_put(padded, sharding.batch_sharding(mesh))
        started.append(_observe(network, batch, mesh=mesh))
    found: dict[str, list[np.ndarray]] = {}
    for arrays in started:
        for name, array in arrays.items():
            found.setdefault(name, []).append(np.asarray(array))
    return {name: np.concatenate(parts)[: len(images)] for name, parts in found.items()}


@functools.partial(jax.jit, static_argnames="mesh")
def _observe(network: Any, images: jax.Array, *, mesh: Mesh) -> dict[str, jax.Array]:
    return decoding.on_each(lambda net, x: net(x), mesh)(network, images)
