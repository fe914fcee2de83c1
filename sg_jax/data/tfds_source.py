"""Data sets of TFDS, prepared on disk: images with labels, or latents with labels."""

import bisect
import dataclasses
import hashlib
import itertools
import json
import operator
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from sg_jax.data import origin as origins
from sg_jax.data import shards, text_features
from sg_jax.data.captions import KEYS, texts
from sg_jax.data.checks import fault
from sg_jax.data.images import JPEG, WHITE, decode
from sg_jax.data.prepare import FEATURES, prepared_builder, remedy
from sg_jax.data.text_features import unpacked
from sg_jax.encoders.text import Described
from sg_jax.errors import SettingError, UserError, one_line
from sg_jax.runs import files as paths

MOST_CLASSES = 1_000_000  # a few bytes of features.json can ask for any number


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource:
    """A split of a prepared data set, as `data.sources.Source` describes it."""

    name: str
    split: str
    num_classes: int
    image_shape: tuple[int, int, int]  # H, W, C
    class_names: tuple[str, ...]
    latents: bool  # as `latents.write` stores them
    posterior: bool
    image_size: int | None = dataclasses.field(repr=False)  # None: as stored
    keys: dict[str, str] = dataclasses.field(repr=False)  # names in a record, by part of an example
    records: Any = dataclasses.field(repr=False)  # TFDS data source of records, images encoded
    files: tuple[str, ...] = dataclasses.field(repr=False)
    ends: tuple[int, ...] = dataclasses.field(repr=False)  # index after the last record of a file
    background: tuple[int, int, int] = dataclasses.field(default=WHITE, repr=False)
    origin: origins.Origin | None = dataclasses.field(default=None, repr=False)  # of latents
    caption: str = dataclasses.field(default="", repr=False)  # name in a record; "": there is none
    described: Described | None = dataclasses.field(default=None, repr=False)  # of text features

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self._example(i, self._read_at(i))

    def worded(self, i: int, features: bool) -> tuple[dict[str, Any], Sequence[Any]]:
        """Return example `i`, and its captions, or the features [n, F] of each, from one read."""
        record = self._read_at(i)
        return self._example(i, record), self._texts(i, record, features)

    def texts(self, i: int, features: bool) -> Sequence[Any]:
        """Return the captions of example `i`, or the features [n, F] of each."""
        return self._texts(i, self._read_at(i), features)

    def _texts(self, i: int, record: dict[str, Any], features: bool) -> Sequence[Any]:
        try:
            if not features:
                return texts(record[self.caption])
            assert self.described is not None
            return unpacked(record, self.described)
        except (UserError, KeyError) as cause:
            raise self._unreadable(i, one_line(cause)) from cause

    def _read_at(self, i: int) -> dict[str, Any]:
        i = operator.index(i)
        if not 0 <= i < len(self):
            raise IndexError(f"index {i} of {len(self)} examples")
        return self._read(i)

    def _example(self, i: int, record: dict[str, Any]) -> dict[str, Any]:
        example = {name: record[key] for name, key in self.keys.items()}
        if not self.latents:
            example["image"] = self._decode(i, example["image"], self.image_size)
        for name in ("image", "std"):
            if name in example and example[name].dtype == jnp.bfloat16:  # which few packages read
                example[name] = example[name].astype(np.float32)
        example["label"] = int(example["label"])
        if wrong := fault(example, self):
            raise UserError(
                f"config.data.name={self.name!r}: example {i} of split {self.split!r} {wrong}; it "
                f"was read from {self.file_of(i)}. Mend the data set, or choose a split without it."
            )
        return example

    @property
    def captions(self) -> "_Column | None":
        """The captions of the examples, if they have some."""
        return _Column(self) if self.caption else None

    def label_of(self, i: int) -> int:
        """Return the label of example `i`."""
        return int(self._read_at(i)[self.keys["label"]])

    def file_of(self, i: int) -> str:
        """Return the file that holds example `i`."""
        return self.files[bisect.bisect_right(self.ends, i)]

    def version(self) -> bytes:
        """Return bytes that change with the files, and with how they are read."""
        look = self.split, self.image_shape, self.image_size, self.num_classes, self.keys
        found = hashlib.sha256(repr((*look, self.caption, self.described)).encode())
        for file in self.files:
            found.update(os.fsencode(f"{file}\n{_stamp(file)}\n"))
        return found.digest()

    def identify(self, i: int) -> tuple[bytes, int]:
        """Return the pixels or latents of example `i`, the same on every machine, and its label.

        A JPEG stays as it is, because decoders differ. Other images are decoded, because encoders
        differ.
        """
        record = self._read(i)
        label = int(record[self.keys["label"]])
        if self.latents:
            keys = (key for name, key in self.keys.items() if name != "label")
            return b"".join(np.ascontiguousarray(record[key]).tobytes() for key in keys), label
        encoded = record[self.keys["image"]]
        return encoded if encoded.startswith(JPEG) else self._decode(
            i, encoded, None
        ).tobytes(), label

    def _decode(self, i: int, encoded: bytes, image_size: int | None) -> np.ndarray:
        try:
            return decode(encoded, self.image_shape[2], image_size, self.background)
        except Exception as cause:
            raise self._unreadable(i, one_line(cause)) from cause

    def _read(self, i: int) -> dict[str, Any]:
        """Return record `i` with its image still encoded."""
        try:
            record = self.records[i]
        except Exception as cause:
            raise self._unreadable(i, one_line(cause)) from cause
        for key in self.keys.values():
            if record.get(key) is None:
                raise self._unreadable(i, f"it has no {key!r}, which features.json says it has")
        label = int(record[self.keys["label"]])
        if not 0 <= label < self.num_classes:
            raise UserError(
                f"Split {self.split!r} of config.data.name={self.name!r} has label {label} at "
                f"example {i}; labels must be 0 to {self.num_classes - 1}. Choose a labelled split."
            )
        return record

    def _unreadable(self, i: int, cause: str) -> UserError:
        return UserError(
            f"config.data.name={self.name!r}: example {i} of split {self.split!r} cannot be read "
            f"from {self.file_of(i)} ({cause}): {remedy(cause)}."
        )


