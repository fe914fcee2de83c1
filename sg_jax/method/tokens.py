"""Tokens: images cut into patches, and the choice of which ones are computed.

Keep counts are Python ints, so every shape is known when a program is compiled; ids are traced
arrays, so that a new draw costs no compile. Shared by routing and masking.
"""

import math

import jax
import jax.numpy as jnp

from sg_jax.errors import UserError
from sg_jax.method import stratified


def keep_count(tokens: int, gamma: float) -> int:
    """Return how many of `tokens` are computed at sparsity rate gamma.

    K = N - floor(N gamma)

    gamma = 0 keeps all and gamma = 1 none (the routed blocks are skipped entirely). The tiny
    offset makes 100 tokens at 0.29 drop 29, where the float product is 28.999999999999996.
    """
    if not 0.0 <= gamma <= 1.0:
        raise UserError(f"gamma={gamma} must lie in [0, 1]: 0 computes every token, 1 none.")
    return tokens - math.floor(tokens * gamma + 1e-9)


def sample_ids(keys: jax.Array, tokens: int, keep: int) -> jax.Array:
    """Draw which tokens each image keeps, uniformly without replacement, in raster order.

    Args:
      keys: one key per image [B], so that an image's ids depend only on its own key.
      tokens: N.
      keep: K <= N.

    Returns:
      Sorted ids [B, K], int32.
    """

    def one(key):
        _, ids = jax.lax.top_k(jax.random.uniform(key, (tokens,)), keep)
        return jnp.sort(ids)  # [K]

    return jax.vmap(one)(keys)


def subset_ids(keys: jax.Array, ids: jax.Array, keep: int) -> jax.Array:
    """Draw `keep` of the ids [B, K] that each image already keeps: [B, keep], sorted."""
    return gather(ids[..., None], sample_ids(keys, ids.shape[1], keep))[..., 0]


LAYOUTS = {"uniform": sample_ids, "stratified": stratified.stratified_ids}


def gather(x: jax.Array, ids: jax.Array) -> jax.Array:
    """Pick the kept tokens: x [B, N, D], ids [B, K] -> [B, K, D]."""

    def one(row, i):
        return row.at[i].get(mode="promise_in_bounds", unique_indices=True)

    return jax.vmap(one)(x, ids)


def scatter(x: jax.Array, kept: jax.Array, ids: jax.Array) -> jax.Array:
    """Write kept tokens [B, K, D] back to their places ids [B, K] in x [B, N, D].

    The other tokens of x keep their values: for a route, those from before its first block.
    """

    def one(row, new, i):
        return row.at[i].set(new, mode="promise_in_bounds", unique_indices=True)

    return jax.vmap(one)(x, kept, ids)


def patchify(x: jax.Array, patch: int) -> jax.Array:
    """Cut images [B, H, W, C] into patches [B, N, patch * patch * C], in raster order."""
    b, height, width, c = x.shape
    x = x.reshape(b, height // patch, patch, width // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * c)


def unpatchify(x: jax.Array, patch: int) -> jax.Array:
    """Put the patches [B, N, patch * patch * C] of square images back together: [B, H, W, C]."""
    b, n, pixels = x.shape
    side, channels = round(n**0.5), pixels // patch**2
    x = x.reshape(b, side, side, patch, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, side * patch, side * patch, channels)
