"""Tokens: images cut into patches, and which of them are computed.

Keep counts are Python ints, so every shape is known when a program is compiled; ids are traced
arrays, so that a new draw costs no compile. Shared by routing and masking.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from sg_jax.errors import UserError


def keep_count(tokens: int, gamma: float) -> int:
    """Return how many of `tokens` are computed at sparsity rate gamma.

    K = N - floor(N gamma)

    gamma = 0 keeps all and gamma = 1 none (the routed blocks are skipped altogether). The tiny
    offset makes 100 tokens at 0.29 drop 29, where the float product is 28.999999999999996.
    """
    if not 0.0 <= gamma <= 1.0:
        raise UserError(f"gamma={gamma} must lie in [0, 1]: 0 computes every token, 1 none.")
    return tokens - math.floor(tokens * gamma + 1e-9)


def sample_ids(keys: jax.Array, tokens: int, keep: int) -> jax.Array:
    """Draw which tokens each image keeps, uniformly without replacement, in raster order.

    Args:
      keys: one key per image [B], so that an image's ids depend on its own key alone.
      tokens: N.
      keep: K <= N.

    Returns:
      Sorted ids [B, K], int32.
    """

    def one(key):
        _, ids = jax.lax.top_k(jax.random.uniform(key, (tokens,)), keep)
        return jnp.sort(ids)  # [K]

    return jax.vmap(one)(keys)


def stratified_ids(keys: jax.Array, tokens: int, keep: int) -> jax.Array:
    """Draw ids as `sample_ids` does, but spread evenly over a square token grid.

    The tokens, in the order of a Z-shaped curve through the grid, are cut into K runs of equal
    length up to one, and each run keeps one token: no two kept tokens crowd, no area is left out.
    The cuts begin at a random place of the curve, so that every token is kept equally often.
    """
    order = jnp.asarray(z_order(tokens))
    edges = np.arange(keep + 1) * tokens // max(keep, 1)
    starts, lengths = jnp.asarray(edges[:-1], jnp.int32), jnp.asarray(np.diff(edges), jnp.int32)

    def one(key):
        share = jax.random.uniform(jax.random.fold_in(key, 0), (keep,))
        inside = jnp.minimum((share * lengths).astype(jnp.int32), lengths - 1)
        begin = jax.random.randint(jax.random.fold_in(key, 1), (), 0, tokens)
        return jnp.sort(order[(begin + starts + inside) % tokens])  # [K]

    return jax.vmap(one)(keys)


def subset_ids(keys: jax.Array, ids: jax.Array, keep: int) -> jax.Array:
    """Draw `keep` of the ids [B, K] that each image keeps already: [B, keep], sorted."""
    return gather(ids[..., None], sample_ids(keys, ids.shape[1], keep))[..., 0]


LAYOUTS = {"uniform": sample_ids, "stratified": stratified_ids}


@functools.cache
def z_order(tokens: int) -> np.ndarray:
    """Return the ids of a square grid along a Z-shaped curve, [tokens] int32.

    Neighbours on the curve are neighbours in the grid more often than in raster order. Tokens that
    form no square stay in raster order.
    """
    side = math.isqrt(tokens)
    if side * side != tokens:
        return np.arange(tokens, dtype=np.int32)
    rows, columns = np.divmod(np.arange(tokens), side)
    code = np.zeros(tokens, np.int64)
    for bit in range(side.bit_length()):
        code |= ((columns >> bit & 1) << 2 * bit) | ((rows >> bit & 1) << 2 * bit + 1)
    return np.argsort(code, kind="stable").astype(np.int32)


def gather(x: jax.Array, ids: jax.Array) -> jax.Array:
    """Pick the kept tokens: x [B, N, D], ids [B, K] -> [B, K, D]."""

    def one(row, i):
        return row.at[i].get(mode="promise_in_bounds", unique_indices=True)

    return jax.vmap(one)(x, ids)


def scatter(x: jax.Array, kept: jax.Array, ids: jax.Array) -> jax.Array:
    """Write kept tokens [B, K, D] back at their places ids [B, K] in x [B, N, D].

    The other tokens of x stay what they were: for a route, what they were before its first block.
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
    """Put patches [B, N, patch * patch * C] of a square image together again: [B, H, W, C]."""
    b, n, pixels = x.shape
    side, channels = round(n**0.5), pixels // patch**2
    x = x.reshape(b, side, side, patch, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, side * patch, side * patch, channels)
