"""Turn a network's output into the velocity, so that nothing else depends on what it predicts.

EDM (Karras et al., arXiv 2206.00364) reads y = data + sigma * noise; on our path that is x_t / t
with sigma = (1 - t) / t. Its preconditioning, written in t, has no singular point:

D = c_skip y + c_out F(c_in y, c_noise)                                          (EDM, Eq. 7)
v = (D - x_t) / (1 - t) = x_t (s_d^2 t - (1 - t)) / s^2 + s_d / s F(x_t / s, c_noise),
s^2 = (1 - t)^2 + s_d^2 t^2, c_noise = ln(sigma) / 4

DiT as published (arXiv 2212.09748) predicts the noise e of DDPM's 1,000 steps, whose betas are
linear from 1e-4 to 0.02: x_tau = sqrt(a) x + sqrt(1 - a) e, with a the product of 1 - beta. On our
path that is x_t / s with s^2 = t^2 + (1 - t)^2, at the tau where a = t^2 / s^2. So

D = (x_t / s - sqrt(1 - a) e) / sqrt(a), v = (D - x_t) / (1 - t),

which is (x_t - e) / t. Times that are noisier than the last step take the last step's tau and a.

REPA (arXiv 2410.06940) runs time from data to noise: v = -F(x_t, 1 - t).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sg_jax.errors import UserError
from sg_jax.method import flow
from sg_jax.method.network import Branch, Condition, KeepIds, Network

PREDICTIONS = ("velocity", "edm", "noise", "reversed")  # all become a velocity here
SIGMA_DATA = 0.5
SIGMA_RANGE = (0.002, 80.0)  # c_noise is clipped to EDM's noise levels
KEPT = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # a of each step of DDPM
SNR = np.log(KEPT / (1 - KEPT))  # log of the signal's power over the noise's, falling
LAST = float(np.sqrt(KEPT[-1]))  # the share of data in the noisiest step
RATIO = float(np.sqrt(KEPT[-1] / (1 - KEPT[-1])))  # of data to noise in that step


def velocities(
    model: Network,
    x: jax.Array,
    t: jax.Array,
    branches: Sequence[Branch],
    inner: bool = False,
) -> Any:
    """Return the velocity [B, H, W, C] of each branch at the same x_t; see `Network.branches`.

    With `inner`, return a pair of these and the inner head's velocity in the first branch.
    """
    if model.prediction == "velocity":
        return model.branches(x, t, branches, inner)
    if model.prediction == "reversed":
        return jax.tree.map(jnp.negative, model.branches(x, 1 - t, branches, inner))
    if model.prediction == "edm":
        s = edm_scale(t)
        sigma = jnp.clip((1 - t) / jnp.maximum(t, 1e-6), *SIGMA_RANGE)
        network_time = jnp.log(sigma) / 4
        skip, out = (SIGMA_DATA**2 * t - (1 - t)) / s**2, SIGMA_DATA / s
    elif model.prediction == "noise":
        s = jnp.sqrt(jnp.square(t) + jnp.square(1 - t))
        network_time = ddpm_step(t)
        noisier = t < RATIO * (1 - t)
        skip = jnp.where(
            noisier,
            (1 / (s * LAST) - 1) / jnp.where(noisier, 1 - t, 1),
            1 / jnp.where(noisier, 1, t),
        )
        out = -1 / _noise_scale(t)
    else:
        raise UserError(
            f"This network predicts {model.prediction!r}; only networks that predict one of "
            f"{', '.join(map(repr, PREDICTIONS))} can be trained and sampled."
        )
    outputs = model.branches(x / flow.per_image(s, x), network_time, branches, inner)
    return jax.tree.map(lambda f: flow.per_image(skip, x) * x + flow.per_image(out, x) * f, outputs)


def velocity(
    model: Network, x: jax.Array, t: jax.Array, condition: Condition, keep_ids: KeepIds = None
) -> jax.Array:
    """Return the velocity [B, H, W, C] at images x_t, times t [B] and a condition."""
    return velocities(model, x, t, [Branch(condition, keep_ids)])[0]


def velocity_and_inner(
    model: Network, x: jax.Array, t: jax.Array, condition: Condition, keep_ids: KeepIds = None
) -> tuple[jax.Array, jax.Array]:
    """Return `velocity`, and the inner head's velocity [B, H, W, C] in the same pass."""
    (v,), inner = velocities(model, x, t, [Branch(condition, keep_ids)], inner=True)
    return v, inner


def loss_weight(model: Network, t: jax.Array) -> jax.Array:
    """Return the weight [B] of the velocity's squared error that gives F's error a weight of 1.

    EDM's lambda(sigma) ||D - x||^2 = ||F - F*||^2 = s^2 / s_d^2 ||v - v*||^2; if the network
    predicts noise, its error counts as in DDPM's loss.
    """
    if model.prediction == "edm":
        return jnp.square(edm_scale(t) / SIGMA_DATA)
    if model.prediction == "noise":
        return jnp.square(_noise_scale(t))
    return jnp.ones_like(t)


def edm_scale(t: jax.Array) -> jax.Array:
    """Return s(t), the standard deviation of x_t for data of standard deviation s_d."""
    return jnp.sqrt(jnp.square(1 - t) + jnp.square(SIGMA_DATA * t))


def ddpm_step(t: jax.Array) -> jax.Array:
    """Return the DDPM step tau, from 0 to 999 with fractions, that is as noisy as our time t.

    Between steps the log of a / (1 - a) is interpolated; at the ends tau is the first or last step.
    """
    small = 1e-6
    log_snr = 2 * (jnp.log(jnp.maximum(t, small)) - jnp.log(jnp.maximum(1 - t, small)))
    rising = jnp.asarray(SNR[::-1], jnp.float32)
    return jnp.interp(log_snr, rising, jnp.arange(len(SNR) - 1, -1, -1, dtype=jnp.float32))


def _noise_scale(t: jax.Array) -> jax.Array:
    """Return the ratio of the noise's error to the velocity's: t, except at the start."""
    return jnp.maximum(t, RATIO * (1 - t))
