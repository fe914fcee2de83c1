"""Images to latents and back: what all autoencoders have in common.

    autoencoder = sg_jax.load_autoencoder("stabilityai/sd-vae-ft-ema")
    mean, std = autoencoder.encode(images)  # images [B, H, W, 3] in [-1, 1]
    images = autoencoder.decode(mean)

Latents here are always the scaled ones that diffusion networks see: (z - shift) * scale, for the z
that the network itself returns.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sg_jax.encoders.convolutions import in_parts
from sg_jax.encoders.judges import as_array, hashed
from sg_jax.encoders.tiles import in_tiles
from sg_jax.errors import UserError, is_whole, plain, shown

SMALLEST_TILE = 8  # pixels of latents
FARTHEST = 8.0  # of an image's values from 0; decoded ones overshoot [-1, 1], but not this far


class Autoencoder(nnx.Module):
    """An encoder and a decoder, and how their latents are scaled.

    Args:
      encoder: maps images [B, H, W, 3] to the mean and the std of z, [B, h, w, channels] each; or
        None.
      decoder: maps z to images; or None.
      name: what the weights were loaded from.
      scale, shift: latent = (z - shift) * scale.
      factor: image pixels along a side of a latent's pixel.
      channels: of a latent.
    """

    def __init__(
        self,
        encoder: Any,
        decoder: Any,
        *,
        name: str,
        scale: float,
        shift: float,
        factor: int,
        channels: int,
    ):
        self.encoder, self.decoder, self.name = encoder, decoder, name
        self.scale, self.shift, self.factor, self.channels = scale, shift, factor, channels

    def encode(
        self, images: Any, chunk: int | None = None, tile: int | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return the mean and the standard deviation of the images' latents.

        It is compiled once for each shape. Tiny autoencoders have a std of 0.

        Args:
          images: floats [B, H, W, 3] in [-1, 1]; both sides are multiples of `factor`.
          chunk: images at a time, if all of them would need too much memory.
          tile: side in pixels of the parts that are encoded one after another, if one image would
            need too much memory; the result is only close to that of whole images.

        Returns:
          Two float32 arrays [B, H / factor, W / factor, channels] of scaled latents.

        Raises:
          UserError: the images have the wrong shape, type or range, or there is no encoder.
        """
        images = self._checked("images", images, 3, self.factor, self.encoder)
        if isinstance(images, np.ndarray) and images.size:
            if not (far := np.abs(images).max()) <= FARTHEST:
                raise UserError(
                    f"images must be in [-1, 1], but a value is {far:g} away from 0: convert uint8 "
                    "images by x / 127.5 - 1."
                )
        parts = _whole("chunk", chunk), self._tile(tile)
        return _encode(self.encoder, images, self.scale, self.shift, self.factor, *parts)

    def decode(self, latents: Any, chunk: int | None = None, tile: int | None = None) -> jax.Array:
        """Return the images of latents.

        Args:
          latents: floats [B, h, w, channels], scaled.
          chunk, tile: as in `encode`; a tile's side is in pixels of the images.

        Returns:
          Float32 [B, h * factor, w * factor, 3] in [-1, 1], except for overshoot: clip them.

        Raises:
          UserError: the latents have the wrong shape or type, or there is no decoder.
        """
        latents = self._checked("latents", latents, self.channels, 1, self.decoder)
        parts = _whole("chunk", chunk), self._tile(tile)
        return _decode(self.decoder, latents, self.scale, self.shift, self.factor, *parts)

    def fingerprint(self) -> str:
        """Return a hash of all weights and of the scale: 16 hexadecimal digits."""
        return hashed((self.scale, self.shift, self.factor), (self.encoder, self.decoder))

    def _tile(self, tile: Any) -> int | None:
        """Return the side of a tile in pixels of latents."""
        if (tile := _whole("tile", tile)) is None:
            return None
        if tile % self.factor or tile < SMALLEST_TILE * self.factor:
            raise UserError(
                f"tile={tile} must be a multiple of {self.factor}, the autoencoder's factor, and "
                f"at least {SMALLEST_TILE * self.factor} pixels."
            )
        return tile // self.factor

    def _checked(self, what: str, x: Any, channels: int, factor: int, network: Any) -> Any:
        """Return an array as float32, as a NumPy array unless it was a JAX array."""
        if network is None:
            half, other = ("encoder", "decoder") if what == "images" else ("decoder", "encoder")
            raise UserError(
                f"{self.name} has only the {other}: load the {half} too, by giving the folder "
                "that has both files."
            )
        array = as_array(what, x)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            how = ": convert uint8 images by x / 127.5 - 1" if what == "images" else ""
            raise UserError(f"{what} must be floats, not {array.dtype}{how}.")
        sides = array.shape[1:3]
        if array.ndim != 4 or array.shape[-1] != channels or not all(sides):
            raise UserError(f"{what} must be [B, H, W, {channels}], not {array.shape}.")
        if any(side % factor for side in sides):
            raise UserError(
                f"{what} have sides {sides[0]} and {sides[1]}, but both must be multiples of "
                f"{factor}, the autoencoder's factor: crop or resize them."
            )
        return array.astype(jnp.float32)


def _whole(name: str, value: Any) -> Any:
    value = plain(value)
    if value is not None and not (is_whole(value) and value > 0):
        raise UserError(f"{name}={shown(value)} must be a positive whole number, or None.")
    return value


@functools.partial(jax.jit, static_argnames=("factor", "chunk", "tile"))
def _encode(encoder, images, scale, shift, factor=1, chunk=None, tile=None):
    def tiled(x):
        return in_tiles(encoder, x, tile * factor, down=factor)

    mean, std = _chunked(tiled if tile else encoder, images, chunk)
    return (mean - shift) * scale, std * scale


@functools.partial(jax.jit, static_argnames=("factor", "chunk", "tile"))
def _decode(decoder, latents, scale, shift, factor=1, chunk=None, tile=None):
    def tiled(x):
        return in_tiles(decoder, x, tile, up=factor)

    return _chunked(tiled if tile else decoder, latents / scale + shift, chunk)


def _chunked(network, x, chunk):
    if not len(x):  # then nothing is computed, but shapes are found
        found = network(jnp.zeros((1, *x.shape[1:]), x.dtype))
        return jax.tree.map(lambda y: y[:0], found)
    return network(x) if chunk is None or chunk >= len(x) else in_parts(network, x, chunk)
