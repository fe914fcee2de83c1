"""Folders and archives of image files as data sets; `data.layout` says how they are arranged."""

import contextlib
import copy
import dataclasses
import functools
import os
import pathlib
from collections.abc import Collection

import numpy as np
from etils import epath

from sg_jax.data import archives, class_file, layout
from sg_jax.data.captions import Captions, Chosen, of_files
from sg_jax.data.containers import (
    NO_IMAGES,
    SUFFIXES,
    TABLE,
    Files,
    Folder,
    missing,
    readable,
    scan,
)
from sg_jax.data.encoded import Encoded, with_shape
from sg_jax.data.images import WHITE
from sg_jax.data.prepare import FEATURES, NAME, folder_hint
from sg_jax.errors import UserError, one_line, shown
from sg_jax.runs import files as paths
from sg_jax.runs.progress import log

KEY = "config.data.name"
_HF = "give hf:{} if it is a data set of Hugging Face"
OTHERS = {  # what to give instead of a folder of such files
    ".tar": "give one of its .tar files, or wds:{} if these are WebDataset's",
    ".parquet": _HF,
    ".arrow": _HF,
}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PictureSource(Encoded):
    """A split of a folder or an archive of images."""

    files: Files = dataclasses.field(repr=False)
    ids: np.ndarray = dataclasses.field(repr=False)  # numbers in `files`
    labels: np.ndarray = dataclasses.field(repr=False)
    captions: Captions | None = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, i: int) -> tuple[bytes, int]:
        return self.files.read(int(self.ids[i])), int(self.labels[i])

    def label_of(self, i: int) -> int:
        return int(self.labels[i])

    def place(self, i: int) -> str:
        return self.files.place(int(self.ids[i]))

    file_of = place  # an example is a file of its own

    def version(self) -> bytes:
        """Return bytes that change with the images, and with how they are read."""
        look = (self.split, self.image_shape, self.image_size)
        return repr(look).encode() + self.files.version(self.ids)


def claims(name: str) -> bool:
    """Return whether a name is a path, by how it begins or ends or because the path exists."""
    if not name.strip() or "\0" in name or len(name) > 4096:
        return False
    if name[0] in "/.~" or "://" in name or name.lower().endswith(archives.SUFFIXES):
        return True
    if not ("/" in name or "." in name) or not os.path.exists(name):
        return False
    # NAME/CONFIG may be a data set that is prepared in this folder.
    return not (NAME.fullmatch(name) and any(pathlib.Path(name).glob(f"*/{FEATURES}")))


def open_pictures(
    name: str,
    split: str,
    data_dir: str | None = None,
    image_size: int | None = None,
    *,
    channels: int = 0,
    background: tuple[int, int, int] = WHITE,
    classes: str = "",
) -> PictureSource:
    """Open one split; see `data.sources.open_source`."""
    files = files_at(name)
    stamps = _stamps(files, name, classes)
    read = _read(files, name, classes, stamps)  # type: ignore[arg-type]  # it has an identity
    arranged, (captions, captioned, told) = read
    ids, labels = arranged.select(name, split)
    _tell(name, files, arranged, captioned, told)
    source = PictureSource(
        name=name,
        split=split,
        class_names=arranged.class_names,
        image_size=image_size,
        background=background,
        image_shape=(0, 0, 0),
        files=files,
        ids=ids,
        labels=labels,
        captions=None if captions is None else Chosen(captions, ids),
    )
    return with_shape(source, channels)


@functools.lru_cache(maxsize=2)
def _read(
    files: Files, name: str, classes: str, stamps: tuple
) -> tuple[layout.Layout, tuple[Captions | None, int, Collection[str]]]:
    """Return the layout and the captions of images, whose `stamps` show changes.

    Millions of images take a minute, and commands open several splits.
    """
    return layout.arrange(files, name, classes), of_files(files, name)


def _stamps(files: Files, name: str, classes: str) -> tuple:
    """Return values that change with the files that describe images in a folder."""
    found: list[tuple] = []

    def look(path: str | os.PathLike) -> None:
        status = os.stat(path)
        found.append((path, status.st_ino, status.st_size, status.st_mtime_ns))

    if isinstance(files, Folder):
        for path in sorted(path for path in files.beside if not path.endswith(".txt")):
            with contextlib.suppress(OSError):
                look(os.path.join(files.root, path))
    if classes:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # reading it will say why
            look(class_file.find(classes, name))
    return tuple(found)


def files_at(name: str, key: str = KEY, other: str = "a data set of TFDS") -> Files:
    """Return the images at a path, one or more.

    Args:
      name: a folder or an archive.
      key: what it is called in messages.
      other: what else could have been given.

    Raises:
      UserError: there are none, or they cannot be read.
    """
    if paths.is_remote(name):
        raise UserError(
            f"{key}={name!r} is in a bucket: mount it, say with gcsfuse, and give the "
            "folder where it is mounted, or copy the images to a disk."
        )
    named = f"{key}={shown(name)}"
    neither = f"{named} is neither {other} nor images"
    path = pathlib.Path(paths.absolute(name))
    try:
        if not path.exists():
            raise UserError(f"{neither}. {missing(path)}")
        if not path.is_dir() and not path.name.lower().endswith(archives.SUFFIXES):
            raise UserError(f"{neither}. That is a file: give a folder, .zip or .tar of images.")
    except UserError:
        raise
    except (OSError, ValueError) as cause:  # the latter for what cannot be a file name
        raise UserError(
            f"{named} cannot be read ({one_line(cause)}): let this user read it, or give another "
            "folder."
        ) from cause
    try:
        files = scan(path) if path.is_dir() else archives.index(path)
    except UserError as error:
        raise UserError(f"{named}: {error}") from error.__cause__
    if files.names:
        return files
    if path.is_dir() and (hint := folder_hint(epath.Path(path))):
        raise UserError(f"{neither}. {hint}")
    there = files.left_out.text()
    named += f" has no images{f' ({there})' if there else ''}"
    for end, remedy in OTHERS.items() if key == KEY and path.is_dir() else ():
        if next(path.rglob(f"*{end}"), None):
            raise UserError(f"{named}: {remedy.format(name)}.")
    raise UserError(
        f"{named}. Image files are recognised by "
        f"their endings, {', '.join(sorted(SUFFIXES))}: convert others to these, and replace "
        "links with copies."
    )


def _tell(
    name: str, files: Files, arranged: layout.Layout, captioned: int, told: Collection[str]
) -> None:
    """Log what was found, and what is left out."""
    told = {*told, *(path for path in files.beside if path.endswith(TABLE))}
    left_out = copy.deepcopy(files.left_out)
    for path in sorted(set(files.beside) - told):
        left_out.add(NO_IMAGES, path)
    counts = ", ".join(f"{key} {len(ids):,}" for key, ids in arranged.ids.items())
    names = arranged.class_names
    several = f"{len(names):,} classes" if len(names) > 1 else f"one class, {names[0]!r}"
    if captioned:
        several += f"; captions of {captioned:,}"
    unused = "; ".join(filter(None, (left_out.text(), arranged.left_out.text())))
    also = f"; left out: {unused}" if unused else ""
    _say(f"Images in {readable(name)}: {counts}; {several}{also}.")


@functools.cache
def _say(line: str) -> None:
    """Log a line once, however often a data set is opened."""
    log(line)
