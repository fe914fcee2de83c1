"""Integrators of order 2 that evaluate the velocity once per step, because they remember the last.

They begin each call with a step of Euler's: a run calls them once for each stretch of constant
rates, and the velocity jumps between two stretches.
"""

from typing import Any

import jax
import jax.numpy as jnp

from sg_jax.method import flow
from sg_jax.method.sampler import SAMPLERS, Integrator, Moved, Velocity, plain, scan


def ab2(
    velocity: Velocity, x: jax.Array, times: jax.Array, first: int = 0, memory: Any = ()
) -> Moved:
    """Integrate by the two-step Adams-Bashforth method, for steps of any lengths.

    x_{i+1} = x_i + dt_i (v_i + dt_i / (2 dt_{i-1}) (v_i - v_{i-1}))

    Args:
      velocity, x, times, first, memory: as in `sampler.euler`.
    """

    def step(state, inputs):
        (x, (last, past, memory)), (t, dt, n) = state, inputs
        v, memory = velocity(x, t, n, memory)
        ahead = v + _share(dt, past) * (v - last)
        return (x + dt * ahead, (v, dt, memory)), None

    return _remembering(step, x, times, first, memory)


def dpm_2m(
    velocity: Velocity, x: jax.Array, times: jax.Array, first: int = 0, memory: Any = ()
) -> Moved:
    """Integrate by DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, Algorithm 2).

    With the denoised image D_i = x_i + (1 - t_i) v_i and h_i = l(t_{i+1}) - l(t_i), where
    l(t) = log(t / (1 - t)) is half the log of the signal-to-noise ratio:

    D = D_i + h_i / (2 h_{i-1}) (D_i - D_{i-1});  x_{i+1} = x_i + dt_i (D - x_i) / (1 - t_i)

    The last step, to infinite l, is Euler's.

    Args:
      velocity, x, times, first, memory: as in `sampler.euler`.
    """

    def step(state, inputs):
        (x, (last, past, memory)), (t, dt, n) = state, inputs
        v, memory = velocity(x, t, n, memory)
        now, h = flow.denoised(x, v, t), _log_ratio(t + dt) - _log_ratio(t)
        ahead = now + _share(h, past) * (now - last)
        return (x + dt * (ahead - x) / (1 - t), (now, h, memory)), None

    return _remembering(step, x, times, first, memory)


def _remembering(step, x: jax.Array, times: jax.Array, first: int, memory: Any) -> Moved:
    """Scan a step of state (x, (what it remembers, the length of the last step, memory))."""
    x, (_, _, memory) = scan(step, (x, (jnp.zeros_like(x), jnp.inf, memory)), times, first, 1)
    return x, memory


def _share(now: jax.Array, past: jax.Array) -> jax.Array:
    """Return now / (2 past), or 0 unless both lengths are finite and some time has passed."""
    some = jnp.isfinite(now) & jnp.isfinite(past) & (past > 0)
    return jnp.where(some, now / (2 * past), 0.0)


def _log_ratio(t: jax.Array) -> jax.Array:
    """Return log(t / (1 - t)); infinite at t = 1, where float32 sums may fall short of 1."""
    left = 1 - t
    return jnp.where(left > 1e-6, jnp.log(t / left), jnp.inf)


SAMPLERS |= {
    "ab2": Integrator(plain(ab2), evaluations=1, order=2),
    "dpm_2m": Integrator(plain(dpm_2m), evaluations=1, order=2),
}
