"""The Inception network of FID, sFID and the Inception score (Szegedy et al., arXiv 1512.00567).

It is the one that TensorFlow published in December 2015, with 1008 logits, and that ADM's evaluator
and torch-fidelity use. It differs from torchvision's: average pools do not count the padding around
the image, and the last block takes a maximum where the one before it averages.

    network = sg_jax.load_encoder("inception", "pt_inception-2015-12-05-6726825d.pth")
    found = network(images)  # uint8 [B, H, W, 3], of any size
    found["pool"]  # [B, 2048]

Norms are folded into the convolutions before them. In each block, the 1x1 convolutions that read
its input are merged into one. A pool's convolution is among them: averaging pixels and mixing
channels can be swapped, and the pool then has fewer channels.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sg_jax.encoders import judges
from sg_jax.encoders.convolutions import Conv
from sg_jax.encoders.inception_plan import (
    MIXED,
    POOL,
    SPATIAL_BLOCK,
    STEM,
    UNPADDED,
    Layer,
    Mixed,
    outputs,
)
from sg_jax.encoders.resizing import bilinear_tf1
from sg_jax.models.layers import abstract

SIDE = 299  # of the images that it sees
FEATURES, LOGITS = 2048, 1008
SPATIAL = 7  # channels of the features for sFID


class Unit(nnx.Module):
    """Convolutions of the same input, side by side, each with its norm folded in.

    Args:
      names: their published names.
      inputs: channels in.
      layers: of equal sides and strides.
      dtype: what the factors are rounded to.
      padding: as in `Conv`.
      rngs: key for the initial weights.
    """

    def __init__(
        self,
        names: Sequence[str],
        inputs: int,
        layers: Sequence[Layer],
        dtype: jnp.dtype,
        *,
        rngs: nnx.Rngs,
        padding: tuple[int, int] | None = None,
    ):
        self.names, self.widths = tuple(names), tuple(layer.outputs for layer in layers)
        like = layers[0]
        if like.stride > 1:
            padding = (0, 0)
        self.conv = Conv(
            inputs, sum(self.widths), (like.height, like.width), dtype,
            stride=like.stride, padding=padding, rngs=rngs,
        )  # fmt: skip

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, H, W, inputs] to [B, H', W', all outputs], before the ReLU."""
        return self.conv(x)


