"""How much data a data set has, for a dry run: counted if it is here, otherwise as published.

Nothing is downloaded, prepared or written.
"""

import contextlib
import dataclasses
import os
import re
from typing import Any

from sg_jax.data import hf_source, pictures, prepare, splits, web_shards
from sg_jax.data.sources import Source, open_source
from sg_jax.runs import files

# Examples of each split, by TFDS's name; for ILSVRC2012 also the bytes of its two .tar files.
PUBLISHED = {
    "imagenet2012": {"train": 1_281_167, "validation": 50_000},
    "cifar10": {"train": 50_000, "test": 10_000},
    "cifar100": {"train": 50_000, "test": 10_000},
    "mnist": {"train": 60_000, "test": 10_000},
    "fashion_mnist": {"train": 60_000, "test": 10_000},
    "digits": {"train": 1_501, "test": 296},
}
BYTES = {"imagenet2012": {"train": 147_897_477_120, "validation": 6_744_924_160}}


@dataclasses.dataclass(frozen=True)
class Expected:
    """A split of a data set.

    Attributes:
      name, split: as in config.data.
      examples: their number; 0 if it is not known.
      size: bytes of the files with the examples; 0 if they are not known.
      source: the data, if they are here.
    """

    name: str
    split: str
    examples: int = 0
    size: int = 0
    source: Source | None = None

    @property
    def here(self) -> bool:
        """Whether the data are on this machine."""
        return self.source is not None


def look(name: str, split: str, data_dir: str = "", **options: Any) -> Expected:
    """Return what is known about a split.

    Args:
      name, split, data_dir, options: see `sources.open_source`.

    Raises:
      UserError: the data are here, but cannot be opened.
    """
    if is_here(name, data_dir):
        reading = {**options, "damaged": "stop", "tried": False}
        source = open_source(name, split, data_dir, **reading)
        return Expected(name, split, len(source), _size(source), source)
    known = re.split("[/:]", name)[0]
    counts = PUBLISHED.get(known)
    if counts is None:
        return Expected(name, split)
    parts = splits.select(name, split, counts)
    sizes = BYTES.get(known, {})
    shares = [sizes.get(part, 0) * len(ids) / counts[part] for part, ids in parts]
    return Expected(name, split, sum(len(ids) for _, ids in parts), round(sum(shares)))


def is_here(name: str, data_dir: str = "") -> bool:
    """Return whether a data set is on this machine, so that opening it writes nothing."""
    if hf_source.claims(name):
        return hf_source.on_disk(name)
    if web_shards.claims(name):
        return web_shards.is_here(name)
    if pictures.claims(name):
        return files.path(name).exists()
    return prepare.is_prepared(name, data_dir)


def _size(source: Any) -> int:
    """Return the bytes of the files that hold a source's examples; 0 if they are not known."""
    paths = getattr(source, "files", ())
    if not isinstance(paths, tuple):
        return 0
    with contextlib.suppress(OSError):
        return sum(os.path.getsize(path) for path in set(paths))
    return 0
