"""Where image files are: a folder, a .zip or a .tar. They are listed once, and read in any order.

Nothing is extracted, and nothing outside is read: links that lead out of a folder are not followed,
and names in archives are treated only as names. Files that are left out are counted.

To add a kind of place, write a class with the members of `Files`, and create it in
`data.pictures`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import stat
import time
import unicodedata
from collections.abc import Collection
from typing import Protocol

import numpy as np

from sg_jax.errors import UserError, nearest, one_line, shown

# Files that hold an image, by the endings of their names.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .bmp .dib .webp .tif .tiff .ppm .pgm .pbm .pnm .pfm"
    " .avif .avifs .jp2 .j2k .jpx".split()
)
TABLE = "dataset.json"  # a file that gives the labels; see `data.layout`
TOLD = (TABLE, ".jsonl", ".txt")  # endings of files that may describe images; see `data.captions`
MOST_OTHERS = 20_000  # with more files of other kinds, a folder with few images is refused
MOST_BYTES = 2**29  # of an image file
RECENT = 2 * 10**9  # nanoseconds in which a file system may give two changes the same time


class Files(Protocol):
    """The image files in one place, by number, in the order of their names.

    Several threads and processes read them at the same time, so the object can be pickled.
    """

    @property
    def names(self) -> list[str]:
        """Sorted paths of the images, from the top of the place and with "/"."""

    @property
    def beside(self) -> Collection[str]:
        """Paths of the other files that may describe the images."""

    @property
    def left_out(self) -> "LeftOut":
        """What else is there but is not used."""

    def read(self, i: int) -> bytes:
        """Return the contents of image `i`; raise an OSError or a UserError with the reason."""

    def read_beside(self, path: str) -> bytes:
        """Return the contents of a file in `beside`; raise the same errors as `read`."""

    def place(self, i: int) -> str:
        """Return where image `i` is, for messages."""

    def version(self, ids: np.ndarray) -> bytes:
        """Return bytes that change with these images."""


class LeftOut(dict[str, list[str]]):
    """What is left out: the first few paths by reason, and the number of all in `counts`."""

    SHOWN = 3

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def add(self, reason: str, path: str) -> None:
        """Count a path."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        examples = self.setdefault(reason, [])
        if len(examples) < self.SHOWN:
            examples.append(path)

    def text(self) -> str:
        """Return all of it in one line, such as "other files: 2 (a.txt, b.txt)"."""
        parts = []
        for reason, examples in self.items():
            count = self.counts[reason]
            more = ", ..." if count > len(examples) else ""
            listed = ", ".join(readable(path) for path in examples)
            parts.append(f"{reason}: {count:,} ({listed}{more})")
        return "; ".join(parts)


NO_IMAGES = "other files"
HIDDEN = "hidden files"
LINKS = "links to folders or elsewhere, not followed"
OUTSIDE = "names that lead out of the archive"


def readable(path: str) -> str:
    """Return a path as text that can be printed, whatever its bytes are."""
    return os.fsencode(path).decode("utf-8", "replace").replace("\n", "?")


def composed(path: str) -> str:
    """Return a path with composed letters; a Mac may write "é" as "e" and an accent."""
    return unicodedata.normalize("NFC", path)


def kind_of(path: str) -> str:
    """Return "" for an image, judged by its path, or the reason to leave it out."""
    parts = path.split("/")
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return HIDDEN
    return "" if os.path.splitext(parts[-1])[1].lower() in SUFFIXES else NO_IMAGES


@dataclasses.dataclass(frozen=True, eq=False)
class Folder:
    """Image files in a folder and its subfolders, as `Files` describes them."""

    root: str
    names: list[str]
    beside: frozenset[str]
    left_out: LeftOut

    def read(self, i: int) -> bytes:
        return read_file(os.path.join(self.root, self.names[i]))

    def read_beside(self, path: str) -> bytes:
        return read_file(os.path.join(self.root, path))

    def place(self, i: int) -> str:
        return readable(os.path.join(self.root, self.names[i]))

    def version(self, ids: np.ndarray) -> bytes:
        return _version(self, np.asarray(ids, np.int64).tobytes())


