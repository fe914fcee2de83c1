"""Kept tokens that are spread evenly over the token grid, instead of drawn one by one."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np


def stratified_ids(keys: jax.Array, tokens: int, keep: int) -> jax.Array:
    """Draw ids as `tokens.sample_ids` does, but spread evenly over a square token grid.

    The tokens, in the order of a Z-shaped curve through the grid, are cut into K runs whose lengths
    differ by at most one, and each run keeps one token. So kept tokens do not crowd, and no area is
    left out. The first cut is random, so every token is kept equally often.
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


@functools.cache
def z_order(tokens: int) -> np.ndarray:
    """Return the ids of a square grid along a Z-shaped curve, [tokens] int32.

    Neighbours on the curve are neighbours in the grid more often than in raster order. Tokens that
    do not form a square stay in raster order.
    """
    side = math.isqrt(tokens)
    if side * side != tokens:
        return np.arange(tokens, dtype=np.int32)
    rows, columns = np.divmod(np.arange(tokens), side)
    code = np.zeros(tokens, np.int64)
    for bit in range(side.bit_length()):
        code |= ((columns >> bit & 1) << 2 * bit) | ((rows >> bit & 1) << 2 * bit + 1)
    return np.argsort(code, kind="stable").astype(np.int32)
