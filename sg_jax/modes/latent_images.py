"""The images that `--mode latents` encodes: whether they fit, and how they are opened again."""

from typing import Any

from sg_jax.config.sections import Config
from sg_jax.data import class_file
from sg_jax.data.sources import Source, kind_of, options_of
from sg_jax.encoders import tae
from sg_jax.encoders.autoencoder import Autoencoder
from sg_jax.errors import UserError
from sg_jax.runs import files
from sg_jax.runs.progress import log


def check_stored(source: Source) -> None:
    """Raise unless the images of a source can be stored as they are."""
    if source.latents:
        raise UserError(
            f"config.data.name={source.name!r} contains latents, but text features are stored "
            "with images or while encoding them: give the images, and config.autoencoder.path."
        )


def check_images(source: Source, autoencoder: Autoencoder) -> None:
    """Raise unless an autoencoder encodes the images of a source."""
    height, width, channels = source.image_shape
    name = f"config.data.name={source.name!r}"
    if source.latents:
        raise UserError(f"{name} already contains latents: give images to encode.")
    if autoencoder.encoder is None:
        raise UserError(f"{autoencoder.name} has only the decoder: load the encoder too.")
    if channels not in (1, 3):
        raise UserError(f"{name} has images with {channels} channels; they must have 1 or 3.")
    if height != width or height % autoencoder.factor:
        raise UserError(
            f"config.data.image_size: the images of {name} are {height}x{width}, but they must be "
            f"square, with a side that is a multiple of {autoencoder.factor}, the autoencoder's "
            "factor. Set config.data.image_size, such as 256."
        )


def made_by(config: Config, plain: Autoencoder) -> dict[str, Any]:
    """Return what a data set of latents records about its autoencoder and its images."""
    path = config.autoencoder.path
    return dict(
        autoencoder=str(files.absolute(path)) if files.path(path).exists() else path,
        fingerprint=plain.fingerprint(),
        scale=plain.scale,
        shift=plain.shift,
        factor=plain.factor,
        tiny=isinstance(plain.encoder, tae.Encoder),
        images=_images_of(config),
    )


def _images_of(config: Config) -> dict[str, Any]:
    """Return how the images are opened again, from any folder."""
    data = config.data
    name = kind_of(data.name).absolute(data.name)
    found = dict(name=name, split=data.split, **options_of(data))
    if data.data_dir:
        found["data_dir"] = str(files.absolute(data.data_dir))
    if data.classes:
        found["classes"] = str(files.absolute(class_file.find(data.classes, data.name)))
    return found


def names(source: Source) -> Any:
    """Return the names of the classes, or their number if they cannot be stored."""
    names = source.class_names
    if len(set(names)) < len(names) or any(not n.strip() or len(n.splitlines()) > 1 for n in names):
        log("The class names are not stored: some are duplicates, empty or longer than one line.")
        return len(names)
    return names
