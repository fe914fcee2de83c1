"""The captions of images: in files next to them or in a column, and read only when asked for.

    captions.jsonl or metadata.jsonl   {"file_name": "a/1.png", "caption": "a dog"} in each line;
                                       names are relative to its folder, and one of `KEYS` holds a
                                       text or a list of texts; an image may have several lines
    a/1.txt next to a/1.png            a caption in each line; used if there is no such table

An image may have no caption, one or several. Training on classes ignores them; latents keep them.
"""

import dataclasses
import json
import operator
import posixpath
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from sg_jax.data.checks import not_read
from sg_jax.data.containers import Files, composed, readable
from sg_jax.errors import UserError, one_line, shown

KEYS = ("captions", "caption", "texts", "text", "prompt")  # of columns; the first present is used
TABLES = ("captions.jsonl", "metadata.jsonl")
NAMES = ("file_name", "file", "image", "path")
LONGEST = 100_000  # characters of a caption


class Captions(Protocol):
    """The captions of the examples of a source, by number; it can be pickled.

    `version()` may return bytes that change with them, so that missing ones are looked for once.
    """

    def __getitem__(self, i: int, /) -> tuple[str, ...]: ...


def of(source: Any) -> Captions | None:
    """Return the captions of a source, if it has some; see `data.sources.Source`."""
    return getattr(source, "captions", None)


def in_memory(captions: Captions | None) -> bool:
    """Return whether captions are in memory, so that looking at all of them is quick."""
    if isinstance(captions, Chosen):
        return in_memory(captions.captions)
    return isinstance(captions, _Tabled)


def texts(found: Any) -> tuple[str, ...]:
    """Return the text or texts that a column holds as captions, without empty ones.

    Raises:
      UserError: it holds something else, or a caption is far too long.
    """
    if isinstance(found, Mapping):  # a mapping of lists, as TFDS returns sequences
        found = next((found[key] for key in KEYS if key in found), None)
    several = [] if found is None else [found] if isinstance(found, str | bytes) else _listed(found)
    result = []
    for value in several:
        if isinstance(value, Mapping):
            value = next((value[key] for key in KEYS if key in value), value)
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8-sig")
            except UnicodeDecodeError:
                raise UserError(f"a caption is not in UTF-8: {value[:40]!r}") from None
        if not isinstance(value, str):
            raise UserError(f"a caption is {shown(value)}, which is not text")
        try:
            value.encode()
        except UnicodeEncodeError as cause:
            raise UserError(f"a caption has half a character ({one_line(cause)})") from None
        if len(value) > LONGEST:
            raise UserError(f"a caption has {len(value):,} characters, more than {LONGEST:,}")
        if value := value.strip():
            result.append(value)
    return tuple(result)


def _listed(found: Any) -> list:
    if isinstance(found, list | tuple | np.ndarray):
        return list(found)
    raise UserError(f"its captions are {shown(found)}, which is neither text nor a list of texts")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The captions of some examples of a source."""

    captions: Captions
    ids: np.ndarray

    def __getitem__(self, i: int) -> tuple[str, ...]:
        return self.captions[int(self.ids[i])]


@dataclasses.dataclass(frozen=True)
class _Tabled:
    """Captions from tables, by the path of an image."""

    names: Sequence[str]
    by_path: Mapping[str, tuple[str, ...]]  # the paths are `composed`

    def __getitem__(self, i: int) -> tuple[str, ...]:
        return self.by_path.get(composed(self.names[operator.index(i)]), ())


@dataclasses.dataclass(frozen=True)
class _Beside:
    """Captions from a text file next to each image."""

    files: Files

    def __getitem__(self, i: int) -> tuple[str, ...]:
        path = _stem(self.files.names[operator.index(i)]) + ".txt"
        if path not in self.files.beside:
            return ()
        try:
            return texts(self.files.read_beside(path).splitlines())
        except (OSError, UserError) as cause:
            what = f"The captions in {readable(path)}"
            raise not_read(what, cause, "mend or remove the file") from cause


def of_files(files: Files, name: str) -> tuple[Captions | None, int, Collection[str]]:
    """Find the captions of image files.

    Args:
      files: the images.
      name: config.data.name, for messages.

    Returns:
      The captions by image number, or None if there are none; how many images have captions; and
      the paths of the files that hold them.

    Raises:
      UserError: a table cannot be read.
    """
    by_path: dict[str, tuple[str, ...]] = {}
    tables = sorted(path for path in files.beside if posixpath.basename(path) in TABLES)
    used = [path for path in tables if _read(files, path, name, by_path)]
    if used:
        count = sum(bool(by_path.get(composed(path))) for path in files.names)
        if not count:
            raise UserError(
                f"config.data.name={name!r}: {readable(used[0])} has captions, but for none of the "
                f"images, such as {shown(readable(files.names[0]))}; it names "
                f"{shown(next(iter(by_path), 'none'))}. Names must be relative to its folder."
            )
        return _Tabled(files.names, by_path), count, used
    found = [path for image in files.names if (path := f"{_stem(image)}.txt") in files.beside]
    return (_Beside(files), len(found), found) if found else (None, 0, ())


def _stem(path: str) -> str:
    return posixpath.splitext(path)[0]


def _read(files: Files, path: str, name: str, into: dict[str, tuple[str, ...]]) -> bool:
    """Read a table; return whether it has captions, because it may be about something else."""
    folder, any_key = posixpath.dirname(path), False
    try:
        lines = files.read_beside(path).splitlines()
    except (OSError, UserError) as cause:
        raise _wrong(name, path, one_line(cause)) from cause
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise UserError("it is not an object with names")
            if not (keys := [key for key in KEYS if key in row]):
                continue
            any_key = True
            image = next((row[key] for key in NAMES if key in row), None)
            if not isinstance(image, str):
                raise UserError(f"it has no {NAMES[0]!r}")
            named = composed(posixpath.normpath(posixpath.join(folder, image)))
            both = (*into.get(named, ()), *texts(row[keys[0]]))
            into[named] = tuple(dict.fromkeys(both))
        except (ValueError, RecursionError, UserError) as cause:
            raise _wrong(name, path, f"line {number}: {one_line(cause)}") from None
    return any_key


def _wrong(name: str, path: str, why: str) -> UserError:
    return UserError(
        f"config.data.name={name!r}: {readable(path)} cannot be read ({why}): each line must be "
        f'like {{"{NAMES[0]}": "a/1.png", "caption": "a dog"}}. Mend or remove it.'
    )
