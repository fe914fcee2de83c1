"""Attention for NVIDIA GPUs: cuDNN's FlashAttention (arXiv 2205.14135), called through JAX.

On an H200 with 256 tokens it takes a quarter of XLA's time, and with gradients 0.4 to 0.6 of it;
with 26 tokens XLA takes half of cuDNN's (tests/benchmarks/peer.md).
"""

import functools

import jax
import jax.numpy as jnp

from sg_jax.errors import UserError
from sg_jax.parallel import sharding

CHANNELS = 128  # of a head, at most, and a multiple of 8
TOKENS = 128  # from here on it is faster than XLA
AMPERE = 8.0  # the first compute capability that has the kernels


def takes(implementation: str, q: jax.Array, heads: int) -> bool:
    """Return whether cuDNN computes the attention of queries q [B, N, D].

    "auto" uses it on NVIDIA GPUs in bfloat16, from `TOKENS` tokens on, unless the devices of the
    mesh that the program is traced `on` share the heads.

    Raises:
      UserError: the implementation is "cudnn", but cuDNN has no kernel for this.
    """
    tokens, channels = q.shape[1], q.shape[2] // heads
    fits = channels % 8 == 0 and channels <= CHANNELS and tokens % 2 == 0
    able = q.dtype == jnp.bfloat16 and fits
    if implementation == "cudnn":
        if not able:
            raise UserError(
                "config.model.attention='cudnn' needs config.model.dtype='bfloat16', heads of at "
                f"most {CHANNELS} channels, a multiple of 8, and an even number of tokens, not "
                f"{q.dtype.name}, {channels} and {tokens}; 'auto' and 'xla' accept any."
            )
        return True
    if implementation != "auto" or sharding.platform() != "gpu" or sharding.shares_heads():
        return False
    return able and tokens >= TOKENS and has_kernels()


@functools.cache
def has_kernels() -> bool:
    """Return whether this process's devices are NVIDIA GPUs that have the kernels."""
    device = jax.local_devices()[0]
    capability = str(getattr(device, "compute_capability", ""))  # on AMD it is, say, "gfx90a"
    return device.platform == "gpu" and capability[:1].isdigit() and float(capability) >= AMPERE


def attend(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
    """Return softmax(q k^T / sqrt(D/H)) v of all heads [B, N, D]; the softmax in float32.

    Args:
      q, k, v: [B, N, D] in bfloat16, the heads side by side.
      heads: H.
    """
    split = [x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v)]  # [B, N, H, D/H]
    return jax.nn.dot_product_attention(*split, implementation="cudnn").reshape(q.shape)
