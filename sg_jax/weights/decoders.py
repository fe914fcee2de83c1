"""The autoencoder that a run's latents belong to: what the config says, or the data set itself."""

from typing import Any

import numpy as np

from sg_jax.config.sections import Config
from sg_jax.data import origin as origins
from sg_jax.data.origin import Maker
from sg_jax.encoders.autoencoder import Autoencoder
from sg_jax.errors import UserError
from sg_jax.programs import decoding
from sg_jax.runs import files
from sg_jax.weights import autoencoder_scales as scales
from sg_jax.weights.autoencoders import load_autoencoder

REMEDY = (
    "give the autoencoder in config.autoencoder.path: a file, a folder, or a hub id such as "
    "stabilityai/sd-vae-ft-ema"
)


class Missing(UserError):
    """Report that latents cannot be decoded until the user gives an autoencoder."""


def is_known(config: Config, source: Any) -> bool:
    """Return whether something names the autoencoder of a source's latents."""
    return bool(config.autoencoder.path) or origins.of(source) is not None


def load(config: Config, path: str = "", dtype: str = "") -> Autoencoder:
    """Load an autoencoder as `config.autoencoder` says.

    Args:
      config: its section is used.
      path: where it is; by default `config.autoencoder.path`.
      dtype: the type that it computes in; by default `config.autoencoder.dtype`.
    """
    section = config.autoencoder
    given: dict[str, Any] = dict(dtype=dtype or section.dtype)
    if section.scale:
        given |= dict(scale=section.scale, shift=section.shift)
    return load_autoencoder(path or section.path, **given)


def of_latents(config: Config, source: Any) -> Autoencoder:
    """Return the autoencoder that decodes a source's latents.

    Raises:
      Missing: nothing names it, or only the record of a run does, or the data set names a file
        that is not there.
      UserError: it cannot be read, or is not the one that made the latents.
    """
    origin, maker, said = origins.of(source), origins.maker_of(source), config.autoencoder.path
    if said:
        found = load(config, dtype="float32")  # as fingerprints are
        _check(found, maker, source, "config.autoencoder.path")
        return found if config.autoencoder.dtype == "float32" else load(config)
    if maker is None:
        raise Missing(
            f"config.data.name={source.name!r} contains latents, but nothing says what decodes "
            f"them: {REMEDY}."
        )
    made = f"The latents of config.data.name={source.name!r} were made by {maker.name}"
    if origin is None:  # the record of a run has a name, but not where the autoencoder is
        raise Missing(f"{made} ({maker.fingerprint}): {_remedy(maker)}.")
    if maker.name.startswith("/") and not files.path(maker.name).exists():
        raise Missing(f"{made}, which is not there: {_remedy(maker)}.")
    options = dict(scale=maker.scale, shift=maker.shift)
    found = load_autoencoder(maker.name, **options)
    if found.fingerprint() != maker.fingerprint:
        raise UserError(
            f"{made}, whose weights have changed since ({found.fingerprint()}, not "
            f"{maker.fingerprint}): {REMEDY}."
        )
    if config.autoencoder.dtype != "float32":
        found = load_autoencoder(maker.name, **options, dtype=config.autoencoder.dtype)
    _check(found, maker, source, "The data set's autoencoder")
    return found


def _remedy(maker: Maker) -> str:
    """Return what to give, with the scale and the shift unless the name tells them."""
    known = scales.by_name([maker.name])
    told = (known.scale, known.shift) if known else (1.0, 0.0)
    if np.allclose(told, (maker.scale, maker.shift)):
        return REMEDY
    return f"{REMEDY}; and set config.autoencoder.scale={maker.scale} and shift={maker.shift}"


def _check(found: Autoencoder, maker: Maker | None, source: Any, what: str) -> None:
    """Raise if an autoencoder cannot have made a source's latents; log if it has other weights."""
    channels = source.image_shape[2]
    if found.channels != channels:
        raise UserError(
            f"{what}={found.name!r} has latents of {found.channels} channels, but those of "
            f"config.data.name={source.name!r} have {channels}: {REMEDY}."
        )
    if maker is None:
        return
    if differs := maker.difference(found):
        key, ours, theirs = differs
        remedy = f"set config.autoencoder.scale={maker.scale} and shift={maker.shift}"
        raise UserError(
            f"{what}={found.name!r} has the {key} {ours:g}, but the latents of "
            f"config.data.name={source.name!r} were made with {theirs:g}: "
            f"{REMEDY if key == 'factor' else remedy}."
        )
    if what.startswith("config"):
        decoding.tell_of_weights(found, maker)
