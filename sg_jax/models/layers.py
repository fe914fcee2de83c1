"""Layers shared by the backbones: linear, embeddings, MLP, adaLN. `attention` has its own file.

Initializers are module constants: a fresh closure per instance would change the tree structure of
a module and so compile every program again. Parameters are float32; `dtype` is the compute type.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sg_jax.models.remat import save
from sg_jax.parallel import sharding

XAVIER = nnx.initializers.xavier_uniform()
NORMAL = nnx.initializers.normal(0.02)
ZEROS = nnx.initializers.zeros_init()
EPSILON = 1e-6


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return x @ kernel [..., dout] in x's type, of x [..., din] and a float32 kernel [din, dout].

    The kernel's gradient is float32 before it is summed over devices; derived from the forward
    pass it would be rounded to x's type first.
    """
    return x @ kernel.astype(x.dtype)


def kernel_gradient(x: jax.Array, dy: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Return the gradient [din, dout], of `dtype`, of the kernel that made [..., dout] of x."""
    axes = tuple(range(x.ndim - 1))

    def gradient(x, dy):
        return jax.lax.dot_general(x, dy, ((axes, axes), ((), ())), preferred_element_type=dtype)

    if sharding.platform() == "cpu" and x.shape[-1] > dy.shape[-1]:
        # The first factor is transposed in memory there: 4% of a step for the larger one. Without
        # the barrier XLA takes the transpose into a product that is slower.
        return jax.lax.optimization_barrier(gradient(dy, x)).T
    return gradient(x, dy)


def input_gradient(dy: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the gradient [..., din], of dy's type, of what a kernel [din, dout] took to dy."""
    kernel = kernel.astype(dy.dtype)
    rows = dy.reshape(-1, dy.shape[-1])
    if sharding.platform() == "cpu" and 8 * len(rows) <= len(kernel):
        # Few rows, as of adaLN, are transposed in memory there and not the kernel, behind a barrier
        # as above: 8 rows by [768, 4608] took a fifth of the time.
        found = jax.lax.dot_general(kernel, rows, (((1,), (1,)), ((), ())))
        return jax.lax.optimization_barrier(found).T.reshape(*dy.shape[:-1], -1)
    return dy @ kernel.T


def _product_backward(residuals, dy):
    x, kernel = residuals
    return input_gradient(dy, kernel), kernel_gradient(x, dy, kernel.dtype)


product.defvjp(lambda x, kernel: (product(x, kernel), (x, kernel)), _product_backward)


class Linear(nnx.Module):
    """A linear layer [..., din] -> [..., dout], computed in `dtype`.

    Gradients are float32, the bias's too: it is added in float32, because its gradient is a sum
    over all tokens.
    """

    def __init__(
        self, din: int, dout: int, dtype: jnp.dtype, rngs: nnx.Rngs, init=XAVIER, bias: bool = True
    ):
        self.in_features, self.out_features, self.dtype = din, dout, dtype
        self.kernel = nnx.Param(init(rngs.params(), (din, dout)))
        self.bias = nnx.Param(jnp.zeros((dout,))) if bias else None

    def __call__(self, x: jax.Array, bias_gradient: bool = True) -> jax.Array:
        """Return x @ kernel + bias; without `bias_gradient` the bias's comes from elsewhere."""
        y = product(x.astype(self.dtype), self.kernel[...])
        if self.bias is None:
            return y
        bias = self.bias[...] if bias_gradient else jax.lax.stop_gradient(self.bias[...])
        return (y.astype(jnp.float32) + bias[(None,) * (y.ndim - 1)]).astype(self.dtype)


def modulation(linear: Linear, c: jax.Array, count: int) -> list[jax.Array]:
    """Return `count` parts [B, D], float32, of linear(silu(c)): the scales and shifts of adaLN."""
    return jnp.split(save(linear(jax.nn.silu(c))).astype(jnp.float32), count, axis=-1)


Moments = tuple[jax.Array, jax.Array]


def moments(x: jax.Array) -> Moments:
    """Return the mean and 1 / std of tokens x [B, N, D], each [B, N, 1] and float32.

    Apart from `adaptive_norm`, which differentiates them, so that a block can return them beside
    its tokens: in one loop with the matrix product that makes the tokens they cost nothing on TPU.
    """
    wide = jax.lax.stop_gradient(x).astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    variance = jnp.square(wide).mean(-1, keepdims=True) - jnp.square(mean)
    return save(mean), save(jax.lax.rsqrt(jnp.maximum(variance, 0.0) + EPSILON))


@jax.custom_vjp
def adaptive_norm(x: jax.Array, found: Moments, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Normalise tokens, then scale and shift them: (x - mean) / std (1 + scale) + shift.

    All in float32, but for what comes in and goes out. The gradient is written out, because what
    is derived from the forward pass goes over the tokens more often; that of `found` is part of
    that of x.

    Args:
      x: tokens [B, N, D].
      found: `moments(x)`.
      shift, scale: [B, D], float32.

    Returns:
      [B, N, D], of x's type.
    """
    mean, rate = found
    y = (x.astype(jnp.float32) - mean) * rate * (1 + scale[:, None]) + shift[:, None]
    return y.astype(x.dtype)


def _norm_backward(residuals, dy):
    x, (mean, rate), scale = residuals
    wide = dy.astype(jnp.float32)
    unit = (x.astype(jnp.float32) - mean) * rate  # [B, N, D], the normalised tokens
    d_scale = (wide * unit).sum(1)  # [B, D]
    # A sum of products, because XLA takes a plain sum out of the fusion with the matrix product
    # that makes dy, and goes over the tokens once more: 3 points of peak on TPU v5e.
    d_shift = (wide * (unit + 1)).sum(1) - d_scale
    d = wide * (1 + scale[:, None])
    dx = rate * (d - d.mean(-1, keepdims=True) - unit * (d * unit).mean(-1, keepdims=True))
    return dx.astype(x.dtype), (jnp.zeros_like(mean), jnp.zeros_like(rate)), d_shift, d_scale


adaptive_norm.defvjp(lambda *a: (adaptive_norm(*a), (a[0], a[1], a[3])), _norm_backward)


def gated(x: jax.Array, gate: jax.Array, y: jax.Array, bias: jax.Array) -> jax.Array:
    """Return x + gate (y + bias) [B, N, D] in x's type.

    Args:
      x: tokens [B, N, D].
      gate: [B, D], float32.
      y: a layer's product [B, N, D], without its bias.
      bias: [D], float32.
    """
    return _gated(x, gate, save(y), bias)


@jax.custom_vjp
def _gated(x, gate, y, bias):
    gate, bias = gate[:, None], bias[None, None]
    return (x.astype(jnp.float32) + gate * (y.astype(jnp.float32) + bias)).astype(x.dtype)


def _gated_backward(residuals, dx):
    gate, y, bias = residuals
    wide = dx.astype(jnp.float32)
    total = wide.sum(1)  # [B, D], from which the bias's gradient follows without another pass
    d_gate = (wide * y.astype(jnp.float32)).sum(1) + bias[None] * total
    return dx, d_gate, (gate[:, None] * wide).astype(y.dtype), (gate * total).sum(0)


_gated.defvjp(lambda *a: (_gated(*a), a[1:]), _gated_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Return the tanh approximation of GELU, of x's type."""
    # Without a barrier the TPU compiler fuses both products of an MLP into one, and samples with
    # 73% of the peak of v5e where it could with 79% (XL/2, 32 images of 128 tokens, its estimate).
    return jax.lax.optimization_barrier(_gelu(x))


def _gelu(x):
    return jax.nn.gelu(x, approximate=True)


gelu.defvjp(lambda x: (_gelu(x), x), lambda x, dy: jax.vjp(_gelu, x)[1](dy))


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
        self.hidden = Linear(256, dim, dtype, rngs, NORMAL)
        self.out = Linear(dim, dim, dtype, rngs, NORMAL)

    def __call__(self, t: jax.Array) -> jax.Array:
        return self.out(jax.nn.silu(self.hidden(timestep_features(t))))


class Mlp(nnx.Module):
    """Two linear layers and GELU between them; the bias of the last one is left to `gated`."""

    def __init__(self, dim: int, hidden: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.hidden = Linear(dim, hidden, dtype, rngs)
        self.out = Linear(hidden, dim, dtype, rngs)

    @property
    def bias(self) -> jax.Array:
        """The bias [D] of the last layer, which `gated` adds."""
        return self.out.bias[...]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the last layer's product [B, N, D] of tokens x [B, N, D]."""
        return product(gelu(save(self.hidden(x))), self.out.kernel[...])
