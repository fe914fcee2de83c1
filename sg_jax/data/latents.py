"""Latents as a data set: write them once, then train on them as on images.

A latent diffusion model trains on the latents that an image autoencoder makes from the images. They
are computed once and stored, as a TFDS data set in ArrayRecord that needs no tensorflow:

    latents      float16 [S, S, C]: scaled latents; or the mean of their distribution, scaled
    latents_std  float16 [S, S, C]: its standard deviation, scaled; without it latents are fixed
    label        ClassLabel

"Scaled" means multiplied, once and here, by the autoencoder's factor (0.18215 for Stable
Diffusion's) that makes their standard deviation about 1. Training does not scale them again.

    python -m sg_jax.main --mode latents --from DIR --to DATA_DIR --name NAME --scale 1

reads the common layout of .npy files: DIR/*_features/0.npy, 1.npy, ... with one array [C, S, S] or
[1, C, S, S] each, and DIR/*_labels/0.npy, ... with one integer each.
"""

import itertools
import os
import pathlib
import runpy
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sg_jax.errors import UserError

VERSION = "1.0.0"
SHARD = 4096  # examples per file; the time to read one grows with their number
CHUNK = 1024  # examples handled at a time


def write(
    examples: Iterable[tuple[np.ndarray, int]], data_dir: str, name: str, num_classes: int
) -> pathlib.Path:
    """Write latents as the split `train` of a new data set, completely or not at all.

    Args:
      examples: pairs of an array and a label. The array is float [S, S, C], scaled latents, or
        [2, S, S, C], mean and standard deviation of the distribution they are drawn from, scaled.
      data_dir: folder of prepared data sets, config.data.data_dir.
      name: name of the data set, config.data.name.
      num_classes: labels are 0 to num_classes - 1.

    Returns:
      The data set's folder.

    Raises:
      UserError: the data set exists, an array has another shape or is not finite or not scaled, or
        a label is out of range.
    """
    import tensorflow_datasets as tfds

    if not name.isidentifier():
        raise UserError(f"name={name!r} must be made of letters, digits and underscores.")
    folder = pathlib.Path(data_dir).expanduser() / name / VERSION
    if folder.exists():
        raise UserError(f"{folder} exists: delete it, or choose another name for the data set.")
    examples = iter(examples)
    first = list(itertools.islice(examples, CHUNK))
    if not first:
        raise UserError(f"There are no examples for the data set {name!r}.")
    shape = np.shape(first[0][0])
    if len(shape) not in (3, 4) or shape[-3] != shape[-2] or shape[:-3] not in ((), (2,)):
        raise UserError(f"Latents of shape {shape} must be [S, S, C] or [2, S, S, C].")
    keys = ("latents", "latents_std")[: 1 if len(shape) == 3 else 2]
    tensor = tfds.features.Tensor(shape=shape[-3:], dtype=np.float16, encoding="bytes")
    label = tfds.features.ClassLabel(num_classes=num_classes)
    # Beside the data set's folder, so that it is not listed as prepared; renamed when complete.
    partial = folder.parents[1] / f".{name}.{os.getpid()}.partial"
    partial.mkdir(parents=True)
    try:
        identity = tfds.core.DatasetIdentity(name, VERSION, str(partial), module_name="")
        info = tfds.core.DatasetInfo(
            builder=identity,
            description="Latents of images, scaled; see sg_jax.data.latents.",
            features=tfds.features.FeaturesDict({**dict.fromkeys(keys, tensor), "label": label}),
            disable_shuffling=True,
        )
        writer = tfds.core.SequentialWriter(info, SHARD, file_format="array_record")
        writer.initialize_splits(["train"])
        done = 0
        while first:
            chunk = [
                _record(array, label, keys, shape, num_classes, done + i)
                for i, (array, label) in enumerate(first)
            ]
            if not done:
                _check_scale(np.stack([record["latents"] for record in chunk]))
            writer.add_examples({"train": chunk})
            done += len(chunk)
            first = list(itertools.islice(examples, CHUNK))
        writer.close_all()
        folder.parent.mkdir(exist_ok=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _check_scale(latents: np.ndarray) -> None:
    """Raise unless latents [N, S, S, C] have a standard deviation of about 1."""
    found = float(np.std(latents, dtype=np.float32))
    if not 1 / 3 < found < 3:
        raise UserError(
            f"The latents have a standard deviation of {found:.3g} over the first {len(latents)} "
            "examples, but scaled latents have about 1: multiply them once by the autoencoder's "
            "factor (Stable Diffusion's is 0.18215: --scale 0.18215, or --scale 1 for files that "
            "are scaled already)."
        )


def _record(
    array: np.ndarray, label: int, keys: Sequence[str], shape: tuple, num_classes: int, i: int
) -> dict:
    """Return the record of example `i`, checked."""
    if np.shape(array) != shape:
        raise UserError(f"Example {i} has shape {np.shape(array)}, the first one {shape}.")
    stored = np.asarray(array, np.float16)
    if not np.isfinite(stored).all():
        raise UserError(f"Example {i} has values that are not finite in float16.")
    if len(keys) == 2 and stored[1].min() < 0:
        raise UserError(
            f"Example {i} has negative standard deviations; if they are logarithms of variances, "
            "use --posterior logvar."
        )
    if not 0 <= int(label) < num_classes:
        raise UserError(f"Example {i} has label {label}; labels must be 0 to {num_classes - 1}.")
    parts = stored if len(keys) == 2 else stored[None]
    return {**dict(zip(keys, parts, strict=True)), "label": int(label)}


def read_npy(
    folder: str, scale: float, posterior: str | None = None
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the examples for `write` from folders of .npy files, in the order of their numbers.

    Args:
      folder: contains one folder of features and one of labels; see the module.
      scale: factor for the files' latents; 1 if they are scaled already.
      posterior: what the second half of the channels holds, "std" or "logvar"; the first half is
        the mean. None: all channels are latents.

    Raises:
      UserError: a folder or file is missing or has another format.
    """
    features, labels = (_numbered(pathlib.Path(folder), kind) for kind in ("features", "labels"))
    if features.keys() != labels.keys():
        odd = min(features.keys() ^ labels.keys())
        raise UserError(f"--from {folder}: {odd}.npy must be among the features and the labels.")

    def load(number: int) -> tuple[np.ndarray, int]:
        try:
            array, label = np.load(features[number]), np.load(labels[number])
        except (OSError, ValueError) as cause:
            raise UserError(f"{features[number]} or its label cannot be read: {cause}") from cause
        if array.ndim == 4 and len(array) == 1:
            array = array[0]
        if array.ndim != 3 or (posterior and len(array) % 2) or label.size != 1:
            raise UserError(
                f"{features[number]} must be [C, S, S] or [1, C, S, S] and its label one number, "
                f"not {array.shape} and {label.shape}; C must be even with --posterior."
            )
        array = np.moveaxis(array.astype(np.float32), 0, -1)  # [S, S, C]
        if posterior:
            mean, std = np.split(array, 2, axis=-1)
            if posterior == "logvar":
                if std.min() >= 0:
                    raise UserError(
                        f"{features[number]}: none of these values is negative, so they look like "
                        "standard deviations, not log variances: --posterior std."
                    )
                std = np.exp(0.5 * np.clip(std, -30, 20))
            array = np.stack([mean, std])  # [2, S, S, C]
        return array * np.float32(scale), int(label.item())

    numbers = sorted(features)
    with ThreadPoolExecutor(16) as pool:
        for i in range(0, len(numbers), CHUNK):
            yield from pool.map(load, numbers[i : i + CHUNK])


def _numbered(folder: pathlib.Path, kind: str) -> dict[int, pathlib.Path]:
    """Return the files 0.npy, 1.npy, ... of the one subfolder called *features or *labels."""
    found = sorted(path for path in folder.glob(f"*{kind}") if path.is_dir())
    if len(found) != 1:
        there = ", ".join(path.name for path in found) or "none"
        raise UserError(f"--from {folder} must contain one folder *{kind}; it contains {there}.")
    files = {int(p.stem): p for p in found[0].glob("*.npy") if p.stem.isdigit()}
    if not files:
        raise UserError(f"{found[0]} contains no files 0.npy, 1.npy, ...")
    return files


if __name__ == "__main__":  # the command itself is a mode
    sys.argv[1:1] = ["--mode", "latents"]
    runpy.run_module("sg_jax.main", run_name="__main__", alter_sys=True)
