"""Files of weights: .safetensors, .npz, and what torch.save writes (.pt, .pth, .bin, .ckpt).

The first bytes of a file say what it is, not its name. Reading runs no foreign code and takes
memory in proportion to the file. Arrays are read when they are asked for.
"""

import io
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from sg_jax.errors import UserError, one_line, shown
from sg_jax.runs import arrays, files
from sg_jax.weights import pickles
from sg_jax.weights.tensors import DTYPES, Budget, Storage, Tensor, contiguous

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".ckpt")
LONGEST_HEADER = 16 * 2**20  # bytes that describe a .safetensors file; 100,000 tensors need 10 MiB
POINTER = b"version https://git-lfs"
WANTED = "weights as .safetensors, as .npz of numpy.savez, or of torch.save"
HUB = (
    "For a model of the Hugging Face hub, give the folder that huggingface_hub.snapshot_download "
    "returns."
)


def read(name: str | os.PathLike) -> Mapping[str, Any]:
    """Return what a file of weights holds: `Tensor`s or arrays by name, perhaps within mappings.

    A `Tensor` reads its numbers with `numpy()`.

    Args:
      name: path of the file, on a disk or in a bucket.

    Raises:
      UserError: there is no such file, or it is damaged, of another kind, or names code.
    """
    path = files.path(name)
    try:
        if files.is_remote(path):
            content = arrays.read_bytes(path)
            file, size = io.BytesIO(content), len(content)
        else:
            if path.exists() and not pathlib.Path(path).is_file():
                raise OSError("not a regular file")
            opened: Any = open(path, "rb")  # tensors are read from it later
            file, size = opened, os.path.getsize(path)
        found = _read(file, size)
    except pickles.Unknown as cause:
        raise UserError(
            f"{path} names {shown(str(cause))}, which reading would have to call, so it was not "
            f"read: nobody's code is run. Give {WANTED}: load the file where you trust it, "
            "and store only its tensors, with torch.save(module.state_dict(), FILE)."
        ) from None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give a file of {WANTED}.") from None
    except Exception as cause:  # damaged files raise many kinds of errors
        raise UserError(
            f"{path} cannot be read ({one_line(cause)}). Give {WANTED}: if it is one of these, it "
            "is damaged or cut short, so copy or download it again."
        ) from None
    if not isinstance(found, Mapping):
        raise UserError(
            f"{path} holds a {type(found).__name__} where a mapping of names to tensors is needed: "
            "store module.state_dict()."
        )
    return found


def value(found: Any) -> Any:
    """Return the numbers of a `Tensor`, and anything else as it is."""
    return found.numpy() if isinstance(found, Tensor) else found


def _read(file: BinaryIO, size: int) -> Any:
    start = file.read(64)
    file.seek(0)
    if start[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
        file.seek(0)
        if names and all(name.endswith(".npy") for name in names):
            return {name: _from_numpy(x) for name, x in arrays.from_npz(file.read()).items()}
        return pickles.from_zip(file, size)
    if start.startswith(pickles.LEGACY_START[:10]):
        return pickles.from_row(file, size)
    if start[8:9] == b"{":
        return from_safetensors(file, size)
    raise ValueError(_kind(start, size))


def _kind(start: bytes, size: int) -> str:
    """Return what else a file is."""
    if not size:
        return "it is empty"
    if start.startswith(POINTER):
        return "it is a pointer of Git LFS: get the file itself, by git lfs pull"
    if start.lstrip()[:1] == b"<":
        return "it is a web page"
    if start[:1] == b"\x80":
        return "it is a pickle, but not one of torch.save"
    return f"it begins with {start[:16]!r}"


def _from_numpy(array: np.ndarray) -> np.ndarray:
    """Return an array of a .npz file, where bfloat16 has lost its name."""
    return array.view(ml_dtypes.bfloat16) if array.dtype == "V2" else array


def from_safetensors(file: BinaryIO, size: int) -> dict[str, Tensor]:
    """Return the tensors of an open .safetensors file.

    Args:
      file: stays open while tensors are read from it.
      size: bytes of the file.

    Raises:
      ValueError: it is damaged.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, LONGEST_HEADER):
        raise ValueError(f"a description of {length:,} bytes in a file of {size:,}")
    described = json.loads(file.read(length))
    start, found, budget = 8 + length, dict[str, Tensor](), Budget(size)
    described.pop("__metadata__", None)
    for name, entry in described.items():
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"{shown(name)} has the unknown type {shown(entry['dtype'])}")
        first, after = entry["data_offsets"]
        shape = tuple(entry["shape"])
        if not all(type(n) is int and 0 <= n < 2**40 for n in (first, after, *shape)):
            raise ValueError(f"{shown(name)} has the shape {shown(shape)}")
        storage = Storage(
            dtype, (after - first) // dtype.itemsize, _Part(file, start, first, after)
        )
        tensor = Tensor(storage, 0, shape, contiguous(shape), budget)
        if tensor.size * dtype.itemsize != after - first:
            raise ValueError(f"{shown(name)} has {after - first:,} bytes for the shape {shape}")
        if start + after > size:
            raise ValueError(f"{shown(name)} ends after {start + after:,} bytes of {size:,}")
        found[name] = tensor
    return found


class _Part:
    """Reads a part of a file."""

    def __init__(self, file: BinaryIO, start: int, first: int, after: int):
        self.file, self.start, self.length = file, start + first, after - first

    def __call__(self) -> bytes:
        self.file.seek(self.start)
        return self.file.read(self.length)
