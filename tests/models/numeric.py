"""What the tests of layers share: NumPy in float64, and the loops of a program."""

import compiling
import jax
import jax.numpy as jnp
import numpy as np

F32 = jnp.dtype("float32")


def f64(x):
    return np.asarray(x, np.float64)


def loops_of(f, *args) -> int:
    """Return how many loops the program of f(*args) has, with operations fused as users have it."""
    return jax.jit(f).lower(*args).compile(compiling.FUSED).as_text().count(" while(")
