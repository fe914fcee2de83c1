"""Arrays from .npy and .npz files that anyone may have written.

Pickles are refused, so reading executes nothing. Arrays take no more memory than their files: a
header of a hundred bytes may promise terabytes, and a compressed file may unpack to as many.
"""

import io
import math
import pathlib
import zipfile
from typing import IO

import numpy as np
from etils import epath

from sg_jax.runs import files


def read_bytes(path: epath.Path) -> bytes:
    """Return the contents of a regular file, and not of a device, which may have no end.

    Raises:
      OSError: there is no such file.
    """
    # Not epath's is_file, which takes anything that exists and is not a folder for a file.
    if not files.is_remote(path) and path.exists() and not pathlib.Path(path).is_file():
        raise OSError(f"{path} is not a regular file")
    return path.read_bytes()


def from_npy(content: bytes) -> np.ndarray:
    """Return the array of a .npy file.

    Raises:
      ValueError: it is damaged, or holds Python objects.
    """
    file = io.BytesIO(content)
    shape, fortran, dtype = read_header(file)
    start = file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(content) - start:
        raise ValueError(f"an array of shape {shape} in {len(content) - start} bytes")
    flat = np.frombuffer(content, dtype, offset=start)
    return flat.reshape(shape, order="F" if fortran else "C").copy()


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return the shape of a .npy file's array, whether it is in Fortran order, and its type.

    Afterwards the file is at the array's first byte.

    Raises:
      ValueError: it is damaged, or holds Python objects.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array of version {version}")
    header = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    return shape, fortran, dtype


def from_npz(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file by name, as `np.savez` writes it: not compressed.

    Raises:
      Exception: of many kinds if it is damaged; one flipped byte of a zip file is enough.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = file.infolist()
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > len(content):
            raise ValueError("a compressed file")
        return {m.filename.removesuffix(".npy"): from_npy(file.read(m)) for m in members}
