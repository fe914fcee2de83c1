"""The autoencoder of latent diffusion (AutoencoderKL): SD, SDXL, SD3, FLUX.1.

Levels of residual blocks, with sides halved or doubled between them, and one attention in the
middle, at the smallest side. Rombach et al., arXiv 2112.10752.
"""

import dataclasses
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.encoders.convolutions import Attention, Conv, GroupNorm, doubled

LOGVAR = (-30.0, 20.0)  # what log variances are clipped to


@dataclasses.dataclass(frozen=True)
class Half:
    """The sizes of an encoder or a decoder, in the order of its layers.

    Args:
      channels: of each level; between two levels, sides are halved or doubled.
      blocks: residual blocks of each level.
      latents: channels of a latent.
      images: channels of an image.
      attention: whether there is one in the middle.
      quant: whether there is a 1x1 convolution next to the latent.
      groups: of the norms.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    latents: int
    images: int = 3
    attention: bool = True
    quant: bool = True
    groups: int = 32


class ResidualBlock(nnx.Module):
    """Two 3x3 convolutions, each after its norm, with a shortcut."""

    def __init__(self, inputs: int, outputs: int, groups: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.norm1 = GroupNorm(inputs, groups)
        self.conv1 = Conv(inputs, outputs, 3, dtype, rngs=rngs)
        self.norm2 = GroupNorm(outputs, groups)
        self.conv2 = Conv(outputs, outputs, 3, dtype, rngs=rngs)
        same = inputs == outputs
        self.shortcut: Any = None if same else Conv(inputs, outputs, 1, dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, H, W, inputs] to [B, H, W, outputs]."""
        h = self.conv1(nnx.silu(self.norm1(x)))
        h = self.conv2(nnx.silu(self.norm2(h)))
        return h + (x if self.shortcut is None else self.shortcut(x))


class Level(nnx.Module):
    """Residual blocks at one side, and the convolution to the next side, if there is one."""

    def __init__(self, blocks: list[ResidualBlock], sample: Conv | None):
        self.blocks = nnx.List(blocks)
        self.sample: Any = sample

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the blocks to [B, H, W, inputs]."""
        for block in self.blocks:
            x = block(x)
        return x


class Encoder(nnx.Module):
    """Images -> the mean and the standard deviation of a latent.

    Args:
      half: the sizes.
      dtype: compute type.
      rngs: key for the initial weights.
    """

    def __init__(self, half: Half, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        last, moments = half.channels[-1], 2 * half.latents
        self.first = Conv(half.images, half.channels[0], 3, dtype, rngs=rngs)
        self.levels = _levels(half, half.channels[0], dtype, rngs, stride=2, padding=(0, 1))
        self.middle, self.attention = _middle(last, half, dtype, rngs)
        self.norm = GroupNorm(last, half.groups)
        self.last = Conv(last, moments, 3, dtype, wide=True, rngs=rngs)
        self.quant = _quant(moments, half, rngs)

    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map images [B, H, W, 3] in [-1, 1] to mean and std of unscaled latents."""
        h = self.first(images)
        for level in self.levels:
            h = level(h)
            h = h if level.sample is None else level.sample(h)
        h = _through(self, h)
        h = self.last(nnx.silu(self.norm(h)))
        h = h if self.quant is None else self.quant(h)
        mean, logvar = jnp.split(h, 2, axis=-1)
        return mean, jnp.exp(0.5 * jnp.clip(logvar, *LOGVAR))


class Decoder(nnx.Module):
    """Unscaled latents -> images.

    Args:
      half: the sizes.
      dtype: compute type.
      rngs: key for the initial weights.
    """

    def __init__(self, half: Half, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        first, *_, last = half.channels
        self.quant = _quant(half.latents, half, rngs)
        self.first = Conv(half.latents, first, 3, dtype, rngs=rngs)
        self.middle, self.attention = _middle(first, half, dtype, rngs)
        self.levels = _levels(half, first, dtype, rngs)
        self.norm = GroupNorm(last, half.groups)
        self.last = Conv(last, half.images, 3, dtype, wide=True, rngs=rngs)

    def __call__(self, latents: jax.Array) -> jax.Array:
        """Map latents [B, h, w, C] to images [B, H, W, 3], in [-1, 1] except for overshoot."""
        h = latents if self.quant is None else self.quant(latents)
        h = _through(self, self.first(h))
        for level in self.levels:
            h = level(h)
            h = h if level.sample is None else level.sample(doubled(h))
        return self.last(nnx.silu(self.norm(h)))


def _levels(half: Half, inputs: int, dtype: jnp.dtype, rngs: nnx.Rngs, **sampling) -> nnx.List:
    """Return the levels; all but the last end with a convolution with these settings."""
    levels, top = [], len(half.channels) - 1
    for i, (width, count) in enumerate(zip(half.channels, half.blocks, strict=True)):
        widths = [inputs] + [width] * count
        blocks = [ResidualBlock(*two, half.groups, dtype, rngs) for two in pairwise(widths)]
        sample = Conv(width, width, 3, dtype, rngs=rngs, **sampling) if i < top else None
        levels.append(Level(blocks, sample))
        inputs = width
    return nnx.List(levels)


def _quant(width: int, half: Half, rngs: nnx.Rngs) -> Conv | None:
    return Conv(width, width, 1, jnp.dtype("float32"), rngs=rngs) if half.quant else None


def _middle(width: int, half: Half, dtype: jnp.dtype, rngs: nnx.Rngs) -> tuple[nnx.List, Any]:
    blocks = [ResidualBlock(width, width, half.groups, dtype, rngs) for _ in range(2)]
    attention = Attention(width, half.groups, dtype, rngs=rngs) if half.attention else None
    return nnx.List(blocks), attention


def _through(network: Encoder | Decoder, h: jax.Array) -> jax.Array:
    """Apply the middle of a network."""
    h = network.middle[0](h)
    h = h if network.attention is None else network.attention(h)
    return network.middle[1](h)