@functools.lru_cache(maxsize=4)  # of a million files it takes seconds on a local disk
def _version(folder: Folder, ids: bytes) -> bytes:
    found = hashlib.sha256()
    for i in np.frombuffer(ids, np.int64):
        path = os.path.join(folder.root, folder.names[i])
        with contextlib.suppress(OSError):
            status = os.stat(path)
            path += f"\n{status.st_size} {status.st_mtime_ns}"
        found.update(os.fsencode(f"{path}\n"))
    return found.digest()


_listed: dict[str, tuple[Folder, dict[str, int]]] = {}  # the last ones, with `_changed` of each


def scan(root: pathlib.Path) -> Folder:
    """List the images in a folder; a million on a local disk take seconds, on others minutes.

    So it returns the same object again until a folder in it changes, as that of another split.
    Links to files in the folder are followed. Links that lead out of it and links to folders are
    not.

    Raises:
      UserError: a folder in it cannot be read, or nearly all of its many files are not images.
    """
    top, began = os.path.realpath(root), time.time_ns()
    known, times = _listed.pop(top, (None, {}))
    if known is not None and all(_changed(top, folder) == times[folder] for folder in times):
        _listed[top] = known, times
        return known
    times = {}
    names: list[str] = []
    beside: set[str] = set()
    left_out = LeftOut()
    waiting = [""]  # folders, by their path with a "/" at the end
    while waiting:
        folder = waiting.pop()
        times[folder] = _changed(top, folder)
        try:
            with os.scandir(os.path.join(top, folder)) as entries:
                for entry in entries:
                    path = folder + entry.name
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        left_out.add(HIDDEN, path)
                    elif entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{path}/")
                    elif entry.is_symlink() and not _leads_inside(entry, top):
                        left_out.add(LINKS, path)
                    elif (reason := kind_of(entry.name)) or not entry.is_file():
                        if entry.name.endswith(TOLD) and entry.is_file():
                            beside.add(path)
                        else:
                            left_out.add(reason or NO_IMAGES, path)
                    else:
                        names.append(path)
        except OSError as cause:
            raise UserError(
                f"{readable(os.path.join(top, folder))} cannot be read ({one_line(cause)}): let "
                "this user read it, or move it elsewhere."
            ) from cause
        others = sum(left_out.counts.values()) + len(beside) - len(names)
        if others > MOST_OTHERS and others > 10 * len(names):
            raise UserError(
                f"{readable(top)} has more than {MOST_OTHERS:,} other files, and only "
                f"{len(names):,} images among those listed so far: give the folder of the images."
            )
    names.sort()
    found = Folder(top, names, frozenset(beside), left_out)
    if max(times.values()) < began - RECENT:
        _listed[top] = found, times
        while len(_listed) > 2:
            del _listed[next(iter(_listed))]
    return found


def _changed(top: str, folder: str) -> int:
    """Return when an entry of a folder was last added, removed or renamed; 0 if it is gone."""
    try:
        return os.stat(os.path.join(top, folder)).st_mtime_ns
    except OSError:
        return 0


def read_file(path: str) -> bytes:
    """Return the contents of an image file; raise an OSError or a UserError with the reason."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # such as a pipe, which waits for a writer
        raise UserError("it is not a regular file")
    if status.st_size > MOST_BYTES:
        raise UserError(f"it has more than {MOST_BYTES:,} bytes")
    with open(path, "rb") as file:
        return file.read()


def _leads_inside(entry: os.DirEntry, top: str) -> bool:
    """Return whether a link leads to a file in the folder `top`."""
    target = os.path.realpath(entry.path)
    return target.startswith(os.path.join(top, "")) and os.path.isfile(target)


def missing(path: pathlib.Path) -> str:
    """Return a message that nothing is at a path, with the nearest name that is there."""
    above = next(parent for parent in path.parents if parent.exists())
    try:
        hint = nearest(path.name, os.listdir(above)) if above == path.parent else ""
    except OSError:
        hint = ""
    return f"There is no such folder or archive: {shown(readable(str(above)))} has none.{hint}"
