"""Layers that backbones share: linear, embeddings, MLP, adaLN. `attention` has its own file.

Initializers are module constants: a new closure per instance would change a module's tree, so all
programs would compile again. Parameters are float32; `dtype` is the compute type.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sg_jax.models import gradients
from sg_jax.models.gradients import written_out
from sg_jax.models.remat import save

XAVIER = nnx.initializers.xavier_uniform()
NORMAL = nnx.initializers.normal(0.02)
ZEROS = nnx.initializers.zeros_init()
EPSILON = 1e-6


@written_out(lambda x, kernel: (x, kernel), gradients.product_backward)
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return x @ kernel [..., dout] in x's type, for x [..., din] and a float32 kernel [din, dout].

    The kernel's gradient is float32 before it is summed over devices. An automatic gradient would
    be rounded to x's type first.
    """
    return x @ kernel.astype(x.dtype)


class Keys(nnx.Rngs):
    """The keys of `nnx.Rngs(key)`, counted in Python; counting them under a trace is slow."""

    def __init__(self, key: jax.Array):
        self.key, self.count = key, 0

    def params(self) -> jax.Array:
        self.count += 1
        return jax.random.fold_in(self.key, self.count - 1)


def abstract(make: Callable[[nnx.Rngs], Any]) -> Any:
    """Return the network make(rngs) with shapes in place of weights."""
    return jax.eval_shape(lambda: make(Keys(jax.random.key(0))))


class Linear(nnx.Module):
    """A linear layer [..., din] -> [..., dout], computed in `dtype`.

    Gradients are float32. The bias is added in float32 too, because its gradient is a sum over all
    tokens. `closes` means that the layer before it has split its input channels over devices.
    """

    def __init__(
        self,
        din: int,
        dout: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        init=XAVIER,
        bias: bool = True,
        closes: bool = False,
    ):
        self.in_features, self.out_features, self.dtype = din, dout, dtype
        self.kernel = nnx.Param(init(rngs.params(), (din, dout)), tensor_axis=-2 if closes else -1)
        self.bias: Any = nnx.Param(jnp.zeros((dout,))) if bias else None

    @property
    def macs(self) -> int:
        """Multiply-adds for one vector."""
        return self.in_features * self.out_features

    def __call__(self, x: jax.Array, bias_gradient: bool = True) -> jax.Array:
        """Return x @ kernel + bias; without `bias_gradient`, the bias gets no gradient here."""
        y = product(x.astype(self.dtype), self.kernel[...])
        if self.bias is None:
            return y
        bias = self.bias[...] if bias_gradient else jax.lax.stop_gradient(self.bias[...])
        return (y.astype(jnp.float32) + bias[(None,) * (y.ndim - 1)]).astype(self.dtype)


def modulation(linear: Any, c: jax.Array, count: int) -> list[jax.Array]:
    """Return `count` parts [B, D], float32, of linear(silu(c)): the scales and shifts of adaLN."""
    return jnp.split(save(linear(jax.nn.silu(c))).astype(jnp.float32), count, axis=-1)


Moments = tuple[Any, jax.Array]


def moments(x: jax.Array, norm: str = "layer") -> Moments:
    """Return the mean and 1 / std of tokens x [B, N, D], each [B, N, 1] and float32.

    For norm "rms" they are None and 1 / root mean square.

    This is separate from `adaptive_norm`, which differentiates the moments, so that a block can
    return them with its tokens: on TPU they cost nothing next to the product that makes the tokens.
    """
    wide = jax.lax.stop_gradient(x).astype(jnp.float32)
    if norm == "rms":
        return None, save(jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + EPSILON))
    mean = wide.mean(-1, keepdims=True)
    variance = jnp.square(wide).mean(-1, keepdims=True) - jnp.square(mean)
    return save(mean), save(jax.lax.rsqrt(jnp.maximum(variance, 0.0) + EPSILON))


