"""Images to latents and back: what all autoencoders have in common.

    autoencoder = sg_jax.load_autoencoder("stabilityai/sd-vae-ft-ema")
    mean, std = autoencoder.encode(images)  # images [B, H, W, 3] in [-1, 1]
    images = autoencoder.decode(mean)

Latents here are always the scaled ones that diffusion networks see: (z - shift) * scale, for the z
that the network itself returns.
"""

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sg_jax.encoders.convolutions import in_parts
from sg_jax.errors import UserError, is_whole, shown

FARTHEST = 8.0  # of an image's values from 0; decoded ones overshoot [-1, 1], but not as far


class Autoencoder(nnx.Module):
    """An encoder and a decoder, and how their latents are scaled.

    Args:
      encoder: maps images [B, H, W, 3] to the mean and the std of z, [B, h, w, channels] each; or
        None.
      decoder: maps z to images; or None.
      name: what the weights were loaded from.
      scale, shift: latent = (z - shift) * scale.
      factor: pixels along a side of a latent's pixel.
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

    def encode(self, images: Any, chunk: int | None = None) -> tuple[jax.Array, jax.Array]:
        """Return the mean and the standard deviation of the images' latents.

        It is compiled once for each shape. Tiny autoencoders have a std of 0.

        Args:
          images: floats [B, H, W, 3] in [-1, 1]; both sides are multiples of `factor`.
          chunk: images at a time, where all of them would need too much memory.

        Returns:
          Two float32 arrays [B, H / factor, W / factor, channels] of scaled latents.

        Raises:
          UserError: the images have another shape, type or range, or there is no encoder.
        """
        images = self._checked("images", images, 3, self.factor, self.encoder)
        if isinstance(images, np.ndarray) and images.size:
            if not (far := np.abs(images).max()) <= FARTHEST:
                raise UserError(
                    f"images must be in [-1, 1], but a value is {far:g} away from 0: convert uint8 "
                    "images by x / 127.5 - 1."
                )
        return _encode(self.encoder, images, self.scale, self.shift, _chunk(chunk))

    def decode(self, latents: Any, chunk: int | None = None) -> jax.Array:
        """Return the images of latents.

        Args:
          latents: floats [B, h, w, channels], scaled.
          chunk: latents at a time, where all of them would need too much memory.

        Returns:
          Float32 [B, h * factor, w * factor, 3] in [-1, 1], but for overshoot: clip them.

        Raises:
          UserError: the latents have another shape or type, or there is no decoder.
        """
        latents = self._checked("latents", latents, self.channels, 1, self.decoder)
        return _decode(self.decoder, latents, self.scale, self.shift, _chunk(chunk))

    def fingerprint(self) -> str:
        """Return a hash of all weights and of the scale: 16 hexadecimal digits."""
        found = hashlib.sha256(repr((self.scale, self.shift, self.factor)).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path((self.encoder, self.decoder)):
            array = np.asarray(leaf)
            found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
            found.update(array.tobytes())
        return found.hexdigest()[:16]

    def _checked(self, what: str, x: Any, channels: int, factor: int, network: Any) -> Any:
        """Return an array as float32, of NumPy if it was no array of JAX."""
        if network is None:
            half, other = ("encoder", "decoder") if what == "images" else ("decoder", "encoder")
            raise UserError(
                f"{self.name} has only the {other}: load the {half} too, by giving the folder "
                "that has both files."
            )
        array = x if isinstance(x, jax.Array) else _array(what, x)
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


def _array(what: str, x: Any) -> np.ndarray:
    try:
        return np.asarray(x)
    except Exception:  # of lists of different lengths, and of whatever else it is
        raise UserError(f"{what} must be one array, not {shown(x)}.") from None


def _chunk(chunk: Any) -> int | None:
    if chunk is not None and not (is_whole(chunk) and chunk > 0):
        raise UserError(f"chunk={shown(chunk)} must be a positive whole number, or None.")
    return chunk


@functools.partial(jax.jit, static_argnames="chunk")
def _encode(encoder, images, scale, shift, chunk):
    mean, std = _chunked(encoder, images, chunk)
    return (mean - shift) * scale, std * scale


@functools.partial(jax.jit, static_argnames="chunk")
def _decode(decoder, latents, scale, shift, chunk):
    return _chunked(decoder, latents / scale + shift, chunk)


def _chunked(network, x, chunk):
    return network(x) if chunk is None or chunk >= len(x) else in_parts(network, x, chunk)
