"""What the published networks that measure images have in common: their input and their hash."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sg_jax.errors import UserError, shown

CHANNELS = (1, 3)
LARGEST_SIDE = 14_000  # pixels; resizing is exact up to here


def hashed(settings: Any, tree: Any) -> str:
    """Return a hash of settings and of all arrays in a tree: 16 hexadecimal digits."""
    found = hashlib.sha256(repr(settings).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


class Judge(nnx.Module):
    """A published network that maps images to features.

    It is a pytree. Its calls are compiled once for each shape of images. They can be part of a
    program of your own, with images that are divided over devices along their first axis.

    Args:
      name: what the weights were loaded from.
    """

    def __init__(self, name: str):
        self.name = name

    def fingerprint(self) -> str:
        """Return a hash of all weights in the type they are used in: 16 hexadecimal digits."""
        leaves, _ = jax.tree.flatten(self)  # without the name
        return hashed((type(self).__name__, *self.settings()), leaves)

    def settings(self) -> tuple[Any, ...]:
        """Return what else the features depend on."""
        return ()


def pictures(images: Any) -> Any:
    """Return images as uint8 [B, H, W, 3], as a NumPy array unless they were a JAX array.

    Grey ones, [B, H, W, 1], are repeated for each colour.

    Raises:
      UserError: they have the wrong type or shape.
    """
    array = as_array("images", images)
    if array.dtype != np.uint8:
        raise UserError(
            f"images must be uint8, from 0 to 255, not {array.dtype}: convert floats in [-1, 1] by "
            "clip(round(127.5 * x + 127.5), 0, 255)."
        )
    sides = array.shape[1:3]
    if array.ndim != 4 or array.shape[-1] not in CHANNELS or not all(sides):
        raise UserError(f"images must be [B, H, W, 3] or [B, H, W, 1], not {array.shape}.")
    if max(sides) > LARGEST_SIDE:
        raise UserError(f"images have a side of {max(sides):,} pixels; at most {LARGEST_SIDE:,}.")
    repeat = jnp.repeat if isinstance(array, jax.Array) else np.repeat
    return array if array.shape[-1] == 3 else repeat(array, 3, axis=-1)


def as_array(what: str, x: Any) -> Any:
    """Return a JAX array as it is, and anything else as a NumPy array."""
    try:
        return x if isinstance(x, jax.Array) else np.asarray(x)
    except Exception:  # from lists of different lengths, or whatever else it is
        raise UserError(f"{what} must be one array, not {shown(x)}.") from None