class Block(nnx.Module):
    """A block of branches; see `Mixed`."""

    def __init__(self, name: str, inputs: int, mixed: Mixed, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.branches, self.halves = tuple(mixed.branches), mixed.halves
        firsts = {
            branch: layers[0]
            for branch, layers in mixed.branches.items()
            if isinstance(layers[0], Layer)
            and (layers[0].height, layers[0].stride) == (1, 1)
            and (branch != POOL or mixed.average)
        }
        names = [
            f"{name}.{branch}" + ("_1" if len(mixed.branches[branch]) > 1 else "")
            for branch in firsts
        ]
        self.entered = tuple(firsts)
        self.entry = Unit(names, inputs, list(firsts.values()), dtype, rngs=rngs)
        self.chains: Any = nnx.List([])
        for branch, layers in mixed.branches.items():
            chain: Any = nnx.List([])
            width = inputs
            for i, step in enumerate(layers):
                pair = (step,) if isinstance(step, Layer) else step
                number = f"_{i + 1}" if len(layers) > 1 else ""
                if i or branch not in firsts:
                    chain.append(
                        nnx.List([
                            Unit(
                                [f"{name}.{branch}{number}{layer.end}"], width, [layer], dtype,
                                rngs=rngs,
                            )
                            for layer in pair
                        ])
                    )  # fmt: skip
                width = sum(layer.outputs for layer in pair)
            self.chains.append(chain)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, H, W, inputs] to [B, H', W', outputs]."""
        cuts = np.cumsum(self.entry.widths)[:-1]
        entered = dict(zip(self.entered, jnp.split(self.entry(x), cuts, axis=-1), strict=True))
        found = []
        for branch, chain in zip(self.branches, self.chains, strict=True):
            if branch in entered:
                y = entered[branch]
                y = nnx.relu(averaged(y) if branch == POOL else y)
            else:
                y = largest(x, stride=1) if branch == POOL else x
            for units in chain:
                y = nnx.relu(jnp.concatenate([unit(y) for unit in units], axis=-1))
            found.append(y)
        if self.halves:
            found.append(largest(x))
        return jnp.concatenate(found, axis=-1)


class Inception(judges.Judge):
    """Images -> features and logits.

    Args:
      name: what the weights were loaded from.
      dtype: what the factors of products are rounded to.
      rngs: key for the initial weights.
    """

    def __init__(self, name: str, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        super().__init__(name)
        self.stem: Any = nnx.List([])
        width = 3
        for layer_name, layer in STEM.items():
            padding = (0, 1) if layer_name in UNPADDED else None
            unit = Unit([layer_name], width, [layer], dtype, padding=padding, rngs=rngs)
            self.stem.append(unit)
            width = layer.outputs
        self.blocks: Any = nnx.List([])
        for block_name, mixed in MIXED.items():
            self.blocks.append(Block(block_name, width, mixed, dtype, rngs))
            width = outputs(mixed, width)
        self.kernel = nnx.Param(jnp.zeros((FEATURES, LOGITS)))
        self.bias = nnx.Param(jnp.zeros((LOGITS,)))

    def __call__(self, images: jax.typing.ArrayLike) -> dict[str, jax.Array]:
        """Return the features of images.

        Args:
          images: uint8 [B, H, W, 3] or, for grey ones, [B, H, W, 1]. They are resized to 299x299 as
            TensorFlow 1 did; see `resizing.bilinear_tf1`.

        Returns:
          Float32 arrays by name: "pool" [B, 2048], for FID; "spatial" [B, 17, 17, 7], for sFID;
          "logits" and, without their bias, "logits_unbiased" [B, 1008], for the Inception score.

        Raises:
          UserError: the images have the wrong type or shape.
        """
        return _features(self, judges.pictures(images))


@jax.jit
def _features(network: Inception, images: jax.Array) -> dict[str, jax.Array]:
    x = (bilinear_tf1(images, SIDE) - 128) / 128
    first, second, third, fourth, fifth = network.stem
    x = nnx.relu(first(x))  # [B, 149, 149, 32]
    x = nnx.relu(second(x)[:, :-1, :-1])  # [B, 147, 147, 32]; see `UNPADDED`
    x = largest(nnx.relu(third(x)))  # [B, 73, 73, 64]
    x = nnx.relu(fourth(x))
    x = largest(nnx.relu(fifth(x))[:, :-1, :-1])  # [B, 35, 35, 192]
    spatial = x
    for name, block in zip(MIXED, network.blocks, strict=True):
        x = block(x)
        spatial = x[..., :SPATIAL] if name == SPATIAL_BLOCK else spatial
    pool = x.astype(jnp.float32).mean((1, 2))  # [B, 2048]
    unbiased = jnp.einsum("bf,fl->bl", pool, network.kernel[...], precision="highest")
    return {
        "pool": pool,
        "spatial": spatial.astype(jnp.float32),
        "logits": unbiased + network.bias[...][None],
        "logits_unbiased": unbiased,
    }


def largest(x: jax.Array, stride: int = 2) -> jax.Array:
    """Return the maxima of 3x3 pixels: with stride 2 within the image, with 1 also at its edge."""
    edge = (1, 1) if stride == 1 else (0, 0)
    return jax.lax.reduce_window(
        x, jnp.array(-jnp.inf, x.dtype), jax.lax.max, (1, 3, 3, 1), (1, stride, stride, 1),
        ((0, 0), edge, edge, (0, 0)),
    )  # fmt: skip


def averaged(x: jax.Array) -> jax.Array:
    """Return the mean of the 3x3 pixels around each pixel of [B, H, W, C], within the image."""
    counts = [np.convolve(np.ones(n), np.ones(3), mode="same") for n in x.shape[1:3]]
    share = (1 / np.outer(*counts)).astype(np.float32)[None, :, :, None]
    wide = x.astype(jnp.float32)
    for axis in (1, 2):
        edge, size = [(0, 0)] * 4, x.shape[axis]
        edge[axis] = (1, 1)
        padded = jnp.pad(wide, edge)
        before, here, after = (
            jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3)
        )
        wide = before + here + after
    return (wide * share).astype(x.dtype)


@functools.lru_cache(maxsize=4)
def of_shapes(name: str, dtype: jnp.dtype) -> Inception:
    """Return a network with shapes in place of weights."""
    return abstract(lambda rngs: Inception(name, dtype, rngs=rngs))
