"""Turn the output of a network into the velocity, so that nothing else depends on what it is.

EDM (Karras et al., arXiv 2206.00364) reads y = data + sigma * noise; on our path that is x_t / t
with sigma = (1 - t) / t. Its preconditioning, written in t, has no singular point:

D = c_skip y + c_out F(c_in y, c_noise)                                          (EDM, Eq. 7)
v = (D - x_t) / (1 - t) = x_t (s_d^2 t - (1 - t)) / s^2 + s_d / s F(x_t / s, c_noise),
s^2 = (1 - t)^2 + s_d^2 t^2, c_noise = ln(sigma) / 4
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sg_jax.errors import UserError
from sg_jax.method import flow
from sg_jax.method.network import Condition, KeepIds, Network

PREDICTIONS = ("velocity", "edm")  # what networks may return; both become a velocity here
SIGMA_DATA = 0.5
SIGMA_RANGE = (0.002, 80.0)  # c_noise is clipped to EDM's noise levels


def velocities(
    model: Network,
    x: jax.Array,
    t: jax.Array,
    conditions: Sequence[Condition],
    ids: Sequence[KeepIds] = (None,),
) -> list[jax.Array]:
    """Return the velocity [B, H, W, C] of each branch at the same x_t; see `Network.branches`."""
    if model.prediction not in PREDICTIONS:
        raise UserError(
            f"This network predicts {model.prediction!r}; only networks that predict "
            f"{' or '.join(map(repr, PREDICTIONS))} can be trained and sampled."
        )
    if model.prediction == "velocity":
        return model.branches(x, t, conditions, ids)
    s = edm_scale(t)
    sigma = jnp.clip((1 - t) / jnp.maximum(t, 1e-6), *SIGMA_RANGE)
    outputs = model.branches(x / flow.per_image(s, x), jnp.log(sigma) / 4, conditions, ids)
    skip = flow.per_image((SIGMA_DATA**2 * t - (1 - t)) / s**2, x)
    out = flow.per_image(SIGMA_DATA / s, x)
    return [skip * x + out * f for f in outputs]


def velocity(
    model: Network, x: jax.Array, t: jax.Array, condition: Condition, keep_ids: KeepIds = None
) -> jax.Array:
    """Return the velocity [B, H, W, C] at images x_t, times t [B] and a condition."""
    return velocities(model, x, t, [condition], [keep_ids])[0]


def loss_weight(model: Network, t: jax.Array) -> jax.Array:
    """Return the weight [B] of the velocity's squared error under which F's error counts as 1.

    EDM's lambda(sigma) ||D - x||^2 = ||F - F*||^2 = s^2 / s_d^2 ||v - v*||^2.
    """
    if model.prediction == "velocity":
        return jnp.ones_like(t)
    return jnp.square(edm_scale(t) / SIGMA_DATA)


def edm_scale(t: jax.Array) -> jax.Array:
    """Return s(t), the standard deviation of x_t for data of standard deviation s_d."""
    return jnp.sqrt(jnp.square(1 - t) + jnp.square(SIGMA_DATA * t))
