"""Read the images of a data set in batches, without holding them all.

A source is anything with `len(source)` and `source[i] -> {"image": uint8 [H, W, C], "label": int}`
that several threads may read at once.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np

from sg_jax.data.pipeline import KEPT as KEEP_BYTES
from sg_jax.errors import UserError

BATCH = 256
THREADS = min(16, os.cpu_count() or 1)

Part = TypeVar("Part")
Found = TypeVar("Found")
Batch = tuple[np.ndarray, np.ndarray]  # uint8 [b, H, W, C], int32 [b]


class Examples(Protocol):
    """Labelled images by index; see the module."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Mapping[str, Any]: ...


class Reader:
    """Read the images and labels of a source by index, as arrays.

    Images that take at most 256 MiB in all are decoded once and kept; others are read again each
    time, by threads.

    Args:
      source: the examples.
      name: their name in error messages.

    Raises:
      UserError: there are no examples, or images are not uint8 [H, W, C].
    """

    def __init__(self, source: Examples, name: str = "images"):
        if not len(source):
            raise UserError(f"{name} is empty; training and testing both need images.")
        self.source, self.name = source, name
        first = source[0]["image"]
        check_images(name, np.asarray(first)[None])
        self.image_shape: tuple[int, int, int] = first.shape
        self.keeps = len(source) * first.nbytes <= KEEP_BYTES
        self._pool = ThreadPoolExecutor(THREADS)

    def __len__(self) -> int:
        return len(self.source)

    def read(self, ids: Sequence[int] | np.ndarray) -> Batch:
        """Return images uint8 [b, H, W, C] and labels int32 [b] of the examples `ids` [b].

        Raises:
          UserError: an image differs from the first one in type or shape.
        """
        if self.keeps:
            images, labels = self._all
            return images[ids], labels[ids]
        return self._read(ids)

    @functools.cached_property
    def _all(self) -> Batch:
        return self._read(range(len(self)))

    def _read(self, ids: Sequence[int] | np.ndarray) -> Batch:
        images = np.empty((len(ids), *self.image_shape), np.uint8)
        labels = np.empty(len(ids), np.int32)

        def read_some(places: np.ndarray) -> None:
            for place in places:
                example = self.source[int(ids[place])]
                check_images(self.name, np.asarray(example["image"])[None], self.image_shape)
                images[place], labels[place] = example["image"], example["label"]

        # A task per thread: one per image would cost as much as decoding a small one.
        list(self._pool.map(read_some, np.array_split(np.arange(len(ids)), THREADS)))
        return images, labels

    def batches(self, parts: Iterable[Sequence[int] | np.ndarray]) -> Iterator[Batch]:
        """Yield `read(ids)` for each of `parts`, reading the next one meanwhile."""
        return ahead(self.read, parts)


def ahead(read: Callable[[Part], Found], parts: Iterable[Part]) -> Iterator[Found]:
    """Yield `read(part)` for each of `parts`, reading the next one meanwhile in a thread."""
    with ThreadPoolExecutor(1) as pool:
        following: Future[Found] | None = None
        for part in parts:
            current, following = following, pool.submit(read, part)
            if current is not None:
                yield current.result()
        if following is not None:
            yield following.result()


def in_parts(ids: np.ndarray, size: int = BATCH) -> Iterator[np.ndarray]:
    """Cut indices into parts of `size`; the last may be shorter."""
    return (ids[start : start + size] for start in range(0, len(ids), size))


def spread(count: int, total: int) -> np.ndarray:
    """Return `count` indices evenly spread over `total`, ascending; all if `total` is smaller.

    Evenly spread, because a data set may be stored class by class.
    """
    count = min(count, total)
    return np.arange(count) * total // count


def check_images(name: str, images: np.ndarray, shape: tuple[int, ...] | None = None) -> None:
    """Raise UserError unless `images` is uint8 [N, H, W, C], with (H, W, C) = `shape` if given."""
    found = f"{getattr(images, 'dtype', type(images).__name__)} {list(np.shape(images))}"
    sides = "H, W, C" if shape is None else ", ".join(map(str, shape))
    fits = np.ndim(images) == 4 and (shape is None or images.shape[1:] == shape)
    if not fits or images.dtype != np.uint8:
        raise UserError(f"{name} is {found}; it must be uint8 [N, {sides}].")
