"""Turn latents into images and back, on all devices of a mesh, a few images at a time on each."""

import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sg_jax.encoders.autoencoder import Autoencoder
from sg_jax.errors import UserError, shown
from sg_jax.models.backbone import Backbone
from sg_jax.parallel import sharding
from sg_jax.runs.progress import log

Network = TypeVar("Network")

AT_ONCE = 8  # images that a device decodes at once


def check(autoencoder: Any, model: Backbone) -> None:
    """Raise unless an autoencoder decodes the samples of a network."""
    if not isinstance(autoencoder, Autoencoder):
        raise UserError(
            f"autoencoder={shown(autoencoder)} must be what sg_jax.load_autoencoder returns, or "
            "None."
        )
    if autoencoder.decoder is None:
        raise UserError(
            f"{autoencoder.name} has only the encoder, but samples have to be decoded: load the "
            "decoder too."
        )
    if autoencoder.channels != model.channels:
        raise UserError(
            f"The latents of {autoencoder.name} have {autoencoder.channels} channels, but samples "
            f"of this network have {model.channels}: give the autoencoder that it was trained with."
        )
    maker = model.named.maker
    if maker is None:
        return
    if differs := maker.difference(autoencoder):
        key, ours, theirs = differs
        remedy = f"load_autoencoder(..., scale={maker.scale}, shift={maker.shift})"
        raise UserError(
            f"{autoencoder.name} has the {key} {ours:g}, but the latents that this network was "
            f"trained on were made by {maker.name} with {theirs:g}: give that one"
            + ("." if key == "factor" else f", or sg_jax.{remedy}.")
        )
    tell_of_weights(autoencoder, maker)


def tell_of_weights(autoencoder: Autoencoder, maker: Any) -> None:
    """Log if other weights made the latents, but only once: hashing the weights takes long.

    Nothing is known of weights in bfloat16, because the maker's fingerprint is that of float32.
    """
    rounded = any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(autoencoder))
    if rounded or _compared.get(autoencoder) == maker:
        return
    _compared[autoencoder] = maker
    if autoencoder.fingerprint() != maker.fingerprint:
        log(f"The latents were made by {maker.name}; {autoencoder.name} decodes them.")


_compared: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # autoencoder -> last maker


def shape(model: Backbone, autoencoder: Autoencoder | None) -> tuple[int, int, int]:
    """Return H, W and C of a network's images, decoded if there is an autoencoder."""
    if autoencoder is None:
        return (model.image_size, model.image_size, model.channels)
    side = model.image_size * autoencoder.factor
    return (side, side, 3)


def place(network: Network, mesh: Mesh) -> Network:
    """Copy a network to all devices of a mesh; nothing moves if it is already there."""
    everywhere = NamedSharding(mesh, P())

    def put(x: jax.Array) -> jax.Array:
        if x.sharding.is_equivalent_to(everywhere, x.ndim):
            return x
        # Through NumPy if other processes hold copies of their own.
        return jax.device_put(x if everywhere.is_fully_addressable else np.asarray(x), everywhere)

    return jax.tree.map(put, network)


@functools.partial(jax.jit, static_argnames=("mesh", "chunk"))
def decode(
    autoencoder: Autoencoder, latents: jax.Array, *, mesh: Mesh | None = None, chunk: int = AT_ONCE
) -> jax.Array:
    """Return images [B, H, W, 3] in [-1, 1], apart from overshoot, from latents [B, h, w, C].

    Args:
      autoencoder: the decoder is used; with a mesh it is on all devices, see `place`.
      latents: with a mesh, split over its batch axes.
      mesh: the devices; None for one.
      chunk: latents that a device decodes at once.
    """
    return on_each(lambda ae, z: ae.decode(z, chunk), mesh)(autoencoder, latents)


@functools.partial(jax.jit, static_argnames=("mesh", "chunk", "mirror"))
def encode(
    autoencoder: Autoencoder,
    images: jax.Array,
    *,
    mesh: Mesh,
    chunk: int = AT_ONCE,
    mirror: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Return the mean and std of latents [B, 1 or 2, h, w, C], float32, of uint8 [B, H, W, 3].

    Args:
      autoencoder: the encoder is used.
      images: split over the batch axes of the mesh.
      mesh: the devices.
      chunk: images that a device encodes at once.
      mirror: whether the latents of the image mirrored left to right follow as second ones.
    """

    def run(ae: Autoencoder, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        floats = x.astype(jnp.float32) / 127.5 - 1
        seen = [floats, floats[:, :, ::-1]] if mirror else [floats]
        found = [ae.encode(each, chunk) for each in seen]
        mean, std = (jnp.stack(each, axis=1) for each in zip(*found, strict=True))
        return mean, std

    return on_each(run, mesh)(autoencoder, images)


def on_each(run: Callable, mesh: Mesh | None) -> Callable:
    """Let each device of a mesh run a function on its own part of a batch."""
    if mesh is None:
        return run
    batch = P(sharding.BATCH)
    return jax.shard_map(run, mesh=mesh, in_specs=(P(), batch), out_specs=batch, check_vma=False)