@dataclasses.dataclass(frozen=True)
class _Column:
    """The captions of a source."""

    source: TfdsSource

    def __getitem__(self, i: int) -> tuple[str, ...]:
        return self.source.texts(i, features=False)  # type: ignore[return-value]

    def version(self) -> bytes:
        return self.source.version()


def _stamp(file: str) -> tuple[float, ...]:
    """Return what changes when a file is written again."""
    if paths.is_remote(file):
        there = epath.Path(file).stat()
        return there.length, there.mtime
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns


def open_tfds(
    name: str,
    split: str,
    data_dir: str | None = None,
    image_size: int | None = None,
    *,
    channels: int = 0,
    background: tuple[int, int, int] = WHITE,
) -> TfdsSource:
    """Open one split; see `data.sources.open_source`.

    A data set with a feature `latents` is opened as latents (see `sg_jax.data.latents`), any other
    as images.
    """
    builder = prepared_builder(name, data_dir)
    features = builder.info.features
    latents = "latents" in features
    there = f"config.data.name={name!r}, in {builder.data_dir},"
    keys, (height, width, stored) = (_latents if latents else _image)(there, features)
    keys["label"], class_names = _label(there, features, builder.data_dir)
    if latents and image_size not in (None, height):
        raise UserError(
            f"config.data.image_size={image_size} must be 0 for {name!r}: latents, here "
            f"{height}x{width}, cannot be resized."
        )
    if latents and channels:
        rule = f"must be 0 for {name!r}: latents have the channels of their autoencoder."
        raise SettingError("config.data", "channels", channels, rule)
    if not image_size and None in (height, width):
        raise UserError(
            f"config.data.image_size=0 uses images as stored, but those of {name!r} differ in "
            "size: set it to a side in pixels; all images are then resized and cropped to it."
        )
    records, files = shards.open_records(name, builder, split, None if latents else keys["image"])
    source = TfdsSource(
        name=name,
        split=split,
        num_classes=len(class_names),
        image_shape=(image_size or height, image_size or width, channels or stored),
        class_names=class_names,
        latents=latents,
        posterior="std" in keys,
        image_size=None if (height, width) == (image_size, image_size) else image_size,
        keys=keys,
        records=records,
        files=tuple(str(file.filename) for file in files),
        ends=tuple(itertools.accumulate(file.take for file in files)),
        background=background,
        origin=origins.read(builder.data_dir) if latents else None,
        described=text_features.read(builder.data_dir, features),
        caption=next((key for key in KEYS if key in features and key not in keys.values()), ""),
    )
    # A truncated file has lost its index, so reading one record of each file finds it before
    # training.
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(source._read, [end - 1 for end in source.ends]))
    return source


