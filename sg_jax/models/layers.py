"""Layers shared by the backbones: embeddings, attention, MLP, adaLN.

Initializers are module constants: a fresh closure per instance would change the tree structure of
a module and so compile every program again. Parameters are float32; `dtype` is the compute type.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

XAVIER = nnx.initializers.xavier_uniform()
QKV = nnx.initializers.variance_scaling(0.5, "fan_avg", "uniform")  # Xavier of the fused [D, 3D]
NORMAL = nnx.initializers.normal(0.02)
ZEROS = nnx.initializers.zeros_init()


def linear(din: int, dout: int, dtype: jnp.dtype, rngs: nnx.Rngs, init=XAVIER) -> nnx.Linear:
    """Return a linear layer with zero bias."""
    return nnx.Linear(din, dout, kernel_init=init, bias_init=ZEROS, dtype=dtype, rngs=rngs)


def layer_norm(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """Normalise the last axis, without scale or bias, in float32; returns x's dtype."""
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + epsilon)
    return y.astype(x.dtype)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Return x (1 + scale) + shift, with x [B, N, D] and shift, scale [B, D]."""
    return x * (1 + scale[:, None]) + shift[:, None]


@functools.cache
def position_table(height: int, width: int, dim: int) -> np.ndarray:
    """Return the fixed sine-cosine table of a token grid, float32 [height * width, dim].

    Half of the channels encode the column, half the row, each as [sin, cos] of
    p / 10000^(4 i / dim) (MAE, arXiv 2111.06377; as in DiT).
    """
    omega = 1.0 / 10000 ** (np.arange(dim // 4) / (dim / 4))
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    angles = [p.reshape(-1, 1) * omega for p in (columns, rows)]  # each [N, dim / 4]
    table = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1)
    return table.astype(np.float32)


def timestep_features(t: jax.Array, dim: int = 256) -> jax.Array:
    """Return [cos, sin] of t [B] at frequencies 1 .. 1/10000, float32 [B, dim]."""
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]  # [B, dim / 2]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimestepEmbedding(nnx.Module):
    """Embed t [B], taken as it is, into [B, D]: two linear layers on sinusoidal features."""

    def __init__(self, dim: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.hidden = linear(256, dim, dtype, rngs, NORMAL)
        self.out = linear(dim, dim, dtype, rngs, NORMAL)

    def __call__(self, t: jax.Array) -> jax.Array:
        return self.out(jax.nn.silu(self.hidden(timestep_features(t))))


class HeadProjection(nnx.Module):
    """Project tokens [B, N, D] into heads [B, H, N, D/H] with no transposed copy of the result.

    Separate from a fused qkv on purpose: on TPU v5e the copies that a fused projection and its
    reshape need cost 12-17% of a block.
    """

    def __init__(self, dim: int, heads: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        shape = (dim, heads, dim // heads)
        self.kernel = nnx.Param(QKV(rngs.params(), (dim, dim)).reshape(shape))
        self.bias = nnx.Param(jnp.zeros((heads, dim // heads)))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return jnp.einsum("bnd,dhk->bhnk", x, kernel) + bias[None, :, None]  # [B, H, N, D/H]


class Attention(nnx.Module):
    """Multi-head self-attention over however many tokens it is given."""

    def __init__(self, dim: int, heads: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.query = HeadProjection(dim, heads, dtype, rngs)
        self.key = HeadProjection(dim, heads, dtype, rngs)
        self.value = HeadProjection(dim, heads, dtype, rngs)
        self.kernel = nnx.Param(XAVIER(rngs.params(), (dim, dim)).reshape(heads, -1, dim))
        self.bias = nnx.Param(jnp.zeros((dim,)))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = self.query(x), self.key(x), self.value(x)  # each [B, H, N, D/H]
        q = q / math.sqrt(q.shape[-1])
        logits = jnp.einsum("bhnk,bhmk->bhnm", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        out = jnp.einsum("bhnm,bhmk->bhnk", weights, v)  # [B, H, N, D/H]
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return jnp.einsum("bhnk,hkd->bnd", out, kernel) + bias[None, None]  # [B, N, D]


class Mlp(nnx.Module):
    """Two linear layers with the tanh approximation of GELU between."""

    def __init__(self, dim: int, hidden: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.hidden = linear(dim, hidden, dtype, rngs)
        self.out = linear(hidden, dim, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(jax.nn.gelu(self.hidden(x), approximate=True))
