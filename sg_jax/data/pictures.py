"""Folders and archives of image files as data sets; `data.layout` says how they are arranged."""

import dataclasses
import operator
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath

from sg_jax.data import archives, layout
from sg_jax.data.checks import fault
from sg_jax.data.containers import SUFFIXES, Files, missing, readable, scan
from sg_jax.data.images import JPEG, WHITE, decode, stored_size
from sg_jax.data.prepare import NAME, folder_hint
from sg_jax.errors import SettingError, UserError, one_line, shown
from sg_jax.runs import files as paths
from sg_jax.runs.progress import log

COLOURED = 3  # channels, unless config.data.channels says otherwise
LOOKED_AT = 1000  # images whose size is read when a data set is opened
THREADS = 16
REMEDY = "replace or remove it, or leave out what is damaged by config.data.damaged='skip'"


@dataclasses.dataclass(frozen=True, eq=False)
class PictureSource:
    """A split of a folder or an archive of images, as `data.sources.Source` describes it."""

    name: str
    split: str
    image_shape: tuple[int, int, int]  # H, W, C
    class_names: tuple[str, ...]
    image_size: int | None = dataclasses.field(repr=False)  # None: as stored
    background: tuple[int, int, int] = dataclasses.field(repr=False)
    files: Files = dataclasses.field(repr=False)
    ids: np.ndarray = dataclasses.field(repr=False)  # numbers in `files`
    labels: np.ndarray = dataclasses.field(repr=False)
    latents: bool = False
    posterior: bool = False

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        image = self._decode(i, self._read(i), self.image_size)
        example = {"image": image, "label": int(self.labels[i])}
        if wrong := fault(example, self):
            raise UserError(
                f"config.data.name={self.name!r}: {self.file_of(i)} {wrong}. Set "
                "config.data.image_size to the side in pixels, to which all images are then "
                "resized and cropped."
            )
        return example

    def file_of(self, i: int) -> str:
        """Return the file that is example `i`."""
        return self.files.place(int(self.ids[i]))

    def identify(self, i: int) -> tuple[bytes, int]:
        """Return a JPEG as it is, because decoders differ, or else the pixels; and the label."""
        encoded = self._read(i)
        if not encoded.startswith(JPEG):
            encoded = self._decode(i, encoded, None).tobytes()
        return encoded, int(self.labels[i])

    def version(self) -> bytes:
        """Return bytes that change with the images, and with how they are read."""
        look = (self.split, self.image_shape, self.image_size)
        return repr(look).encode() + self.files.version(self.ids)

    def _read(self, i: int) -> bytes:
        i = operator.index(i)
        if not 0 <= i < len(self):
            raise IndexError(f"index {i} of {len(self)} examples")
        try:
            return self.files.read(int(self.ids[i]))
        except (OSError, UserError) as cause:
            raise self._unreadable(i, one_line(cause)) from cause

    def _decode(self, i: int, encoded: bytes, image_size: int | None) -> np.ndarray:
        try:
            return decode(encoded, self.image_shape[2], image_size, self.background)
        except UserError as cause:
            raise self._unreadable(i, one_line(cause)) from cause

    def _unreadable(self, i: int, cause: str) -> UserError:
        return UserError(
            f"config.data.name={self.name!r}: {self.file_of(i)} cannot be read ({cause}): {REMEDY}."
        )


def claims(name: str) -> bool:
    """Return whether a name is a path: by how it begins or ends, or because it is there."""
    if not name.strip() or "\0" in name or len(name) > 4096:
        return False
    if name[0] in "/.~" or name.lower().endswith(archives.SUFFIXES):
        return True
    if not ("/" in name or "." in name) or not os.path.exists(name):
        return False
    try:  # NAME/CONFIG may be prepared in this folder
        return not (NAME.fullmatch(name) and folder_hint(epath.Path(name)))
    except OSError:
        return True


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
    files = _files(name)
    if not files.names:
        there = files.left_out.text()
        raise UserError(
            f"config.data.name={name!r} has no images{f', but {there}' if there else ''}. Image "
            f"files are known by their ends, {', '.join(sorted(SUFFIXES))}: convert others to "
            "these, and copy what links lead to."
        )
    arranged = layout.arrange(files, name, classes)
    ids, labels = arranged.select(name, split)
    _tell(name, files, arranged)
    side = image_size or 0
    source = PictureSource(
        name=name,
        split=split,
        image_shape=(side, side, channels or COLOURED),
        class_names=arranged.class_names,
        image_size=image_size,
        background=background,
        files=files,
        ids=ids,
        labels=labels,
    )
    if image_size:
        return source
    return dataclasses.replace(source, image_shape=(*_common_size(source), channels or COLOURED))


def _files(name: str) -> Files:
    """Return the images at a path."""
    if paths.is_remote(name):
        raise UserError(
            f"config.data.name={name!r} is in a bucket: mount it, by gcsfuse say, and give the "
            "folder where it is mounted, or copy the images to a disk."
        )
    neither = f"config.data.name={shown(name)} is neither a data set of TFDS nor images"
    path = pathlib.Path(paths.absolute(name))
    try:
        if not path.exists():
            raise UserError(f"{neither}. {missing(path)}")
        if not path.is_dir():
            if path.name.lower().endswith(archives.SUFFIXES):
                return archives.index(path)
            raise UserError(
                f"{neither}. That is a file: give a folder, a .zip or a .tar of images."
            )
        if hint := folder_hint(epath.Path(path)):
            raise UserError(f"{neither}. {hint}")
        return scan(path)
    except OSError as cause:
        raise UserError(
            f"config.data.name={shown(name)} cannot be read ({one_line(cause)}): let this user "
            "read it, or give another folder."
        ) from cause


def _tell(name: str, files: Files, arranged: layout.Layout) -> None:
    """Log what was found, and what is left out."""
    counts = ", ".join(f"{key} {len(ids):,}" for key, ids in arranged.ids.items())
    names = arranged.class_names
    several = f"{len(names):,} classes" if len(names) > 1 else f"one class, {names[0]!r}"
    left_out = ", ".join(filter(None, (files.left_out.text(), arranged.left_out.text())))
    also = f"; left out: {left_out}" if left_out else ""
    log(f"Images in {readable(name)}: {counts}; {several}{also}.")


def _common_size(source: PictureSource) -> tuple[int, int]:
    """Return the height and width of all images, as far as some of them tell.

    The others are found when they are read.
    """
    count = min(len(source), LOOKED_AT)
    some = [i * (len(source) - 1) // max(1, count - 1) for i in range(count)]

    def size(i: int) -> tuple[int, int] | None:
        try:
            return stored_size(source._read(i))
        except UserError:  # reported when the image is read
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        found = {size: i for i, size in zip(some, pool.map(size, some), strict=True) if size}
    if len(found) > 1:
        (first, i), (second, j) = list(found.items())[:2]
        raise SettingError(
            "config.data",
            "image_size",
            0,
            f"uses images as stored, but those of {source.name!r} differ in size ("
            f"{source.file_of(i)} is {first[0]}x{first[1]}, {source.file_of(j)} {second[0]}x"
            f"{second[1]}): set it to the side in pixels, to which all are then resized and "
            "cropped.",
        )
    if not found:
        source[0]  # raises with the reason
    return next(iter(found))
