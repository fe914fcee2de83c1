"""What the tests of layers share: random weights, and NumPy in float64."""

import compiling
import jax
import jax.numpy as jnp
import numpy as np

F32 = jnp.dtype("float32")


def fresh(make):
    """A layer with every weight random."""
    shapes = jax.eval_shape(make)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s.shape), s.dtype), shapes)


def f64(x):
    return np.asarray(x, np.float64)


def loops_of(f, *args) -> int:
    """Return how many loops the program of f(*args) has, with operations fused as users have it."""
    return jax.jit(f).lower(*args).compile(compiling.FUSED).as_text().count(" while(")
