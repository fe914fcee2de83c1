"""The autoencoder that a run's latents belong to: what the config says, or the data set itself."""

from typing import Any

import numpy as np

from sg_jax.config.sections import Config
from sg_jax.data import origin as origins
from sg_jax.data.origin import Origin
from sg_jax.encoders.autoencoder import Autoencoder
from sg_jax.errors import UserError
from sg_jax.runs import files
from sg_jax.runs.progress import log
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


def load(config: Config, path: str = "") -> Autoencoder:
    """Load an autoencoder as `config.autoencoder` says.

    Args:
      config: its section is used.
      path: where it is; by default `config.autoencoder.path`.
    """
    section = config.autoencoder
    given: dict[str, Any] = dict(dtype=section.dtype)
    if section.scale:
        given |= dict(scale=section.scale, shift=section.shift)
    return load_autoencoder(path or section.path, **given)


def of_latents(config: Config, source: Any) -> Autoencoder:
    """Return the autoencoder that decodes a source's latents.

    Raises:
      Missing: nothing names it, or the data set names a file that is not there.
      UserError: it cannot be read, or is not the one that made the latents.
    """
    origin, said = origins.of(source), config.autoencoder.path
    if not is_known(config, source):
        raise Missing(
            f"config.data.name={source.name!r} contains latents, but nothing says what decodes "
            f"them: {REMEDY}."
        )
    if said or origin is None:
        found = load(config)
        _check(found, origin, source, "config.autoencoder.path")
        return found
    name = origin.autoencoder
    if name.startswith("/") and not files.path(name).exists():
        raise Missing(
            f"The latents of config.data.name={source.name!r} were made by {name}, which is not "
            f"there: {REMEDY}."
        )
    options = dict(scale=origin.scale, shift=origin.shift)
    found = load_autoencoder(name, **options)
    if found.fingerprint() != origin.fingerprint:
        raise UserError(
            f"The latents of config.data.name={source.name!r} were made by {name}, whose weights "
            f"have changed since ({found.fingerprint()}, not {origin.fingerprint}): {REMEDY}."
        )
    if config.autoencoder.dtype != "float32":
        found = load_autoencoder(name, **options, dtype=config.autoencoder.dtype)
    _check(found, origin, source, "The data set's autoencoder")
    return found


def _check(found: Autoencoder, origin: Origin | None, source: Any, what: str) -> None:
    """Raise if an autoencoder cannot have made a source's latents; log if it has other weights."""
    channels = source.image_shape[2]
    if found.channels != channels:
        raise UserError(
            f"{what}={found.name!r} has latents of {found.channels} channels, but those of "
            f"config.data.name={source.name!r} have {channels}: {REMEDY}."
        )
    if origin is None:
        return
    for key in ("factor", "scale", "shift"):
        ours, theirs = getattr(found, key), getattr(origin, key)
        if not np.isclose(ours, theirs):
            remedy = f"set config.autoencoder.scale={origin.scale} and shift={origin.shift}"
            raise UserError(
                f"{what}={found.name!r} has the {key} {ours:g}, but the latents of "
                f"config.data.name={source.name!r} were made with {theirs:g}: "
                f"{REMEDY if key == 'factor' else remedy}."
            )
    if what.startswith("config") and found.fingerprint() != origin.fingerprint:
        log(f"The latents were made by {origin.autoencoder}; {found.name} decodes them.")
