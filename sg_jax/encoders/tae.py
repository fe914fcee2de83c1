"""The tiny autoencoders (TAE): distilled from those of SD, SDXL, SD3, FLUX.1 and FLUX.2.

A row of convolutions and blocks; github.com/madebyollin/taesd. Their latents come out scaled, and
have no variance.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.encoders.convolutions import Conv, GroupNorm, doubled

POOL_GROUPS = 4
POOL_EPSILON = 1e-5
REACH = 3.0  # latents are squashed to below this before they are decoded


@dataclasses.dataclass(frozen=True)
class Piece:
    """A layer of the row.

    Args:
      inputs: channels in.
      outputs: channels out.
      block: whether it is a residual block; otherwise it is a convolution.
      resample: whether it is a convolution that changes the side, and so has no bias.
      pool: whether it is a block with a normed branch before it, as in FLUX.2's.
    """

    inputs: int
    outputs: int
    block: bool = False
    resample: bool = False
    pool: bool = False


class Pool(nnx.Module):
    """A branch of two 1x1 convolutions with a norm between them."""

    def __init__(self, width: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.into = Conv(width, 4 * width, 1, dtype, bias=False, rngs=rngs)
        self.norm = GroupNorm(4 * width, POOL_GROUPS, epsilon=POOL_EPSILON)
        self.out = Conv(4 * width, width, 1, dtype, bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, H, W, width] to the same shape."""
        return x + self.out(nnx.relu(self.norm(self.into(x))))


class Block(nnx.Module):
    """Three 3x3 convolutions with a shortcut."""

    def __init__(self, piece: Piece, dtype: jnp.dtype, rngs: nnx.Rngs):
        widths = (piece.inputs, piece.outputs, piece.outputs)
        self.convs = nnx.List([Conv(w, piece.outputs, 3, dtype, rngs=rngs) for w in widths])
        same = piece.inputs == piece.outputs
        self.shortcut: Any = (
            None if same else Conv(piece.inputs, piece.outputs, 1, dtype, bias=False, rngs=rngs)
        )
        self.pool: Any = Pool(piece.inputs, dtype, rngs) if piece.pool else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, H, W, inputs] to [B, H, W, outputs]."""
        x = x if self.pool is None else self.pool(x)
        h = self.convs[1](nnx.relu(self.convs[0](x)))
        h = self.convs[2](nnx.relu(h))
        return nnx.relu(h + (x if self.shortcut is None else self.shortcut(x)))


class Encoder(nnx.Module):
    """Images -> latents, as mean and std.

    Args:
      pieces: the row.
      dtype: compute type.
      rngs: key for the initial weights.
    """

    def __init__(self, pieces: tuple[Piece, ...], dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.layers = _layers(pieces, dtype, rngs, stride=2)

    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map images [B, H, W, 3] in [-1, 1] to latents [B, h, w, C], and to zeros as their std."""
        h = (images + 1) / 2
        for layer in self.layers:
            h = layer(h)
        return h, jnp.zeros_like(h)


class Decoder(nnx.Module):
    """Latents -> images.

    Args:
      pieces: the row.
      dtype: compute type.
      rngs: key for the initial weights.
    """

    def __init__(self, pieces: tuple[Piece, ...], dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.resamples = tuple(piece.resample for piece in pieces)
        self.layers = _layers(pieces, dtype, rngs, stride=1)

    def __call__(self, latents: jax.Array) -> jax.Array:
        """Map latents [B, h, w, C] to images [B, H, W, 3], in [-1, 1] except for overshoot."""
        first, *others = self.layers
        h = nnx.relu(first(REACH * jnp.tanh(latents / REACH)))
        for layer, resample in zip(others, self.resamples[1:], strict=True):
            h = layer(doubled(h) if resample else h)
        return h * 2 - 1


def _layers(pieces: tuple[Piece, ...], dtype: jnp.dtype, rngs: nnx.Rngs, stride: int) -> nnx.List:
    def make(i: int, piece: Piece) -> Block | Conv:
        if piece.block:
            return Block(piece, dtype, rngs)
        return Conv(
            piece.inputs, piece.outputs, 3, dtype, stride=stride if piece.resample else 1,
            bias=not piece.resample, wide=i == len(pieces) - 1, rngs=rngs,
        )  # fmt: skip

    return nnx.List([make(i, piece) for i, piece in enumerate(pieces)])
