"""Files of weights that we write: arrays and a description of their network; .safetensors or .npz.

The description is JSON: in .safetensors under "sg_jax" in the metadata, in .npz an array of bytes
with this name. It has a checksum of the numbers. Readers that do not know it see only the arrays.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from sg_jax.errors import UserError, one_line, shown
from sg_jax.runs import files
from sg_jax.weights import reading
from sg_jax.weights.tensors import DTYPES

NAME = "sg_jax"
WRITTEN = (".safetensors", ".npz")
TYPES = ("float32", "bfloat16", "float16")
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
SUM = "sha256"  # of the arrays, in the description
Description = dict[str, Any]


def cast(weights: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Return arrays as a type of `TYPES`; raise if a number is beyond its range."""
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    out = {}
    for name, array in weights.items():
        with np.errstate(over="ignore"):
            out[name] = np.asarray(array).astype(kind, copy=False)
        if not np.isfinite(out[name].astype(np.float32, copy=False)).all():
            raise UserError(
                f"dtype={dtype} cannot hold {shown(name)}, with numbers up to "
                f"{float(np.abs(array).max()):.3g}: use bfloat16 or float32."
            )
    return out


def write(name: str | os.PathLike, weights: Mapping[str, np.ndarray], about: Description) -> None:
    """Write a file, whole or not at all.

    Args:
      name: ends with one of `WRITTEN`.
      weights: float arrays by name.
      about: what JSON can hold; {} writes only the arrays.
    """
    text = json.dumps({**about, SUM: _checksum(weights)}) if about else ""
    with files.writing(name) as file:
        if os.fspath(name).lower().endswith(".npz"):
            bytes_of = np.frombuffer(text.encode(), np.uint8)
            ours = {NAME: bytes_of} if about else {}
            np.savez(file, **{**ours, **weights})  # type: ignore[arg-type]
            return
        header: dict[str, Any] = {
            "__metadata__": {"format": "pt", **({NAME: text} if about else {})}
        }
        end = 0
        for key, array in weights.items():
            start, end = end, end + array.nbytes
            header[key] = {
                "dtype": _NAMES[array.dtype],
                "shape": list(array.shape),
                "data_offsets": [start, end],
            }
        described = json.dumps(header).encode()
        described += b" " * (-len(described) % 8)  # numbers begin at a multiple of 8 bytes
        file.write(len(described).to_bytes(8, "little") + described)
        for array in weights.values():
            file.write(np.ascontiguousarray(array).tobytes())


def read(name: str | os.PathLike) -> tuple[Mapping[str, Any], Description]:
    """Return what a file of weights holds, and its description; {} for someone else's file.

    Raises:
      UserError: there is no such file, or it cannot be read.
    """
    found = dict(reading.read(name))
    try:
        if NAME in found and getattr(found[NAME], "dtype", None) == np.uint8:
            about = json.loads(bytes(np.asarray(found.pop(NAME))))
        else:
            about = json.loads(_metadata(name).get(NAME, "{}"))
        if not isinstance(about, dict):
            raise ValueError(f"it is a {type(about).__name__}")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{files.path(name)} has a damaged description of its network ({error}): copy or "
            "export it again."
        ) from None
    if about:
        try:
            found = {key: np.asarray(reading.value(array)) for key, array in found.items()}
            whole = about.get(SUM) == _checksum(found)
        except Exception as cause:  # damaged files raise many kinds of errors
            raise UserError(
                f"{files.path(name)} cannot be read ({one_line(cause)}): copy it again."
            ) from None
        if not whole:
            raise UserError(
                f"{files.path(name)} is not as it was written, by the checksum in it: copy or "
                "export it again."
            )
    return found, about


def _checksum(weights: Mapping[str, np.ndarray]) -> str:
    """Return a hash of names, shapes and numbers."""
    total = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.view(np.uint8).data if array.size else b"")
    return total.hexdigest()


def _metadata(name: str | os.PathLike) -> Mapping[str, str]:
    """Return the metadata of a readable .safetensors file; {} for another file."""
    with files.path(name).open("rb") as file:  # of a bucket's, only this part is downloaded
        start = file.read(9)
        if start[8:] != b"{":
            return {}
        length = int.from_bytes(start[:8], "little")
        metadata = json.loads(b"{" + file.read(length - 1)).get("__metadata__", {})
    return metadata if isinstance(metadata, dict) else {}
