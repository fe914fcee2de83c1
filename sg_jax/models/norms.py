"""RMSNorm, and the choice between it and LayerNorm.

RMSNorm (arXiv 1910.07467) divides a token by its root mean square and scales its channels by a
weight [D]. It subtracts no mean. A weight of None stands for LayerNorm without a weight.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.models import gradients, layers
from sg_jax.models.gradients import written_out

NORMS = ("layer", "rms")


def weight_of(norm: str, width: int) -> Any:
    """Return a fresh weight [D] for norm "rms", and None for "layer"."""
    return nnx.Param(jnp.ones((width,))) if norm == "rms" else None


def kind_of(weight: Any) -> str:
    """Return the norm that has this weight."""
    return "layer" if weight is None else "rms"


def modulated(
    x: jax.Array, found: layers.Moments, shift: jax.Array, scale: jax.Array, weight: Any
) -> jax.Array:
    """Normalise tokens x [B, N, D], then scale them by 1 + scale and shift them.

    Args:
      x: tokens [B, N, D].
      found: `layers.moments(x)` for the norm of the weight.
      shift, scale: [B, D], float32.
      weight: of RMSNorm, or None for LayerNorm.
    """
    if weight is None:
        return layers.adaptive_norm(x, found, shift, scale)
    return scaled(x, found[1], shift, (1 + scale) * weight[...][None])


@written_out(lambda x, rate, shift, scale: (x, rate, scale), gradients.scaled_backward)
def scaled(x: jax.Array, rate: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Return x rate scale + shift [B, N, D] in x's type; all else is float32.

    Args:
      x: tokens [B, N, D].
      rate: 1 / root mean square of x [B, N, 1]; its gradient is part of x's.
      shift, scale: [B, D].
    """
    y = x.astype(jnp.float32) * rate * scale[:, None] + shift[:, None]
    return y.astype(x.dtype)


def rms(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Return RMSNorm of the last axis of x, in x's type, with a weight of that axis."""
    wide = x.astype(jnp.float32)
    rate = jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + layers.EPSILON)
    return (wide * rate * weight[(None,) * (x.ndim - 1)]).astype(x.dtype)
