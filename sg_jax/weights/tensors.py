"""Arrays in files of weights, of which only the description is read at first.

A file may be far larger than the part of it that is wanted, and its description may promise more
than it holds. So a `Tensor` knows its shape, and reads its numbers when it is asked for them; a
reader gives them a `Budget`, which refuses what is out of proportion to the file.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

SPARE = 16 * 2**20  # bytes that the tensors of a small file may take in addition
PROPORTION = 4  # of all tensors to the file: some share their storage
MOST_AXES = 16

DTYPES = {  # by the names of safetensors
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
    "C64": np.dtype("<c8"),
}


def type_name(value: Any) -> str:
    """Return the name of a NumPy or JAX dtype, or of one by its name; "" for anything else."""
    try:
        return np.dtype(value).name
    except Exception:  # whatever the value is
        return ""


class Budget:
    """What the tensors and tables of a file may take together, in bytes."""

    def __init__(self, file_size: int):
        self.left = self.all = PROPORTION * file_size + SPARE

    def take(self, size: int) -> None:
        """Raise a ValueError if there is not that much left."""
        self.left -= size
        if self.left < 0:
            raise ValueError(
                f"what it describes takes over {self.all:,} bytes, more than it can hold"
            )


@dataclasses.dataclass
class Storage:
    """A row of numbers in a file.

    Args:
      dtype: their type.
      count: how many there are.
      read: returns their bytes.
    """

    dtype: np.dtype
    count: int
    read: Callable[[], bytes]

    @functools.cached_property
    def array(self) -> np.ndarray:
        """The numbers [count]; read-only."""
        content = self.read()
        if len(content) != self.count * self.dtype.itemsize:
            raise ValueError(
                f"{len(content):,} bytes where {self.count:,} numbers of {self.dtype} should be"
            )
        return np.frombuffer(content, self.dtype)


class Tensor:
    """A view of a storage: any strides, shared with other tensors or not.

    Args:
      storage: where its numbers are.
      offset: of its first number.
      shape: its shape.
      strides: numbers between neighbours along each axis.
      budget: of its file.

    Raises:
      ValueError: it reaches beyond its storage, or is out of proportion.
    """

    def __init__(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        budget: Budget,
    ):
        numbers = (offset, *shape, *strides)
        whole = all(type(n) is int and 0 <= n < 2**63 for n in numbers)
        if not whole or len(shape) != len(strides) or len(shape) > MOST_AXES:
            raise ValueError(f"a tensor of shape {str(shape)[:100]}, which is not a shape")
        self.size = math.prod(shape)
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if self.size and last >= storage.count:
            raise ValueError(
                f"a tensor of shape {shape} that reaches to number {last:,} of {storage.count:,}"
            )
        budget.take(self.size * storage.dtype.itemsize)
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides
        self.dtype, self.ndim = storage.dtype, len(shape)

    def numpy(self) -> np.ndarray:
        """Read its numbers; the result is read-only and may share memory with other tensors."""
        if not self.size:
            return np.zeros(self.shape, self.dtype)
        size = self.dtype.itemsize
        flat = self.storage.array[self.offset :]
        strides = tuple(size * stride for stride in self.strides)
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of an array whose last axis is the fastest."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
