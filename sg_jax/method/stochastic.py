"""Integrators that add noise, and EDM's; they are rows of `sampler.SAMPLERS` like the others."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sg_jax.method import flow
from sg_jax.method.sampler import (
    DIFFUSIONS,
    SAMPLERS,
    Integrator,
    Moved,
    Noise,
    Sampler,
    Velocity,
    scan,
)

# D(t) >= 0 of SiT's SDE. On the linear path SiT's "sigma" and "linear" are both 1 - t; "sbdm" is
# the diffusion of the score-based model with the same marginals, (1 - t) / t, infinite at t = 0.
DIFFUSIONS |= {
    "sigma": lambda t: 1 - t,
    "constant": lambda t: jnp.ones_like(t),
    "sbdm": lambda t: (1 - t) / jnp.maximum(t, 0.04),
    "decreasing": lambda t: 0.25 * (jnp.cos(jnp.pi * t) + 1) ** 2,
    "increasing_decreasing": lambda t: jnp.sin(jnp.pi * t) ** 2,
}


def edm_grid(steps: int, sigma_min: float, sigma_max: float, rho: float) -> jax.Array:
    """Return EDM's noise levels as times t = 1 / (1 + sigma), ascending, the last one 1.

    sigma_i = (sigma_max^(1/rho) + i / (N - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho
    """
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    ramp = jnp.arange(steps) / max(steps - 1, 1)
    sigma = (high + ramp * (low - high)) ** rho
    return jnp.append(1 / (1 + sigma), 1.0)


def euler_maruyama(
    velocity: Velocity,
    noise: Noise,
    diffusion: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    times: jax.Array,
    first: int = 0,
    memory: Any = (),
) -> Moved:
    """Integrate SiT's SDE, which has the marginals of the ODE for any D(t) >= 0.

    dx = (v + D s) dt + sqrt(2 D) dW,  score s = (t v - x) / (1 - t)      (SiT, Eq. 4 and 7)

    The step that ends at t = 1 is an ODE step: the velocity alone removes all the noise that is
    left, and the score would remove it a second time. In the other steps D is limited, so that the
    score removes at most half of the noise. Otherwise the steps would oscillate.
    """

    def step(state, inputs):
        (x, memory), (t, dt, n) = state, inputs
        last = t + dt > 1 - 1e-6
        most = jnp.where(last, 0.0, 0.5) * (1 - t) ** 2 / dt
        v, memory = velocity(x, t, n, memory)
        d = jnp.minimum(diffusion(t), most)
        score = (t * v - x) / (1 - t)
        spread = jnp.sqrt(2 * d * dt)
        return (x + dt * (v + d * score) + spread * noise(n), memory), None

    return scan(step, (x, memory), times, first, 1)


def edm_heun(
    velocity: Velocity,
    noise: Noise,
    x: jax.Array,
    times: jax.Array,
    first: int = 0,
    churn: float = 0.0,
    limits: tuple[float, float] = (0.0, math.inf),
    noise_scale: float = 1.0,
    memory: Any = (),
) -> Moved:
    """Integrate by EDM's stochastic Heun method (Karras et al., arXiv 2206.00364, Algorithm 2).

    It integrates y = x / t = data + sigma noise with sigma = (1 - t) / t: D = x + (1 - t) v is the
    denoised image and dy/dsigma = (y - D) / sigma. The last step, to sigma = 0, is Euler's.

    Args:
      velocity, noise, x, times, first: as above; times[0] > 0.
      churn: S_churn over the number of steps of the run.
      limits: S_min and S_max.
      noise_scale: S_noise.
      memory: as above.
    """

    def slope(y, sigma, n, memory):
        t = 1 / (1 + sigma)
        x = t * y
        v, memory = velocity(x, t, n, memory)
        return (y - flow.denoised(x, v, t)) / jnp.maximum(sigma, 1e-12), memory

    def step(state, inputs):
        (y, memory), (t, dt, n) = state, inputs
        sigma, after = (1 - t) / t, jnp.maximum(1 / (t + dt) - 1, 0.0)
        gamma = jnp.where((limits[0] <= sigma) & (sigma <= limits[1]), churn, 0.0)
        hat = sigma * (1 + jnp.minimum(gamma, math.sqrt(2) - 1))
        y = y + noise_scale * jnp.sqrt(jnp.maximum(hat**2 - sigma**2, 0.0)) * noise(n)
        d, memory = slope(y, hat, n, memory)
        end = y + (after - hat) * d
        ahead, memory = slope(end, after, n + 1, memory)
        corrected = y + (after - hat) / 2 * (d + ahead)
        return (jnp.where(after > 1e-6, corrected, end), memory), None

    y, memory = scan(step, (x / times[0], memory), times, first, 2)
    return y * times[-1], memory


def _euler_maruyama(sampler: Sampler, velocity, noise, x, times, first, steps, memory):
    def diffusion(t):
        return sampler.diffusion_scale * DIFFUSIONS[sampler.diffusion](t)

    return euler_maruyama(velocity, noise, diffusion, x, times, first, memory)


def _edm_heun(s: Sampler, velocity, noise, x, times, first, steps, memory):
    churn, limits = s.churn / steps, (s.churn_min, s.churn_max)
    return edm_heun(velocity, noise, x, times, first, churn, limits, s.churn_noise, memory)


SAMPLERS |= {
    "euler_maruyama": Integrator(
        _euler_maruyama, 1, order=None, reads=("shift", "diffusion", "diffusion_scale")
    ),
    "edm_heun": Integrator(
        _edm_heun,
        evaluations=2,
        order=2,
        reads=("churn", "churn_min", "churn_max", "churn_noise", "sigma_min", "sigma_max", "rho"),
        times=lambda s, steps: edm_grid(steps, s.sigma_min, s.sigma_max, s.rho),
    ),
}
