"""Networks whose every weight is random, because a fresh one returns zeros; and fresh ones."""

import jax
import numpy as np

from sg_jax.models.layers import Keys, abstract


def network(make, scale=0.15, seed=0):
    """rngs -> a network: that network with other weights; what it draws itself is not computed."""
    rng = np.random.default_rng(seed)

    def draw(s):  # `jnp.asarray` would compile a program for each shape
        return jax.device_put((scale * rng.standard_normal(s.shape)).astype(s.dtype))

    return jax.tree.map(draw, abstract(make))


def fresh(make, seed=0):
    """rngs -> a network: that network as initialised, made by one program."""
    return jax.jit(lambda: make(Keys(jax.random.key(seed))))()
