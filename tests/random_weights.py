"""Networks whose every weight is random, because a fresh one returns zeros; and fresh ones."""

import jax
import numpy as np

from sg_jax.models.layers import Keys


def network(make, scale=0.15, seed=0):
    """rngs -> a network: that network with other weights; what it draws itself is not computed."""
    return like(jax.eval_shape(lambda: make(Keys(jax.random.key(0)))), scale, seed)


def fresh(make, seed=0):
    """rngs -> a network: that network as initialised, made by one program."""
    return jax.jit(lambda: make(Keys(jax.random.key(seed))))()


def like(shapes, scale=0.15, seed=0):
    """Arrays of these shapes, made without `jnp.asarray`, which compiles a program per shape."""
    rng = np.random.default_rng(seed)

    def draw(s):
        return jax.device_put((scale * rng.standard_normal(s.shape)).astype(s.dtype))

    return jax.tree.map(draw, shapes)
