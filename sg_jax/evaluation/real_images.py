"""Which real images generated ones are compared with."""

import dataclasses
import os
from typing import Any

from sg_jax.config import record
from sg_jax.config.sections import Config
from sg_jax.data import origin as origins
from sg_jax.data.sources import Source, open_source, options_of
from sg_jax.errors import UserError


def of_images(config: Config, source: Source, side: int) -> tuple[Config, Source]:
    """Return the given config and source or, for latents, those of the real images.

    These are the images that the latents were made from, or `config.evaluate.images`.

    Args:
      config: `config.data` is that of the latents.
      source: the training data.
      side: side of decoded images.

    Raises:
      UserError: nothing names the images, or they cannot be opened, or have another size.
    """
    if not source.latents:
        return config, source
    origin, name = origins.of(source), config.evaluate.images
    if not name and origin is None:
        raise UserError(
            f"config.data.name={source.name!r} contains latents, but nothing says which images "
            "to compare the decoded ones with: name their data set in config.evaluate.images."
        )
    options: dict[str, Any] = dict(origin.images if origin and not name else {})
    if name:
        options = dict(name=name, image_size=side)
    try:
        data = dataclasses.replace(config.data, **options)
        found = open_source(data.name, data.split, **options_of(data))
    except (UserError, TypeError) as error:  # TypeError: a file that was changed by hand
        raise UserError(
            f"The real images that decoded latents are compared with cannot be opened: {error} "
            "Set config.evaluate.images to the name of their data set."
        ) from None
    if found.image_shape != (side, side, 3):
        raise UserError(
            f"The images of {data.name!r} are {found.image_shape}, but decoded latents are "
            f"({side}, {side}, 3): name others in config.evaluate.images."
        )
    return dataclasses.replace(config, data=data), found


def unlike_run(config: Config, source: Source, workdir: str | os.PathLike) -> str:
    """Return in words which real images these are, or "" if the run itself names them.

    A classifier's digest says this already, because it is trained on the same data.
    """
    if not record.is_run(workdir):
        return ""
    saved, _ = record.read(workdir)
    (name, split), own = _named(config, source), _named(saved, source)
    words = [name] if name != own[0] else []
    words += [f"split {split}"] if split != own[1] else []
    return ", ".join(words)


def _named(config: Config, source: Source) -> tuple[str, str]:
    """Return which images a config names for its latents, "" if none, and which split."""
    if not source.latents:
        return "", config.data.split
    name, origin = config.evaluate.images, origins.of(source)
    images = origin.images if origin and not name else {}
    return name or images.get("name", ""), images.get("split", config.data.split)
