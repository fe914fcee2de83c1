"""Integrators of dx/dt = velocity(x, t) from noise (t = 0) to data (t = 1).

They know neither networks nor guidance. `velocity(x [B, ...], t [], n []) -> [B, ...]`, where n
counts the evaluations from 0, for those who draw something fresh at each.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Velocity = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def time_grid(steps: int) -> jax.Array:
    """Return the times 0 = t_0 < ... < t_steps = 1, evenly spaced, float32 [steps + 1]."""
    return jnp.linspace(0.0, 1.0, steps + 1)


def euler(velocity: Velocity, z: jax.Array, times: jax.Array) -> jax.Array:
    """Integrate by Euler's method, first order, one evaluation per step.

    x_{n+1} = x_n + (t_{n+1} - t_n) v(x_n, t_n)

    Args:
      velocity: see above.
      z: the start, noise [B, ...].
      times: from `time_grid` [steps + 1].

    Returns:
      The state at the last time, shaped like z. The loop is one scan: one compiled body.
    """

    def step(x, inputs):
        t, dt, n = inputs
        return x + dt * velocity(x, t, n), None

    steps = len(times) - 1
    return jax.lax.scan(step, z, (times[:-1], jnp.diff(times), jnp.arange(steps)))[0]
