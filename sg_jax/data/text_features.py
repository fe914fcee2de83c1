"""Features of captions in the records of a prepared data set, and a file about what made them.

    text_features   float [n1 + n2 + ..., F]: the tokens of each caption, one caption after another
    text_lengths    int32: n1, n2, ..., none above L
    text.json       the values of `encoders.text.Described`, in the folder of the data set

`--mode latents` writes them, and padding is not stored.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from sg_jax.encoders.text import Described
from sg_jax.errors import UserError, one_line
from sg_jax.runs import arrays, files

NAME = "text.json"
FEATURES, LENGTHS = "text_features", "text_lengths"


def declared(described: Described, dtype: str) -> dict[str, Any]:
    """Return the TFDS features that hold text features of a type."""
    import tensorflow_datasets as tfds

    shape = (None, described.features)
    return {
        FEATURES: tfds.features.Tensor(shape=shape, dtype=jnp.dtype(dtype), encoding="bytes"),
        LENGTHS: tfds.features.Sequence(tfds.features.Scalar(np.int32)),
    }


def packed(text: np.ndarray, lengths: np.ndarray, dtype: str) -> dict[str, Any]:
    """Return the part of a record with the features [n, L, F] of n captions, without padding.

    Raises:
      UserError: they are not finite in this type.
    """
    parts = [of_caption[:length] for of_caption, length in zip(text, lengths, strict=True)]
    with np.errstate(over="ignore"):  # infinity is reported
        whole = np.concatenate(parts).astype(jnp.dtype(dtype))
    if not np.isfinite(whole.astype(np.float32)).all():
        raise UserError(f"its text features are not finite in {dtype}: use --dtype bfloat16")
    return {FEATURES: whole, LENGTHS: [int(length) for length in lengths]}


def unpacked(record: Mapping[str, Any], described: Described) -> Sequence[np.ndarray]:
    """Return the features [n, F] of each caption, float16 or float32.

    Raises:
      UserError: they are damaged, or not finite.
    """
    whole, lengths = record[FEATURES], [int(length) for length in record[LENGTHS]]
    fits = whole.ndim == 2 and whole.shape == (sum(lengths), described.features)
    if not fits or any(not 0 < length <= described.length for length in lengths):
        raise UserError(f"its text features of shape {whole.shape} do not fit lengths {lengths}")
    if whole.dtype == jnp.bfloat16:  # few packages read it
        whole = whole.astype(np.float32)
    if not np.isfinite(whole).all():
        raise UserError("its text features are not finite")
    return np.split(whole, np.cumsum(lengths)[:-1]) if lengths else ()


def write(folder: epath.Path, described: Described) -> None:
    """Write what made the features into the folder of a data set."""
    content = json.dumps(dataclasses.asdict(described), indent=1)
    files.write_atomically(folder / NAME, content.encode())


def read(folder: Any, features: Mapping[str, Any]) -> Described | None:
    """Return what made the text features of a data set; None if it has none.

    Args:
      folder: of the data set.
      features: its TFDS features.

    Raises:
      UserError: the file is missing or damaged.
    """
    if FEATURES not in features:
        return None
    path = epath.Path(folder) / NAME
    try:
        found = Described(**json.loads(arrays.read_bytes(path)))
        kinds = {field.name: field.type for field in dataclasses.fields(Described)}
        for name, kind in kinds.items():
            if type(getattr(found, name)) is not kind:
                raise ValueError(f"{name} is of another type")
        if features[FEATURES].shape != (None, found.features) or found.length < 1:
            raise ValueError(f"the features are of shape {features[FEATURES].shape}")
    except Exception as error:  # damaged files raise many kinds of errors
        raise UserError(
            f"{path} cannot be read ({one_line(error)}), so it is not known what made the text "
            "features of this data set: copy it again."
        ) from None
    return found
