"""APG and CFG-Zero*, which change the difference of two predictions before it is scaled.

Both act on each image by itself, and on any pair of velocities.
"""

import jax
import jax.numpy as jnp

from sg_jax.method import flow

SMALL = 1e-8


def rescaled(strong: jax.Array, weak: jax.Array) -> jax.Array:
    """Return s* weak, the multiple of the weak velocity that is nearest to the strong one.

    s* = <v_s, v_w> / ||v_w||^2                      (CFG-Zero*, arXiv 2503.18886; v [B, H, W, C])
    """
    ratio = _dot(strong, weak) / (_dot(weak, weak) + SMALL)
    return flow.per_image(ratio, weak) * weak


def project(
    d: jax.Array,
    strong: jax.Array,
    x: jax.Array,
    t: jax.Array,
    previous: jax.Array,
    *,
    parallel: jax.Array | float,
    norm: jax.Array | float,
    momentum: jax.Array | float,
) -> tuple[jax.Array, jax.Array]:
    """Return a difference of velocities after adaptive projected guidance, and the new memory.

    dD = (1 - t) d + beta previous,  dD' = min(1, r / ||dD||) dD          (APG, arXiv 2410.02416)
    dD'' = dD' + (eta - 1) <dD', D> / ||D||^2 D,  D = x_t + (1 - t) v_s;  d'' = dD'' / (1 - t)

    At t = 1 the denoised images are equal, so there is no momentum; the rest takes its limit.

    Args:
      d: v_s - v_w [B, H, W, C].
      strong: v_s.
      x: images x_t.
      t: times [B].
      previous: dD of the previous evaluation [B, H, W, C]; zeros at first.
      parallel: eta; 1 leaves the part parallel to D as it is, and 0 removes it.
      norm: r, the largest L2 norm of an image's dD; 0: no limit.
      momentum: beta in (-1, 1).
    """
    left = flow.per_image(1 - t, x)  # [B, 1, 1, 1]
    some = jnp.maximum(left, 1e-6)
    d = d + jnp.where(left > 1e-6, momentum * previous / some, 0.0)
    moved = left * d
    length = jnp.sqrt(_dot(moved, moved))  # [B]
    limit = jnp.where(norm > 0, norm / jnp.maximum(length, SMALL), 1.0)
    d = flow.per_image(jnp.minimum(limit, 1.0), d) * d
    image = flow.denoised(x, strong, t)
    along = _dot(d, image) / (_dot(image, image) + SMALL)  # [B]
    return d + (parallel - 1) * flow.per_image(along, image) * image, moved


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the inner product of each pair of images [B]."""
    return (a * b).sum(axis=tuple(range(1, a.ndim)))
