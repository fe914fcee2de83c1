"""Checks of an example where it is read: its shape, its numbers and its label."""

import errno
import operator
import os
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from sg_jax.errors import UserError, one_line

PART = 1024  # examples read at a time


class Outside(UserError):
    """A file cannot be read, through no fault of its own: too many are open, or it was replaced."""


class Described(Protocol):
    """What the examples of a source have in common; see `data.sources.Source`."""

    @property
    def name(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def image_shape(self) -> tuple[int, int, int]: ...
    @property
    def latents(self) -> bool: ...
    @property
    def posterior(self) -> bool: ...


def fault(example: Mapping[str, Any], source: Described) -> str:
    """Return what is wrong with an example, as the end of "example 3 ...", or "".

    It costs a few microseconds for 32x32 latents.
    """
    for key in ("image", "std") if source.posterior else ("image",):
        what = {"image": "latents" if source.latents else "an image", "std": "standard deviations"}
        if wrong := _wrong_array(example.get(key), source):
            return f"has {what[key]} {wrong}"
    if source.posterior and example["std"].min() < 0:
        return f"has a standard deviation of {example['std'].min():.3g}, which must not be negative"
    label = example.get("label")
    try:
        number = operator.index(label)  # type: ignore[arg-type]
    except TypeError:
        return f"has label {label!r}; labels must be 0 to {source.num_classes - 1}"
    if not 0 <= number < source.num_classes:
        return f"has label {number}; labels must be 0 to {source.num_classes - 1}"
    return ""


def _wrong_array(array: Any, source: Described) -> str:
    types = ("float16", "float32") if source.latents else ("uint8",)
    if not isinstance(array, np.ndarray) or array.dtype.name not in types:
        kind = getattr(array, "dtype", type(array).__name__)
        return f"of type {kind}, which must be {' or '.join(types)}"
    if array.shape != source.image_shape:
        return f"of shape {array.shape}, not {source.image_shape}"
    if source.latents and not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        return f"that are not finite ({array[place]} at {place})"
    return ""


def place_of(source: Any, i: int) -> str:
    """Return where example `i` of a source is, for messages; "" if the source does not say."""
    for name in ("place", "file_of"):
        if hasattr(source, name):
            return getattr(source, name)(i)
    return ""


class Checked:
    """A source whose examples are checked as they are read."""

    def __init__(self, source: Any):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> Mapping[str, Any]:
        example = self._source[i]
        if wrong := fault(example, self._source):
            raise UserError(
                f"config.data.name={self._source.name!r}: example {i} of split "
                f"{self._source.split!r} {wrong}. Mend the data, or leave the example out."
            )
        return example


def is_passing(error: BaseException | None) -> bool:
    """Return whether an error was raised from a system error, so that the data may be intact.

    Pillow raises an OSError for damaged images too, but without an error number.
    """
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
            return True
        error = error.__cause__
    return False


def too_many_open(why: str) -> str:
    """Return the remedy if the text of an error says that too many files are open, or ""."""
    if os.strerror(errno.ENFILE) in why:  # it begins like the next one
        return "end other processes, because this machine has too many open files"
    if os.strerror(errno.EMFILE) in why:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        more = max(4096, 4 * limit)
        return f"raise the limit of {limit} open files, for example with `ulimit -n {more}`"
    return ""


def not_read(what: str, cause: Exception, remedy: str) -> UserError:
    """Return the error to raise where something cannot be read.

    Args:
      what: the thing that cannot be read, such as "photos.zip".
      cause: what reading it raised.
      remedy: what to do, unless the cause has one of its own.
    """
    why = one_line(cause)
    if isinstance(cause, Outside):
        return Outside(f"{what} cannot be read: {why}.")
    if other := too_many_open(why):
        return Outside(f"{what} cannot be read ({why}): {other}.")
    return UserError(f"{what} cannot be read ({why}): {remedy}.")


def unreadable(
    source: Any,
    progress: Callable[[int], object],
    threads: int = 16,
    numbers: Sequence[int] | None = None,
) -> Iterator[tuple[int, UserError]]:
    """Read the examples of a source; yield those that cannot be read, and why.

    Args:
      source: as `data.sources.Source` describes it.
      progress: called with the number of examples read, now and then.
      threads: how many threads read.
      numbers: which examples to read; all by default.

    Raises:
      Outside: an example cannot be read, through no fault of its own.
    """

    def read(i: int) -> UserError | None:
        try:
            source[i]
        except UserError as error:
            if isinstance(error, Outside) or too_many_open(str(error)):
                raise
            return error
        return None

    every = range(len(source)) if numbers is None else numbers
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(every), PART):
            part = every[start : start + PART]
            for i, error in zip(part, pool.map(read, part), strict=True):
                if error is not None:
                    yield i, error
            progress(start + len(part))
