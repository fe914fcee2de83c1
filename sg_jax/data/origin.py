"""Which autoencoder and which images a data set of latents was made from: a file in its folder."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from sg_jax.errors import UserError, is_number, is_text, is_whole, one_line
from sg_jax.runs import arrays, files

NAME = "autoencoder.json"  # in the folder of the data set


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


def write(folder: epath.Path, origin: Origin) -> None:
    """Write the file into the folder of a data set."""
    content = json.dumps(dataclasses.asdict(origin), indent=1)
    files.write_atomically(folder / NAME, content.encode())


def of(source: Any) -> Origin | None:
    """Return what a data set of latents says about itself, if anything."""
    return getattr(source, "origin", None)


def read(folder: Any) -> Origin | None:
    """Return what the file in a folder says; None if there is none.

    Raises:
      UserError: the file is damaged.
    """
    path = epath.Path(folder) / NAME
    try:
        found = json.loads(arrays.read_bytes(path))
        origin = Origin(**found | {name: tuple(found[name]) for name in ("mean", "std")})
        numbers = (origin.scale, origin.shift, *origin.mean, *origin.std)
        texts = (origin.autoencoder, origin.fingerprint)
        tables = (origin.images, origin.shards, *origin.shards.values())
        if not (
            all(isinstance(text, str) and is_text(text) for text in texts)
            and all(map(is_number, numbers))
            and is_whole(origin.factor)
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
