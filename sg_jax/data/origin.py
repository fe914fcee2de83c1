"""Which autoencoder and which images a data set of latents was made from: a file in its folder."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from sg_jax.encoders import tae
from sg_jax.errors import UserError, is_number, is_text, is_whole, one_line
from sg_jax.runs import arrays, files

NAME = "autoencoder.json"  # in the folder of the data set
ENTRY = "autoencoder"  # in what a run records about its data


@dataclasses.dataclass(frozen=True)
class Maker:
    """The autoencoder that made latents.

    Attributes:
      name: its file, folder or hub id; in the record of a run only the last part of a path.
      fingerprint, scale, shift, factor, tiny: see `Origin`.
    """

    name: str
    fingerprint: str
    scale: float
    shift: float
    factor: int
    tiny: bool = False

    def is_sound(self) -> bool:
        """Return whether all values have their types."""
        texts, numbers = (self.name, self.fingerprint), (self.scale, self.shift)
        sound = all(isinstance(text, str) and is_text(text) for text in texts)
        sound = sound and all(map(is_number, numbers)) and is_whole(self.factor)
        return sound and isinstance(self.tiny, bool)

    def difference(self, autoencoder: Any) -> tuple[str, float, float] | None:
        """Return the name of what differs, an autoencoder's value and the maker's; None if none.

        A tiny autoencoder and the one that it was distilled from have the same scaled latents, so
        the former's scale of 1 says nothing.
        """
        tiny = isinstance(autoencoder.decoder, tae.Decoder)
        other = autoencoder if tiny else self  # the tiny one, if only one of both is
        says_nothing = tiny != self.tiny and (other.scale, other.shift) == (1, 0)
        for name in ("factor",) if says_nothing else ("factor", "scale", "shift"):
            theirs, own = getattr(autoencoder, name), getattr(self, name)
            if not np.isclose(theirs, own):
                return name, theirs, own
        return None

    def record(self) -> dict[str, Any]:
        """Return what a run records, without the folder of a local file."""
        is_path = self.name.startswith(("/", ".", "~")) or "://" in self.name
        name = pathlib.PurePath(self.name).name if is_path else self.name
        return dataclasses.asdict(self) | {"name": name}


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a data set of latents says about itself.

    Attributes:
      autoencoder: its file, folder or hub id.
      fingerprint: of its weights in float32; see `Autoencoder.fingerprint`.
      scale, shift: latent = (z - shift) * scale; they are applied already.
      factor: image pixels along a side of a latent's pixel.
      mean, std: of each channel, over all latents.
      images: arguments of `data.sources.open_source` that open the images.
      shards: number of examples, bytes and SHA-256 of each file.
      tiny: whether it is one of the tiny autoencoders; older files do not say.
    """

    autoencoder: str
    fingerprint: str
    scale: float
    shift: float
    factor: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: Mapping[str, Any]
    shards: Mapping[str, Mapping[str, Any]]
    tiny: bool = False

    @property
    def maker(self) -> Maker:
        """The autoencoder."""
        numbers = self.scale, self.shift, self.factor
        return Maker(self.autoencoder, self.fingerprint, *numbers, self.tiny)


def write(folder: epath.Path, origin: Origin) -> None:
    """Write the file into the folder of a data set."""
    content = json.dumps(dataclasses.asdict(origin), indent=1)
    files.write_atomically(folder / NAME, content.encode())


def of(source: Any) -> Origin | None:
    """Return what a data set of latents says about itself, if anything."""
    return getattr(source, "origin", None)


def maker_of(source: Any) -> Maker | None:
    """Return what made the latents of a source, if it, or the record of its run, says so."""
    origin = of(source)
    return origin.maker if origin is not None else getattr(source, "maker", None)


def from_record(entry: Any, where: Any) -> Maker:
    """Return the autoencoder that a run records.

    Args:
      entry: what `Maker.record` returned.
      where: the file that it was read from.

    Raises:
      UserError: it is not that of an autoencoder.
    """
    try:
        entry = {"tiny": False, **entry}  # which older records do not say
        found = Maker(**{field.name: entry[field.name] for field in dataclasses.fields(Maker)})
        if not found.is_sound():
            raise ValueError("a value is of another type")
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{where} does not say what made the latents ({one_line(error)}): remove its entry "
            f"{ENTRY!r}, and give the autoencoder with config.autoencoder.path."
        ) from None
    return found


def read(folder: Any) -> Origin | None:
    """Return what the file in a folder says; None if there is none.

    Raises:
      UserError: the file is damaged.
    """
    path = epath.Path(folder) / NAME
    try:
        found = json.loads(arrays.read_bytes(path))
        origin = Origin(**found | {name: tuple(found[name]) for name in ("mean", "std")})
        tables = (origin.images, origin.shards, *origin.shards.values())
        if not (
            origin.maker.is_sound()
            and all(map(is_number, (*origin.mean, *origin.std)))
            and all(isinstance(table, dict) for table in tables)
        ):
            raise ValueError("a value is of another type")
    except FileNotFoundError:
        return None
    except Exception as error:  # damaged files raise many kinds of errors
        raise UserError(
            f"{path} cannot be read ({one_line(error)}), so it is not known what made these "
            "latents: copy the data set again; or remove that file, and give the autoencoder "
            "with config.autoencoder.path."
        ) from None
    return origin
