"""Damaged examples, left out before training starts, so that an epoch has each of the others once.

Finding them means reading everything once. The result is kept in the user's cache, and holds for
unchanged files and the same version of Pillow. Only those that the system failed to read are tried
again.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL

from sg_jax.data import captions
from sg_jax.data import origin as origins
from sg_jax.data.checks import is_passing, place_of, unreadable
from sg_jax.errors import UserError
from sg_jax.runs import files
from sg_jax.runs.progress import Progress, log

SHOWN = 3  # damaged files that the log names
OFTEN = 5.0  # seconds between progress lines


@dataclasses.dataclass(frozen=True, eq=False)
class Without:
    """A source without some of its examples, as `data.sources.Source` describes it."""

    source: Any
    ids: np.ndarray  # the examples that are left

    whole = property(lambda self: getattr(self.source, "whole", self.source))
    name = property(lambda self: self.source.name)
    split = property(lambda self: self.source.split)
    num_classes = property(lambda self: self.source.num_classes)
    image_shape = property(lambda self: self.source.image_shape)
    class_names = property(lambda self: self.source.class_names)
    latents = property(lambda self: self.source.latents)
    posterior = property(lambda self: self.source.posterior)
    origin = property(lambda self: origins.of(self.source))
    described = property(lambda self: getattr(self.source, "described", None))  # of text features

    @property
    def captions(self) -> "captions.Captions | None":
        found = captions.of(self.source)
        return None if found is None else captions.Chosen(found, self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.source[int(self.ids[i])]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in (
            "file_of",
            "place",
            "identify",
            "worded",
            "texts",
            "label_of",
        ):  # not every source has them
            raise AttributeError(name)
        of_source = getattr(self.source, name)
        return lambda i, *more: of_source(int(self.ids[i]), *more)


@dataclasses.dataclass(frozen=True, eq=False)
class _Captions:
    """The captions of a source; reading a missing one is an error."""

    source: Any
    texts: "captions.Captions"

    split = property(lambda self: self.source.split)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[str, ...]:
        if not (found := self.texts[i]):
            raise UserError(f"example {i} has no caption")
        return found


class Damage(NamedTuple):
    """An example that cannot be read."""

    number: int
    why: str
    passing: bool  # see `checks.is_passing`


def find(
    source: Any,
    say: Callable[[str], object] = lambda line: None,
    what: str = "",
    numbers: Sequence[int] | None = None,
) -> list[Damage]:
    """Read the examples of a source, with progress; return those that cannot be read, and why.

    Args:
      source: as `data.sources.Source` describes it.
      say: called with a line for each that cannot be read.
      what: what is read of the examples, for the log, such as "captions of the ".
      numbers: which examples to read; all by default.
    """
    count = len(source) if numbers is None else len(numbers)
    log(f"Reading the {what}{count:,} examples of split {source.split!r} ...")
    progress = Progress(0, count, 1, unit="example")

    def tell(done: int) -> None:
        if time.perf_counter() - progress.time > OFTEN:
            progress.update(done)

    found = []
    for i, error in unreadable(source, tell, numbers=numbers):
        found.append(Damage(i, str(error), is_passing(error)))
        say(str(error))
    return found


def without_damaged(source: Any) -> Any:
    """Return a source without the examples that cannot be read, and log how many there are.

    Raises:
      UserError: none can be read.
    """
    read_by = f"Pillow {PIL.__version__}\n".encode()
    found = _damaged(source, read_by + source.version() if hasattr(source, "version") else None)
    return _without(source, found, "cannot be read") if found else source


def without_captions(source: Any) -> Any:
    """Return a source without the examples that have no caption, or none that can be read.

    Raises:
      UserError: none has a caption.
    """
    texts = captions.of(source)
    if texts is None:
        return source
    version = _version_of(texts)
    version = None if version is None else b"captions\n" + version
    found = _damaged(_Captions(source, texts), version, "captions of the ")
    return _without(source, found, "have no caption that can be read") if found else source


def _version_of(texts: Any) -> bytes | None:
    """Return bytes that change with captions, if the files of their images hold them."""
    if isinstance(texts, captions.Chosen):
        version = _version_of(texts.captions)
        return None if version is None else version + texts.ids.tobytes()
    return texts.version() if hasattr(texts, "version") else None


def _damaged(source: Any, version: bytes | None, what: str = "") -> list[int]:
    """Return the examples that cannot be read, as the cache says, or as found by reading all.

    Args:
      source: as for `find`.
      version: bytes that change with what is read; None: nothing is cached.
      what: as for `find`.
    """
    kept = None if version is None else _cache(version)
    damaged, again = _kept(kept, len(source)) or ([], range(len(source)))
    if again:
        tried = find(source, what=what, numbers=again)
        again = [each.number for each in tried if each.passing]
        damaged = sorted({*damaged, *(each.number for each in tried if not each.passing)})
        if kept:
            with contextlib.suppress(OSError):  # the cache is optional
                content = json.dumps({"damaged": damaged, "again": again})
                files.write_atomically(kept, content.encode())
    return sorted([*damaged, *again])


def _without(source: Any, found: list[int], why: str) -> Without:
    """Return a source without some examples, and log which; raise if none is left."""
    places = [place_of(source, i) or f"example {i}" for i in found[:SHOWN]]
    listed = ", ".join(places) + (", ..." if len(found) > SHOWN else "")
    if len(found) == len(source):
        raise UserError(
            f"config.data.damaged='skip' leaves nothing of split {source.split!r} of "
            f"{source.name!r}: all of its {len(source):,} examples {why} ({listed})."
        )
    log(
        f"Skipped {len(found):,} of the {len(source):,} examples of split {source.split!r}, which "
        f"{why} (config.data.damaged='skip'): {listed}."
    )
    return Without(source, np.delete(np.arange(len(source)), found))


def _cache(version: bytes) -> pathlib.Path | None:
    """Return the file that lists what is damaged; None for a user without a home."""
    key = hashlib.sha256(version).hexdigest()[:32]
    try:
        root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    except RuntimeError:  # a user without a home, as in some containers
        return None
    return root / "sg_jax" / "damaged" / f"{key}.json"


def _kept(path: pathlib.Path | None, count: int) -> tuple[list[int], Sequence[int]] | None:
    """Return which examples the cache lists as damaged and which to try again; None without it."""
    if path is None:
        return None
    try:
        said = json.loads(path.read_bytes())
        found = said["damaged"], said["again"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    fits = all(
        isinstance(each, list) and all(type(i) is int and 0 <= i < count for i in each)
        for each in found
    )
    return found if fits else None
