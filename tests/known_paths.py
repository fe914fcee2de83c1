"""Samplers on data N(MU, S^2), whose velocity and whose exact path from noise are known."""

import math

import jax.numpy as jnp

from sg_jax.method.sampler import Sampler

MU, S = 0.5, 0.6
Z = jnp.array([1.0, -2.0])  # noise; the exact path leads it to MU + S Z
MULTISTEP = ("ab2", "dpm_2m")


def still(velocity):
    """A velocity that remembers nothing, as integrators take it."""
    return lambda x, t, n, memory: (velocity(x, t, n), memory)


def gaussian(x, t, n):
    """v = E[x | x_t] - E[z | x_t], where x_t is N(t MU, (t S)^2 + (1 - t)^2)."""
    centred, var = x - t * MU, (t * S) ** 2 + (1 - t) ** 2
    return (MU + t * S**2 / var * centred) - (1 - t) / var * centred


def none(n):
    raise AssertionError("an ODE draws no noise")


def end(name, steps, z=Z, noise=none, **settings):
    """Where a sampler leads z."""
    method = Sampler(name, **settings)
    times = method.times(steps)
    return method.integrate(still(gaussian), noise, method.start(z, times), times)[0]


def zeros(n):
    return jnp.zeros(2)


def error(name, steps, **settings):
    """Distance from the exact end: x keeps its distance from the mean, in standard deviations."""
    t = float(Sampler(name, **settings).times(steps)[0])
    exact = MU + S * ((1 - t) * Z - t * MU) / math.hypot(t * S, 1 - t)
    return float(jnp.abs(end(name, steps, noise=zeros, **settings) - exact).max())
