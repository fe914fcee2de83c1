"""Flow matching: the straight path from noise to data, and its velocity.

Time convention, here and everywhere: t = 0 is noise z, t = 1 is data x. REPA and TREAD's flow code
run the other way (their t is 1 - ours and their v is -ours); SiT's linear path agrees with ours.
Krause et al., "Guiding Token-Sparse Diffusion Models" (arXiv 2601.01608), Eq. 1 and 2.
"""

import jax
import jax.numpy as jnp

TIME_DISTRIBUTIONS = ("logit_normal", "uniform")


def interpolate(x: jax.Array, z: jax.Array, t: jax.Array) -> jax.Array:
    """Return the point at time t between noise z and data x.

    x_t = (1 - t) z + t x                                                     (Eq. 1)

    Args:
      x: data [B, H, W, C].
      z: noise, shaped like x.
      t: times [B] in [0, 1].
    """
    t = per_image(t, x)
    return (1 - t) * z + t * x


def velocity_target(x: jax.Array, z: jax.Array) -> jax.Array:
    """Return v* = dx_t / dt = x - z                                           (Eq. 2)."""
    return x - z


def denoised(x_t: jax.Array, v: jax.Array, t: jax.Array) -> jax.Array:
    """Return the data that the velocity points to: D = x_t + (1 - t) v."""
    return x_t + (1 - per_image(t, x_t)) * v


def sample_time(
    key: jax.Array, shape: tuple[int, ...], distribution: str, mean: float = 0.0, std: float = 1.0
) -> jax.Array:
    """Draw training times in [0, 1), float32.

    `logit_normal` is sigmoid(N(mean, std^2)) (Esser et al., arXiv 2403.03206); `uniform` is SiT's.
    """
    if distribution == "logit_normal":
        return jax.nn.sigmoid(mean + std * jax.random.normal(key, shape))
    if distribution == "uniform":
        return jax.random.uniform(key, shape)
    raise ValueError(f"time distribution {distribution!r} is not one of {TIME_DISTRIBUTIONS}")


def shift_time(t: jax.Array, shift: float) -> jax.Array:
    """Move times in [0, 1] towards noise if shift > 1; 0 and 1 stay.

    1 - t' = s u / (1 + (s - 1) u) with u = 1 - t       (arXiv 2403.03206, Eq. 23, in our time)
    """
    return t if shift == 1.0 else t / (t + shift * (1 - t))


def per_image(t: jax.Array, x: jax.Array) -> jax.Array:
    """Reshape t [B] so that it multiplies x [B, ...]."""
    return jnp.reshape(t, t.shape + (1,) * (x.ndim - t.ndim)).astype(x.dtype)  # [B, 1, 1, 1]
