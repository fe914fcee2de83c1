"""Rotary position embedding (arXiv 2104.09864): queries and keys turned by their positions.

A head's channels are pairs (i, i + half), each of which is turned by an angle. A logit then depends
on the difference of two positions. For tokens of an image, half of the pairs turn with the row and
half with the column, as in EVA-02 (arXiv 2303.11331).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

THETA = 10000.0


def _frequencies(count: int) -> np.ndarray:
    return THETA ** (-np.arange(count) / count)


def _table(angles: np.ndarray) -> np.ndarray:
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@functools.cache
def grid(height: int, width: int, head: int) -> np.ndarray:
    """Return the rotations of an image's tokens, float32 [height * width, head].

    The first half of the channels are cosines, the second sines. Angles are the row, then the
    column, times 10000^(-4 i / head).

    Args:
      height, width: of the token grid.
      head: channels of a head, a multiple of 4.
    """
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    parts = [p.reshape(-1, 1) * _frequencies(head // 4) for p in (rows, columns)]
    return _table(np.concatenate(parts, axis=1))


@functools.cache
def line(length: int, head: int) -> np.ndarray:
    """Return the rotations of text tokens 0 .. length - 1, float32 [length, head]."""
    return _table(np.arange(length)[:, None] * _frequencies(head // 2))


def rotate(x: jax.Array, rotation: jax.Array, heads: int) -> jax.Array:
    """Turn the channels of queries or keys; computed in float32.

    The two halves of a head are swapped by a product with a matrix of 0, 1 and -1. On TPU this
    keeps whole tiles of 128 channels, while halves of tiles cost three times as much.

    Args:
      x: [B, N, D], the heads side by side.
      rotation: cosines and sines [B, N, D/H], or [1, N, D/H].
      heads: H.

    Returns:
      [B, N, D], in x's type.
    """
    each = x.reshape(*x.shape[:2], heads, -1)  # [B, N, H, D/H]
    swap = jnp.asarray(_swap(each.shape[-1]), x.dtype)
    swapped = jnp.einsum("bnhk,kl->bnhl", each, swap, precision="highest")
    cosine, sine = jnp.split(jax.lax.stop_gradient(rotation)[:, :, None], 2, axis=-1)
    cosine, sine = (jnp.concatenate([part, part], axis=-1) for part in (cosine, sine))
    turned = each.astype(jnp.float32) * cosine + swapped.astype(jnp.float32) * sine
    return turned.reshape(x.shape).astype(x.dtype)


@functools.cache
def _swap(head: int) -> np.ndarray:
    """Return the matrix [D/H, D/H] that turns (a, b) into (-b, a), each half of a head."""
    half = np.eye(head // 2)
    return np.block([[np.zeros_like(half), half], [-half, np.zeros_like(half)]])
