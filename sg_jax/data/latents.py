"""Latents as a data set: write them once, then train on them as on images.

A latent diffusion model trains on the latents that an image autoencoder makes from the images. They
are computed once and stored, as a TFDS data set in ArrayRecord that needs no tensorflow:

    latents      float16 [S, S, C]: scaled latents; or the mean of their distribution, scaled
    latents_std  float16 [S, S, C]: its standard deviation, scaled; without it latents are fixed
    label        ClassLabel
    captions     texts, if the images have captions; and perhaps their features, `text_features`

"Scaled" means multiplied here, once, by the autoencoder's factor (0.18215 for Stable
Diffusion's) that makes their standard deviation about 1. Training does not scale them again.

    python -m sg_jax.main --mode latents --from DIR --to DATA_DIR --name NAME --scale 1

reads the common layout of .npy files: DIR/*_features/0.npy, 1.npy, ... with one array [C, S, S] or
[1, C, S, S] each, and DIR/*_labels/0.npy, ... with one integer each.
"""

import itertools
import pathlib
import runpy
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from sg_jax.data import partial
from sg_jax.data.tfds_source import MOST_CLASSES
from sg_jax.errors import UserError, one_line
from sg_jax.runs import files

VERSION = "1.0.0"
KEYS = ("latents", "latents_std")
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
      UserError: the data set exists or cannot be written, an array has another shape or is not
        finite or not scaled, or a label is out of range.
    """
    where = place(data_dir, name)
    if not 1 <= num_classes <= MOST_CLASSES:
        raise UserError(f"There are {num_classes} classes; there must be 1 to {MOST_CLASSES:,}.")
    with partial.folder(where.parents[1], name) as made:
        folder = made / VERSION
        folder.mkdir()
        try:
            _write(iter(examples), folder, name, num_classes)
            where.parent.mkdir(exist_ok=True)
            place(data_dir, name)  # another process may have been faster
            folder.rename(where)
        except (OSError, RuntimeError) as cause:  # the latter from the writer of ArrayRecord
            raise UserError(f"{where} cannot be written ({one_line(cause)}).") from cause
    return where


def place(data_dir: str, name: str) -> pathlib.Path:
    """Return the folder of a new data set.

    Raises:
      UserError: it exists, or is in a bucket, or the name is not allowed.
    """
    if files.is_remote(data_dir):
        raise UserError(
            f"The data set cannot be written to {data_dir}: write it to a disk, copy it to the "
            "bucket afterwards, and mount the bucket where it is read."
        )
    if not (name.isascii() and name.isidentifier() and name[0] != "_"):
        raise UserError(
            f"name={name!r} must be made of letters, digits and underscores, and begin with a "
            "letter."
        )
    found = pathlib.Path(files.path(data_dir)) / name / VERSION
    if found.exists():
        raise UserError(f"{found} exists: delete it, or choose another name for the data set.")
    return found


def describe(
    folder: pathlib.Path,
    name: str,
    shape: tuple[int, ...],
    *,
    dtype: str = "float16",
    posterior: bool,
    classes: int | Sequence[str],
    captions: bool = False,
    text: Mapping[str, Any] | None = None,
) -> Any:
    """Return TFDS's description of a data set of latents, or of images.

    Args:
      folder: of the data set.
      name: of the data set.
      shape: of latents, [S, S, C]; or of images.
      dtype: "float16" or "bfloat16"; "uint8" for images.
      posterior: whether standard deviations are stored too.
      classes: their number, or their names.
      captions: whether examples have captions.
      text: further features, see `text_features.declared`.
    """
    import tensorflow_datasets as tfds

    if dtype == "uint8":
        stored = {"image": tfds.features.Image(shape=shape, encoding_format="png")}
    else:
        tensor = tfds.features.Tensor(shape=shape, dtype=jnp.dtype(dtype), encoding="bytes")
        stored = dict.fromkeys(KEYS[: 1 + posterior], tensor)
    given = dict(num_classes=classes) if isinstance(classes, int) else dict(names=list(classes))
    label = tfds.features.ClassLabel(**given)
    texts = dict(captions=tfds.features.Sequence(tfds.features.Text())) if captions else {}
    return tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(name, VERSION, str(folder), module_name=""),
        description="Latents of images, scaled; see sg_jax.data.latents.",
        features=tfds.features.FeaturesDict(
            {**stored, "label": label, **texts, **(text or {})},
        ),
        disable_shuffling=True,
    )


def save_info(info: Any, lengths: Sequence[int], known: Sequence[Mapping[str, Any]]) -> None:
    """Write TFDS's description of a split `train` into its folder, where its files already are.

    Args:
      info: from `describe`.
      lengths: examples of each file.
      known: for each file, its "bytes".
    """
    import tensorflow_datasets as tfds

    info.set_file_format("array_record")
    template = tfds.core.ShardedFileTemplate(
        dataset_name=info.name,
        data_dir=epath.Path(info.data_dir),
        split="train",
        filetype_suffix="array_record",
    )
    split = tfds.core.SplitInfo(
        name="train",
        shard_lengths=list(lengths),
        num_bytes=sum(each["bytes"] for each in known),
        filename_template=template,
    )
    info.set_splits(tfds.core.splits.SplitDict([split]))
    info.write_to_directory(info.data_dir)


def _write(
    examples: Iterator[tuple[np.ndarray, int]], folder: pathlib.Path, name: str, num_classes: int
) -> None:
    """Write a data set into an empty folder."""
    import tensorflow_datasets as tfds

    first = list(itertools.islice(examples, CHUNK))
    if not first:
        raise UserError(f"There are no examples for the data set {name!r}.")
    shape = np.shape(first[0][0])
    fits = len(shape) in (3, 4) and shape[-3] == shape[-2] and shape[:-3] in ((), (2,))
    if not fits or 0 in shape:
        raise UserError(f"Latents of shape {shape} must be [S, S, C] or [2, S, S, C].")
    keys = KEYS[: len(shape) - 2]
    info = describe(folder, name, shape[-3:], posterior=len(keys) == 2, classes=num_classes)
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
        raise UserError(f"Example {i} has shape {np.shape(array)}, but the first has {shape}.")
    with np.errstate(over="ignore"):  # infinity is reported
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


if __name__ == "__main__":  # the command itself is a mode
    sys.argv[1:1] = ["--mode", "latents"]
    runpy.run_module("sg_jax.main", run_name="__main__", alter_sys=True)