def _image(there: str, features: Any) -> tuple[dict[str, str], tuple[Any, Any, int]]:
    """Return the key of the image feature and its (H, W, C); H and W are None if they differ."""
    import tensorflow_datasets as tfds

    key = _one(features, "image", tfds.features.Image)
    if key is None or np.dtype(features[key].np_dtype) != np.uint8 or len(features[key].shape) != 3:
        raise _lacking(there, features, "still image in uint8")
    height, width, channels = features[key].shape
    return {"image": key}, (height, width, channels or 3)


def _latents(there: str, features: Any) -> tuple[dict[str, str], tuple[Any, Any, int]]:
    """Return the keys of the latents (and of their standard deviation), and their (H, W, C)."""
    keys = {"image": "latents"} | ({"std": "latents_std"} if "latents_std" in features else {})
    shape = features["latents"].shape
    for key in keys.values():
        found, dtype = features[key].shape, np.dtype(features[key].np_dtype).name
        square = len(found) == 3 and found[0] == found[1] and None not in found
        if not square or found != shape or dtype not in ("float16", "bfloat16", "float32"):
            raise UserError(
                f"{there} has a feature {key!r} of shape {found} and type "
                f"{dtype}; latents must be [S, S, C] in float16, bfloat16 or float32, and their "
                f"standard deviation, latents_std, of the same shape. `--mode latents` writes such "
                f"data sets."
            )
    return keys, shape


def _label(there: str, features: Any, folder: str) -> tuple[str, tuple[str, ...]]:
    """Return the key of the label feature and the names of its classes."""
    import tensorflow_datasets as tfds

    key = _one(features, "label", tfds.features.ClassLabel)
    if key is None or not features[key].num_classes:
        raise _lacking(there, features, "class label")
    if features[key].num_classes > MOST_CLASSES:
        raise UserError(
            f"{there} has {features[key].num_classes} classes; there may be at "
            f"most {MOST_CLASSES:,}. If it has fewer, its features.json is damaged: {remedy('')}."
        )
    names = tuple(features[key].names)
    if (count := _described_classes(folder, key)) not in (None, len(names)):
        raise UserError(
            f"{there} has {len(names)} names of classes in {key}.labels.txt, but {count} classes "
            f"in {FEATURES}: one of them is damaged. {remedy('').capitalize()}."
        )
    return key, names


def _described_classes(folder: str, key: str) -> int | None:
    """Return the number of classes that a description gives; None if it gives none."""
    try:
        description = json.loads((epath.Path(folder) / FEATURES).read_text())
        return int(description["featuresDict"]["features"][key]["classLabel"]["numClasses"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _one(features: Any, preferred: str, kind: type) -> str | None:
    keys = [key for key, feature in features.items() if type(feature) is kind]
    if preferred in keys:
        return preferred
    return keys[0] if len(keys) == 1 else None


def _lacking(there: str, features: Any, what: str) -> UserError:
    found = ", ".join(
        f"{key} ({type(feature).__name__})" for key, feature in sorted(features.items())
    )
    return UserError(
        f"{there} has no feature that is its one {what}; its features are "
        f"{found}. Choose a data set of labelled images."
    )