@written_out(lambda x, found, shift, scale: (x, found, scale), gradients.norm_backward)
def adaptive_norm(x: jax.Array, found: Moments, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Normalise tokens, then scale and shift them: (x - mean) / std (1 + scale) + shift.

    Everything but the input and the output is float32.

    Args:
      x: tokens [B, N, D].
      found: `moments(x)`.
      shift, scale: [B, D], float32.

    Returns:
      [B, N, D], in x's type.
    """
    mean, rate = found
    y = (x.astype(jnp.float32) - mean) * rate * (1 + scale[:, None]) + shift[:, None]
    return y.astype(x.dtype)


def gated(x: jax.Array, gate: jax.Array, y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Return x + gate (y + bias) [B, N, D] in x's type.

    Args:
      x: tokens [B, N, D].
      gate: [B, D], float32.
      y: a layer's product [B, N, D], without its bias.
      bias: [D], float32; None if the layer has none.
    """
    if bias is None:
        return add_scaled(x, gate, save(y))
    return add_gated(x, gate, save(y), bias)


@written_out(lambda x, gate, y: (gate, y), gradients.scaled_sum_backward)
def add_scaled(x: jax.Array, gate: jax.Array, y: jax.Array) -> jax.Array:
    """Return x + gate y [B, N, D] in x's type."""
    return (x.astype(jnp.float32) + gate[:, None] * y.astype(jnp.float32)).astype(x.dtype)


@written_out(lambda x, gate, y, bias: (gate, y, bias), gradients.gated_backward)
def add_gated(x: jax.Array, gate: jax.Array, y: jax.Array, bias: jax.Array) -> jax.Array:
    """Return x + gate (y + bias), as `gated` does."""
    gate, bias = gate[:, None], bias[None, None]
    return (x.astype(jnp.float32) + gate * (y.astype(jnp.float32) + bias)).astype(x.dtype)


@functools.cache
def position_table(height: int, width: int, dim: int) -> np.ndarray:
    """Return the fixed sine-cosine table of a token grid, float32 [height * width, dim].

    Half of the channels encode the column and half the row, each as [sin, cos] of
    p / 10000^(4 i / dim) (MAE, arXiv 2111.06377; as in DiT).
    """
    omega = 1.0 / 10000 ** (np.arange(dim // 4) / (dim / 4))
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    angles = [p.reshape(-1, 1) * omega for p in (columns, rows)]  # each [N, dim / 4]
    table = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1)
    return table.astype(np.float32)


def timestep_features(t: jax.Array, dim: int = 256, endpoint: bool = False) -> jax.Array:
    """Return [cos, sin] of t [B] at frequencies 1 .. 1/10000, float32 [B, dim].

    With `endpoint` the last frequency is 1/10000, as in diffusers; otherwise the next would be.
    """
    half = dim // 2
    parts = half - endpoint
    frequencies = jnp.exp(-math.log(10000) * jnp.arange(half, dtype=jnp.float32) / parts)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]  # [B, dim / 2]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimestepEmbedding(nnx.Module):
    """Embed t [B], unscaled, into [B, D]: two linear layers on sinusoidal features."""

    def __init__(self, dim: int, dtype: jnp.dtype, rngs: nnx.Rngs, endpoint: bool = False):
        self.endpoint = endpoint  # see `timestep_features`
        self.hidden = Linear(256, dim, dtype, rngs, NORMAL)
        self.out = Linear(dim, dim, dtype, rngs, NORMAL, closes=True)

    def __call__(self, t: jax.Array) -> jax.Array:
        return self.out(jax.nn.silu(self.hidden(timestep_features(t, endpoint=self.endpoint))))


class Mlp(nnx.Module):
    """Two linear layers and GELU between them; `gated` adds the bias of the last one."""

    products = 2  # between D channels and the hidden ones

    def __init__(self, dim: int, hidden: int, dtype: jnp.dtype, rngs: nnx.Rngs, bias: bool = True):
        self.hidden = Linear(dim, hidden, dtype, rngs, bias=bias)
        self.out = Linear(hidden, dim, dtype, rngs, bias=bias, closes=True)

    @property
    def bias(self) -> jax.Array | None:
        """The bias [D] of the last layer, which `gated` adds; None if it has none."""
        return None if self.out.bias is None else self.out.bias[...]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the last layer's product [B, N, D] of tokens x [B, N, D]."""
        return product(gradients.gelu(save(self.hidden(x))), self.out.kernel[...])
