"""Layers that the autoencoders share: convolutions, group norms, attention, doubled sides.

Images and features are [B, H, W, C]. Kernels are stored in the type that they are computed in, all
other weights in float32. A float32 network computes in float32 on every device, although TPUs and
GPUs would round the factors of a product by default. A bfloat16 network sums in float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

KERNEL_INIT = nnx.initializers.he_normal()
EPSILON = 1e-6
SCORES = 4096 * 4096  # of attention per image at a time: all of them for 512 pixels at factor 8


def precision_of(dtype: jnp.dtype) -> jax.lax.Precision:
    """Return the precision of products whose factors have a type."""
    wide = dtype == jnp.float32
    return jax.lax.Precision.HIGHEST if wide else jax.lax.Precision.DEFAULT


class Conv(nnx.Module):
    """A convolution [B, H, W, inputs] -> [B, H', W', outputs] with zeros around the image.

    Args:
      inputs: channels in.
      outputs: channels out.
      side: of the kernel, or its height and width.
      dtype: what the factors are rounded to.
      stride: 2 halves the sides.
      padding: rows and columns of zeros before and after; by default they keep the sides.
      bias: whether it has one.
      wide: whether to return float32 instead of `dtype`.
      rngs: key for the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        side: int | tuple[int, int],
        dtype: jnp.dtype,
        *,
        rngs: nnx.Rngs,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        bias: bool = True,
        wide: bool = False,
    ):
        self.dtype, self.stride, self.wide = dtype, stride, wide
        sides = (side, side) if isinstance(side, int) else side
        self.padding = tuple((n // 2, n // 2) if padding is None else padding for n in sides)
        kernel = KERNEL_INIT(rngs.params(), (*sides, inputs, outputs))
        self.kernel = nnx.Param(kernel.astype(dtype))
        self.bias: Any = nnx.Param(jnp.zeros((outputs,))) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, H, W, inputs] to [B, H', W', outputs]."""
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.kernel[...],
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision_of(self.dtype),
            preferred_element_type=jnp.float32,
        )
        y = y if self.bias is None else y + self.bias[...][None, None, None]
        return y if self.wide else y.astype(self.dtype)


class GroupNorm(nnx.Module):
    """Normalise each image over its pixels and the channels of a group (arXiv 1803.08494).

    Args:
      channels: a multiple of `groups`.
      groups: number of groups of neighbouring channels.
      epsilon: added to the variance.
      rngs: unused; every layer takes one.
    """

    def __init__(
        self, channels: int, groups: int, *, rngs: nnx.Rngs | None = None, epsilon: float = EPSILON
    ):
        self.groups, self.epsilon = groups, epsilon
        self.scale = nnx.Param(jnp.ones((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return float32 of the shape of x [B, H, W, C]."""
        wide = x.astype(jnp.float32)
        mean = wide.mean((1, 2))  # [B, C]
        if x.dtype == jnp.float32:  # exact to its last digits
            variance = jnp.square(wide - mean[:, None, None]).mean((1, 2))  # [B, C]
        else:  # in the same pass over the pixels
            variance = jnp.square(wide).mean((1, 2)) - jnp.square(mean)
        both = jnp.square(mean) + variance
        grouped = mean.reshape(len(x), self.groups, -1)  # [B, G, C / G]
        middle = grouped.mean(-1, keepdims=True)
        spread = variance.reshape(grouped.shape) + jnp.square(grouped - middle)
        rate = jax.lax.rsqrt(jnp.maximum(spread.mean(-1, keepdims=True), 0.0) + self.epsilon)
        middle, rate = (
            jnp.broadcast_to(y, grouped.shape).reshape(both.shape) for y in (middle, rate)
        )  # [B, C]
        y = (wide - middle[:, None, None]) * (rate * self.scale[...][None])[:, None, None]
        return y + self.bias[...][None, None, None]


class Attention(nnx.Module):
    """Attention of one head between all pixels, with a shortcut.

    Args:
      channels: width of pixels, queries, keys and values.
      groups: of the norm before it.
      dtype: compute type.
      rngs: key for the initial weights.
    """

    def __init__(self, channels: int, groups: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.norm = GroupNorm(channels, groups)
        self.query, self.key, self.value, self.out = (
            Conv(channels, channels, 1, dtype, rngs=rngs) for _ in range(4)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, H, W, C] to the same shape."""
        batch, height, width, channels = x.shape
        y = self.norm(x).astype(x.dtype)
        parts = (
            each(y).reshape(batch, height * width, channels)
            for each in (self.query, self.key, self.value)
        )
        return x + self.out(attend(*parts).reshape(x.shape))


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Return softmax(query key^T / sqrt(D)) value, for at most `SCORES` pairs per image at a time.

    The queries of larger images are taken in parts, with the same result.

    Args:
      query, key, value: [B, N, D] each.

    Returns:
      [B, N, D], in their type.
    """
    precision = precision_of(query.dtype)

    def of(part):  # [B, M, D]
        scores = jnp.einsum(
            "bmd,bnd->bmn", part, key, precision=precision, preferred_element_type=jnp.float32
        )
        weights = jax.nn.softmax(scores * query.shape[-1] ** -0.5, axis=-1).astype(value.dtype)
        return jnp.einsum("bmn,bnd->bmd", weights, value, precision=precision)

    tokens = query.shape[1]
    size = max(1, SCORES // tokens)
    if size >= tokens:
        return of(query)
    return in_parts(of, query, size, axis=1)


def in_parts(function, x: jax.Array, size: int, axis: int = 0) -> Any:
    """Return function(x), computed in a loop over parts of x; the last one is filled with zeros.

    Args:
      function: maps arrays with `size` entries along the axis to arrays, or a tree of them, with
        equally many; no entry may depend on another.
      x: an array.
      size: entries at a time.
      axis: the axis that is divided.
    """
    count = x.shape[axis]
    x = jnp.moveaxis(x, axis, 0)
    x = jnp.pad(x, [(0, -count % size)] + [(0, 0)] * (x.ndim - 1))
    parts = x.reshape(-1, size, *x.shape[1:])

    def joined(y):
        y = jnp.moveaxis(y, axis + 1, 1)  # [parts, size, ...]
        return jnp.moveaxis(y.reshape(-1, *y.shape[2:])[:count], 0, axis)

    found = jax.lax.map(lambda part: function(jnp.moveaxis(part, 0, axis)), parts)
    return jax.tree.map(joined, found)


def doubled(x: jax.Array) -> jax.Array:
    """Repeat each pixel of [B, H, W, C] twice along both sides: [B, 2 H, 2 W, C]."""
    batch, height, width, channels = x.shape
    shape = (batch, height, 2, width, 2, channels)
    return jnp.broadcast_to(x[:, :, None, :, None], shape).reshape(
        batch, 2 * height, 2 * width, channels
    )
