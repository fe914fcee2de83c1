"""Latents written file by file, each whole or not at all, so that a killed command can resume.

    DATA_DIR/NAME.unfinished/            until all files are there; then it becomes the data set
      NAME-train.array_record-00000, ...   finished files
      progress/about.json                  what is being written; no other command may mix in
      progress/00000.json, ...             for each finished file: examples, bytes, SHA-256, sums
    DATA_DIR/NAME/1.0.0/                 the data set; see `data.latents`

File k belongs to process k modulo the number of processes. What a file holds depends only on
about.json, so any number of processes may continue.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from sg_jax.data import latents, origin, text_features
from sg_jax.encoders.text import Described
from sg_jax.errors import UserError, one_line
from sg_jax.parallel import processes
from sg_jax.runs import files, sharing

SPLIT = "train"
SUMS = ("mean", "square", "variance")  # of each channel, over the pixels of a file


class Unfinished:
    """A data set of latents that is being written.

    Args:
      place: where it will be; see `latents.place`.
      about: JSON values that all its files depend on.
      shape: of latents, [S, S, C]; or of images.
      dtype: "float16" or "bfloat16"; "uint8" for images.
      posterior: whether standard deviations are stored too.
      classes: their names.
      captions: whether examples have captions.
      examples: total number of examples.
      per_file: examples per file; the last one may have fewer.
      text: what made the features of captions, and their type; None if there are none.

    Raises:
      UserError: the folder cannot be written, or was begun with other values.
    """

    def __init__(
        self,
        place: pathlib.Path,
        about: Mapping[str, Any],
        *,
        shape: tuple[int, int, int],
        dtype: str,
        posterior: bool,
        classes: Sequence[str],
        captions: bool,
        examples: int,
        per_file: int,
        text: tuple[Described, str] | None = None,
    ):
        self.place, self.about = place, json.loads(json.dumps(about))
        self.name = place.parent.name
        self.folder = place.parent.with_name(f"{self.name}.unfinished")
        self.progress = self.folder / "progress"
        self.info = latents.describe(
            self.folder,
            self.name,
            shape,
            dtype=dtype,
            posterior=posterior,
            classes=classes,
            captions=captions,
            text=text_features.declared(*text) if text else None,
        )
        self.text = text[0] if text else None
        self.examples, self.per_file = examples, per_file
        self.count = -(-examples // per_file)

    @contextlib.contextmanager
    def writing(self, index: int) -> Iterator[None]:
        """Make the folder, or check that it is for the same latents; process `index` locks it."""
        path = self.progress / "about.json"
        if processes.is_writer():
            self.progress.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._check_about(path)
            else:
                files.write_atomically(path, json.dumps(self.about, indent=1).encode())
        processes.barrier("latents begun")
        if not path.exists():
            raise UserError(
                f"{self.folder} is not there for process {index}, but all processes must see the "
                "same folder: give --to a folder on a disk that they share."
            )
        if not processes.is_writer():  # this host may have other images, or another autoencoder
            self._check_about(path, index)
        with sharing.locked(self.progress / f"lock-{index}") as free:
            if not free:
                raise UserError(
                    f"{self.folder} is being written by another command: wait until it ends."
                )
            yield

    def _check_about(self, path: pathlib.Path, index: int = 0) -> None:
        """Raise unless the folder is for what process `index` makes."""
        remedy = f"delete {self.folder} to start again, or choose another --name"
        try:
            saved = dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError, RecursionError) as cause:
            raise UserError(f"{path} is damaged ({one_line(cause)}): {remedy}.") from None
        for key, value in self.about.items():
            if saved.get(key) == value:
                continue
            if index:
                raise UserError(
                    f"{self.folder} is being written with {key}={saved.get(key)!r}, but process "
                    f"{index} has {value!r}: give all hosts the same images and autoencoder, and "
                    "repeat the same command on all."
                )
            raise UserError(
                f"{self.folder} was begun with {key}={saved.get(key)!r}, but now it is "
                f"{value!r}: {remedy}, or repeat the earlier command."
            )

    def file(self, k: int) -> pathlib.Path:
        """Return file `k`."""
        return self.folder / f"{self.name}-{SPLIT}.array_record-{k:05d}-of-{self.count:05d}"

    def range(self, k: int) -> range:
        """Return the examples of file `k`."""
        return range(k * self.per_file, min((k + 1) * self.per_file, self.examples))

    def written(self, k: int) -> dict[str, Any] | None:
        """Return what is known about file `k`; None unless it is finished."""
        try:
            known = dict(json.loads((self.progress / f"{k:05d}.json").read_bytes()))
            whole = self.file(k).stat().st_size == known["bytes"]
            fits = known["examples"] == len(self.range(k)) and set(SUMS) < set(known)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return known if whole and fits else None

    def left(self, index: int, count: int) -> list[int]:
        """Return the files that process `index` of `count` has to write."""
        return [k for k in range(index, self.count, count) if self.written(k) is None]

    def write(self, k: int, records: Iterable[Mapping[str, Any]]) -> None:
        """Write file `k` from its examples: latents or image, label, perhaps captions, ...

        Raises:
          UserError: the file cannot be written, for example for lack of space.
        """
        target = self.file(k)
        partial = target.with_name(f".{target.name}{files.PARTIAL}")
        try:
            known = _write(partial, records, self.info.features)
            assert known["examples"] == len(self.range(k)), known["examples"]
            os.replace(partial, target)
            path = self.progress / f"{k:05d}.json"
            files.write_atomically(path, json.dumps(known).encode())
        except (OSError, RuntimeError) as cause:  # the latter from the writer of ArrayRecord
            raise UserError(
                f"{target} cannot be written ({_reason(cause)}). What is finished is kept: repeat "
                "the same command to continue."
            ) from cause
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def finish(self, made: Mapping[str, Any] | None) -> origin.Origin | None:
        """Turn the finished files into the data set; the writer calls this after a barrier.

        Args:
          made: the fields of `Origin` that do not follow from the files; None for images.

        Raises:
          UserError: a file is missing, or there is no space for the descriptions.
        """
        known = {k: self.written(k) for k in range(self.count)}
        if missing := [k for k, of_file in known.items() if of_file is None]:
            raise UserError(
                f"{self.file(missing[0])} and {len(missing) - 1} others are missing: all processes "
                "must write to one folder. Repeat the same command to continue."
            )
        found: list[dict[str, Any]] = [of_file for of_file in known.values() if of_file]
        whole = None if made is None else self._origin(made, found)
        try:
            latents.save_info(self.info, [f["examples"] for f in found], found)
            if whole is not None:
                origin.write(epath.Path(self.folder), whole)
            if self.text is not None:
                text_features.write(epath.Path(self.folder), self.text)
            files.tidy(self.folder)
            self.place.parent.mkdir(exist_ok=True)
            self.folder.rename(self.place)
        except OSError as cause:
            raise UserError(
                f"{self.place} cannot be written ({_reason(cause)}). What is finished is kept: "
                "repeat the same command to continue."
            ) from cause
        shutil.rmtree(self.place / "progress", ignore_errors=True)
        return whole

    def _origin(self, made: Mapping[str, Any], found: Sequence[Mapping]) -> origin.Origin:
        """Return what a data set of latents says about itself, from what is known of its files."""
        height, width, channels = self.info.features["latents"].shape
        sums = {key: sum(np.array(f[key]) for f in found) for key in SUMS}
        mean, square, variance = (sums[key] / (self.examples * height * width) for key in SUMS)
        assert mean.shape == (channels,)
        return origin.Origin(
            **made,
            mean=tuple(mean.tolist()),
            std=tuple(np.sqrt(np.maximum(square - mean**2, 0) + variance).tolist()),
            shards={
                self.file(k).name: {key: f[key] for key in ("examples", "bytes", "sha256")}
                for k, f in enumerate(found)
            },
        )


def _write(path: pathlib.Path, records: Iterable[Mapping[str, Any]], features: Any) -> dict:
    """Write a file; return its examples, bytes, SHA-256 and sums."""
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    count, sums = 0, dict.fromkeys(SUMS, np.zeros(()))
    try:
        for record in records:
            writer.write(features.serialize_example(record))
            add(sums, record)
            count += 1
    finally:
        writer.close()
    with path.open("rb+") as file:
        os.fsync(file.fileno())  # otherwise a machine that stops may leave an empty file
    reader = ArrayRecordReader(str(path))  # a writer may not notice that the disk was full
    found = reader.num_records()
    reader.close()
    if found != count:
        raise OSError(f"{found} of {count} examples were stored")
    known = dict(examples=count, bytes=path.stat().st_size, sha256=sha256(path))
    return known | {key: value.tolist() for key, value in sums.items()}


def add(sums: dict[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """Add the latents of a record to the sums of each channel; images have none."""
    if "latents" not in record:
        return
    mean = np.asarray(record["latents"], np.float64)
    terms = [mean, mean**2]
    std = record.get("latents_std")
    terms.append(np.zeros_like(mean) if std is None else np.asarray(std, np.float64) ** 2)
    for key, term in zip(SUMS, terms, strict=True):
        sums[key] = sums[key] + term.sum((0, 1))


def sha256(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(cause: Exception) -> str:
    """Return why a file cannot be written, in the system's words if they are known."""
    return getattr(cause, "strerror", None) or one_line(cause)
