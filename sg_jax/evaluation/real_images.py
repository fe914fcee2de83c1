"""Which real images generated ones are compared with."""

import dataclasses
import os
from typing import Any

from sg_jax.config import record
from sg_jax.config.sections import Config
from sg_jax.data import origin as origins
from sg_jax.data import prepare
from sg_jax.data.sources import Source, kind_of, open_source, options_of
from sg_jax.errors import UserError


def of_images(config: Config, source: Source, side: int) -> tuple[Config, Source]:
    """Return the given config and source or, for latents, those of the real images.

    These are the images that the latents were made from, or `config.evaluate.images`.

    Args:
      config: `config.data` is that of the latents.
      source: the training data.
      side: side of decoded images.

    Raises:
      UserError: nothing names the images, or they cannot be opened, or have another size; or the
        source has images, and others are named.
    """
    name = config.evaluate.images
    if not source.latents:
        if name:
            raise UserError(
                f"config.evaluate.images={name!r} has no effect: it names the real images of "
                f"latents, and config.data.name={source.name!r} has images itself. Leave it at '', "
                "or compare with other images by config.evaluate.reference."
            )
        return config, source
    origin = origins.of(source)
    if not name and origin is None:
        raise UserError(
            f"config.data.name={source.name!r} contains latents, but nothing says which images "
            "to compare the decoded ones with: name their data set in config.evaluate.images."
        )
    try:
        data = dataclasses.replace(config.data, **keys_of(config, origin, side))
        found = open_source(data.name, data.split, **options_of(data))
        if found.image_shape[2] == 1:  # decoded ones are in colour
            data = dataclasses.replace(data, channels=3)
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


def keys_of(config: Config, origin: origins.Origin | None, side: int) -> dict[str, Any]:
    """Return the keys of config.data for the real images of latents; {} if nothing names them.

    Args:
      config: `config.data` is that of the latents, in whose folder the images need not be.
      origin: what the latents say about themselves.
      side: side of decoded images.
    """
    if name := config.evaluate.images:
        folder = config.data.data_dir
        if not prepare.is_prepared(name, folder) and prepare.is_prepared(name, ""):
            folder = ""  # TFDS's own
        return dict(name=name, data_dir=folder, image_size=side, classes=_classes(name, origin))
    return dict(origin.images) if origin else {}


def _classes(name: str, origin: origins.Origin | None) -> str:
    """Return the file that names the classes of the latents, if it can name those of `name`.

    It may have moved along with the images, into their folder.
    """
    recorded = str(origin.images.get("classes", "")) if origin else ""
    if not recorded or "classes" not in kind_of(name).options:
        return ""
    moved = os.path.join(os.path.expanduser(name), os.path.basename(recorded))
    return next((path for path in (recorded, moved) if os.path.exists(path)), "")


def check_classes(source: Source, real: Source) -> None:
    """Raise if real images number their classes otherwise than the latents.

    Classes without names, which are called by their numbers, are not compared.

    Args:
      source: the latents.
      real: the images, as `of_images` returns them.
    """
    ours, theirs = ([name.strip() for name in each.class_names] for each in (source, real))
    if ours == theirs or any(names == [*map(str, range(len(names)))] for names in (ours, theirs)):
        return
    pairs = enumerate(zip(ours, theirs, strict=False))
    differs = (f"class {i} is {new!r} instead of {own!r}" for i, (own, new) in pairs if new != own)
    words = next(differs, f"{len(theirs)} classes instead of {len(ours)}")
    raise UserError(
        f"The accuracy needs real images whose classes are those of the latents, but those of "
        f"{real.name!r} differ from config.data.name={source.name!r}: {words}. Name other images "
        "in config.evaluate.images, or metrics without accuracy in config.evaluate.metrics."
    )


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
