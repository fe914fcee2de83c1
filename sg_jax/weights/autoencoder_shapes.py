"""An autoencoder for a dry run: its weights if they are here, else the shapes of its family."""

import jax.numpy as jnp

from sg_jax.config.sections import Config
from sg_jax.data import origin as origins
from sg_jax.data.sources import Source
from sg_jax.encoders import kl
from sg_jax.encoders.autoencoder import Autoencoder
from sg_jax.errors import UserError
from sg_jax.models.layers import abstract
from sg_jax.runs import files
from sg_jax.weights import autoencoder_scales as scales
from sg_jax.weights import decoders

CHANNELS = (128, 256, 512, 512)  # of every published AutoencoderKL
WITHOUT_QUANT = ("SD3", "FLUX.1")


def find(config: Config, source: Source | None = None) -> Autoencoder:
    """Return the autoencoder of a config, perhaps with shapes in place of its weights.

    Nothing is downloaded: a hub id tells the family by its name.

    Args:
      config: its section `autoencoder` is used.
      source: a data set of latents, which may name its autoencoder.

    Raises:
      decoders.Missing: nothing names it, or neither it nor its family is known here.
      UserError: its weights are here, but cannot be loaded.
    """
    origin = origins.of(source)
    path = config.autoencoder.path or (origin.autoencoder if origin else "")
    if not path:
        raise decoders.Missing(f"No autoencoder is named: {decoders.REMEDY}.")
    if files.path(path).exists():
        return decoders.load(config, path)
    if path.startswith(("/", ".", "~")):
        raise UserError(f"config.autoencoder.path={path!r} does not exist: {decoders.REMEDY}.")
    known = scales.by_name([path])
    if known is None:
        raise decoders.Missing(
            f"The weights of {path} are not here, and its name is not one of "
            f"{', '.join(each.model for each in scales.KNOWN)}, so its sizes are not known."
        )
    return published(known, config.autoencoder.dtype)


def published(known: scales.Known, dtype: str) -> Autoencoder:
    """Return a published AutoencoderKL with shapes in place of its weights."""
    quant, levels = known.model not in WITHOUT_QUANT, len(CHANNELS)
    kind = jnp.dtype(dtype)
    down = kl.Half(CHANNELS, (2,) * levels, known.channels, quant=quant)
    up = kl.Half(CHANNELS[::-1], (3,) * levels, known.channels, quant=quant)
    return Autoencoder(
        abstract(lambda rngs: kl.Encoder(down, kind, rngs=rngs)),
        abstract(lambda rngs: kl.Decoder(up, kind, rngs=rngs)),
        name=f"{known.model}'s AutoencoderKL (known by its name; the weights are not here)",
        scale=known.scale,
        shift=known.shift,
        factor=2 ** (levels - 1),
        channels=known.channels,
    )
