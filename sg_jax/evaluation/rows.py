"""Features of many samples, in arrays or in .npy files, read in blocks."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from sg_jax.errors import UserError, one_line
from sg_jax.runs import arrays, files

BLOCK = 4096  # samples that are read at a time; with 2,048 float64 each, they take 64 MiB
LARGEST = np.finfo(np.float32).max


@dataclasses.dataclass(frozen=True)
class _Part:
    """An array [N, F], in memory or in a file that is read in parts."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], np.ndarray]  # rows from, and up to


class Rows:
    """Features [N, F] in parts, of which only one block at a time is held in memory.

    Args:
      parts: arrays [n, F] and paths of .npy files that hold such arrays, in float16, float32 or
        float64. Whole numbers in arrays become float64.
      name: what they are called in error messages.

    Raises:
      UserError: no parts, a wrong shape or type, unequal widths, NaN or numbers that are infinite
        in float32, a file that is missing or damaged.
    """

    def __init__(
        self, parts: Sequence[np.ndarray | str | os.PathLike], name: str = "features"
    ) -> None:
        if isinstance(parts, str | os.PathLike):
            raise UserError(f"{name}={str(parts)!r} must be a list of files: [{str(parts)!r}].")
        self.name = name
        self._parts = [self._open(part, i, len(parts)) for i, part in enumerate(parts)]
        if not self._parts:
            raise UserError(f"{name} has no parts: give at least one array or .npy file.")
        self.width = self._parts[0].shape[1]
        for part in self._parts:
            check_widths(part.shape[1], self.width, (part.name, self._parts[0].name))
        self._count = sum(part.shape[0] for part in self._parts)
        self.dtype = np.result_type(*(part.dtype for part in self._parts))
        for part in self._parts:
            _check_finite(part)

    @classmethod
    def of(cls, features: Any, name: str = "features", at_least: int = 1) -> "Rows":
        """Return features [N, F] as Rows, which may be Rows already.

        Raises:
          UserError: as for Rows itself, or fewer than `at_least` samples.
        """
        rows = features if isinstance(features, Rows) else cls([features], name)
        if len(rows) < at_least:
            raise UserError(
                f"{name} has {len(rows)} samples; at least {at_least} are needed: draw more."
            )
        return rows

    def __len__(self) -> int:
        return self._count

    def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        """Yield the features in order, [size, F] at a time, [1..size, F] at the end.

        The blocks do not depend on how the features are divided into parts.
        """
        held: list[np.ndarray] = []
        missing = size
        for part in self._parts:
            start = 0
            while start < part.shape[0]:
                stop = min(start + missing, part.shape[0])
                held.append(part.read(start, stop))
                missing -= stop - start
                start = stop
                if not missing:
                    yield self._joined(held)
                    held, missing = [], size
        if held:
            yield self._joined(held)

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return the features of the samples `ids`, int [M], as one array [M, F]."""
        found = np.empty((len(ids), self.width), self.dtype)
        start = 0
        for part in self._parts:
            for i in np.flatnonzero((ids >= start) & (ids < start + part.shape[0])):
                found[i] = part.read(ids[i] - start, ids[i] - start + 1)[0]
            start += part.shape[0]
        return found

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """The mean, float64 [F]."""
        return sum(block.sum(axis=0, dtype=np.float64) for block in self.blocks()) / len(self)

    def _joined(self, held: list[np.ndarray]) -> np.ndarray:
        whole = held[0] if len(held) == 1 else np.concatenate(held)
        return whole.astype(self.dtype, copy=False)

    def _open(self, part: Any, index: int, count: int) -> _Part:
        if isinstance(part, str | os.PathLike):
            return _check_shape(_of_file(part))
        array = np.asarray(part)
        if array.dtype.kind in "biu":
            array = array.astype(np.float64)
        elif array.dtype.name == "bfloat16":
            array = array.astype(np.float32)
        name = self.name if count == 1 else f"{self.name}[{index}]"
        return _check_shape(_Part(name, array.shape, array.dtype, lambda a, b: array[a:b]))


def _of_file(path: str | os.PathLike) -> _Part:
    """Return an .npy file as a part; pickles are not read."""
    file_path = files.path(path)
    try:
        with file_path.open("rb") as file:
            shape, fortran, dtype = arrays.read_header(file)
            start = file.tell()
            size = file.seek(0, os.SEEK_END) - start
        if size != np.prod(shape, dtype=object) * dtype.itemsize:
            raise ValueError(f"an array of shape {list(shape)} in {size} bytes")
        if fortran and len(shape) > 1:
            raise ValueError("an array in Fortran order")
    except Exception as cause:  # damaged files raise many kinds
        raise _unreadable(path, cause) from cause

    def read(begin: int, stop: int) -> np.ndarray:
        width = shape[1]
        try:
            with file_path.open("rb") as file:
                file.seek(start + begin * width * dtype.itemsize)
                content = file.read((stop - begin) * width * dtype.itemsize)
            return np.frombuffer(content, dtype).reshape(stop - begin, width)
        except (OSError, ValueError) as cause:  # it was changed meanwhile
            raise _unreadable(path, cause) from cause

    return _Part(str(path), shape, dtype, read)


def _unreadable(path: str | os.PathLike, cause: Exception) -> UserError:
    return UserError(
        f"{path} cannot be read as an array of features ({one_line(cause)}): write it again "
        "with numpy.save."
    )


def _check_shape(part: _Part) -> _Part:
    if len(part.shape) != 2 or not part.shape[1]:
        raise UserError(f"{part.name} has shape {list(part.shape)}; it must be [N, F].")
    if part.dtype.kind != "f" or part.dtype.itemsize > 8:
        raise UserError(
            f"{part.name} has values of type {part.dtype}: give float16, float32 or float64."
        )
    return part


def _check_finite(part: _Part) -> None:
    """Raise if numbers of a part are NaN or infinite, in float32 too."""
    broken = 0
    for start in range(0, part.shape[0], BLOCK):
        block = part.read(start, min(start + BLOCK, part.shape[0]))
        good = np.isfinite(block) if block.itemsize < 8 else np.abs(block) <= LARGEST
        if not good.all():
            broken += int(np.sum(~good.all(axis=1)))
    if broken:
        raise UserError(
            f"{part.name} has NaN or infinity in {broken} of {part.shape[0]} samples: look at the "
            "images they come from before measuring them."
        )


def check_widths(first: int, second: int, names: tuple[str, str] = ("real", "fake")) -> None:
    """Raise a UserError unless both sets have the same number of features per sample."""
    if first != second:
        raise UserError(
            f"{names[0]} has {first} features per sample and {names[1]} has {second}; they must "
            "come from the same network."
        )
