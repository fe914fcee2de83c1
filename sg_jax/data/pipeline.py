"""From a source to the batch of a step: shuffled, repeated, flipped, shared among processes.

Batch `s` depends only on the source, the seed, flip, the batch size and `s`. Processes and workers
only divide the reading. The position of an iterator is therefore its step, and a checkpoint stores
nothing else.
"""

import contextlib
import functools
import math
import weakref
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from sg_jax.data.checks import Checked
from sg_jax.data.images import to_float
from sg_jax.data.sources import Source
from sg_jax.data.tfds_source import TfdsSource
from sg_jax.data.wording import Wording
from sg_jax.data.workers import MOST_THREADS, MOST_WORKERS, end_with_parent, without_signals
from sg_jax.errors import UserError, one_line

KEPT = 256 * 2**20  # most bytes of examples that a reading process keeps
FEW = 500  # examples; see `_Few`
EPOCHS = 2**40  # more than anybody trains


def train_iterator(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    flip: bool = False,
    threads: int = 4,
    workers: int = 0,
    wording: Wording | None = None,
) -> grain.DatasetIterator:
    """Return an endless iterator over {"image": float32 [b, H, W, C], "condition": int32 [b]}.

    With a `wording`, the condition is made from texts; see `data.wording`.

    Images are in [-1, 1]; latents are as stored, or drawn anew in every epoch from the stored
    normal distributions. Every epoch is a new permutation of all examples; a batch may span two
    epochs. The batches of all processes, in order, make up the batch of a single process.

    Args:
      source: examples by index.
      batch_size: examples per step over all processes; each gives b = batch_size / process_count.
      seed: seed of order, flips and draws, 0 <= seed < 2**32.
      process_index: which process this is; processes that read the same rows pass the same index.
      process_count: how many processes read different rows; see `parallel.processes.share`.
      flip: mirror each image left to right with probability 1/2, anew in every epoch.
      threads: how many threads prepare batches ahead in each reading process; 0 for none.
      workers: how many processes read instead of this one. They import the main module again, so a
        script needs `if __name__ == "__main__"`.
      wording: how a text network reads an image's captions, one of which is drawn in every epoch;
        None for class labels.

    Raises:
      UserError: the processes cannot share the batch equally, the seed or the number of workers or
        threads is out of range, or latents are to be flipped. When a batch is read: an example is
        unreadable, not an image or not finite, or its label is out of range.
    """
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"config.train.batch_size={batch_size} must be a positive multiple of the "
            f"{process_count} processes."
        )
    if not 0 <= seed < 2**32:
        raise UserError(f"config.seed={seed} must satisfy 0 <= seed < 2**32.")
    for key, value, most in (
        ("workers", workers, MOST_WORKERS),
        ("threads", threads, MOST_THREADS),
    ):
        if not 0 <= value <= most:
            raise UserError(f"config.data.{key}={value} must be 0 to {most}.")
    check_flip(flip, source.latents)
    found = _kept(source, wording)
    if len(source) <= FEW:
        examples = grain.MapDataset.source(_Few(found, seed)).seed(seed)
    else:
        examples = grain.MapDataset.source(found).seed(seed).shuffle().repeat()
    if flip:
        examples = examples.random_map(_flip)
    if source.posterior:
        examples = examples.random_map(_draw)
    if wording is not None:
        examples = examples.random_map(wording.draw)
    batches = examples.batch(batch_size // process_count, drop_remainder=True)
    return _StepIterator(batches[process_index::process_count], threads, workers)


class _Kept:
    """A small source whose examples are read and decoded once."""

    def __init__(self, source: Any):
        self._source = source
        self._examples: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> dict[str, Any]:
        if i not in self._examples:
            self._examples[i] = self._source[i]
        return self._examples[i]


class _Few:
    """All epochs of a small source, each a permutation.

    Grain computes each index of a permutation by itself, which takes the longer the fewer there
    are: about 2 ms for ten.
    """

    def __init__(self, source: Any, seed: int):
        self._source, self._seed = source, seed

    def __len__(self) -> int:
        return len(self._source) * EPOCHS

    def __getitem__(self, i: int) -> dict[str, Any]:
        epoch, number = divmod(i, len(self._source))
        return self._source[_order(len(self._source), self._seed, epoch)[number]]


@functools.lru_cache(maxsize=1024)  # a batch of 1,000 of one image has as many epochs
def _order(count: int, seed: int, epoch: int) -> list[int]:
    return np.random.default_rng([seed, epoch]).permutation(count).tolist()


def _kept(source: Source, wording: Wording | None) -> Any:
    """Return a source that checks its examples, and keeps them in memory if they are small."""
    numbers = len(source) * math.prod(source.image_shape) * (1 + source.posterior)
    size = numbers * (4 if source.latents else 1)
    # TFDS sources check their own examples, because they know the file that each comes from.
    checked: Any = source if isinstance(source, TfdsSource) else Checked(source)
    if wording is not None:
        checked = wording.of(source, checked)
        size += len(source) * wording.bytes_of(checked.texts(0))
    return _Kept(checked) if size <= KEPT else checked


def check_flip(flip: bool, latents: bool) -> None:
    """Raise if latents are to be mirrored, since a mirrored image has different latents."""
    if flip and latents:
        raise UserError(
            "config.data.flip=True mirrors pixels, but the latents of a mirrored image are not the "
            "mirrored latents: set it to False, and store the latents of the mirrored images as "
            "further examples (`--mode latents --from A B` joins two folders)."
        )


def seek(iterator: grain.DatasetIterator, position: int) -> None:
    """Move to the batch of step `position`."""
    if position < 0:
        raise ValueError(f"position={position} must be 0 or more")
    grain.experimental.set_next_index(iterator, position)


def _flip(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    if rng.random() >= 0.5:
        return example
    image = example["image"]
    # A view [:, ::-1] would be copied pixel by pixel into the batch, which is three times as slow.
    return {**example, "image": image.take(range(image.shape[1] - 1, -1, -1), axis=1)}


def _draw(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    mean, std = example["image"], example["std"]
    noise = rng.standard_normal(mean.shape, np.float32)
    rest = {name: value for name, value in example.items() if name not in ("image", "std")}
    return {"image": mean + std * noise, **rest}


def _finish(batch: dict[str, Any]) -> dict[str, Any]:
    images = batch["image"]
    floats = to_float(images) if images.dtype == np.uint8 else np.array(images, np.float32)
    if "condition" in batch:  # copied too, because a worker's batch lies in shared memory
        return {"image": floats, "condition": jax.tree.map(np.array, batch["condition"])}
    return {"image": floats, "condition": np.array(batch["label"], np.int32)}


class _StepIterator(grain.DatasetIterator):
    """Iterate from any step, with any number of workers, by slicing the data set there.

    Grain's own iterator cannot move to an index with two or more workers, and its state is tied to
    their number.
    """

    def __init__(self, batches: grain.MapDataset, threads: int, workers: int):
        super().__init__()
        self._batches = batches
        self._threads = threads
        self._workers = workers
        self._step = 0
        self._running: list[grain.DatasetIterator] = []  # empty before the first batch, then one
        # Close also when Python exits, where grain's own clean-up comes too late and complains.
        weakref.finalize(self, _close, self._running)

    def __next__(self) -> dict[str, np.ndarray]:
        self.start_prefetch()
        try:
            batch = next(self._running[0])
        except RuntimeError as error:
            if not (self._workers and "Worker process" in str(error)):
                raise
            raise UserError(
                f"A process that reads data has ended ({one_line(error)}). If the system killed it "
                f"for its memory, lower config.data.workers={self._workers} or config.data.threads="
                f"{self._threads}. The same command continues the run from its last checkpoint."
            ) from error
        self._step += 1
        return batch

    def start_prefetch(self) -> None:
        if self._closed:
            raise ValueError("the iterator is closed")
        if not self._running:
            with without_signals() if self._workers else contextlib.nullcontext():
                self._running.append(self._from_step())
                self._running[0].start_prefetch()

    def _from_step(self) -> grain.DatasetIterator:
        # Grain's default is 500 batches ahead: 100 GB at 256 images of 256x256.
        ahead = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._threads)
        batches = self._batches[self._step :]
        if not self._workers:
            return iter(batches.map(_finish).to_iter_dataset(ahead))
        if not flags.FLAGS.is_parsed():  # grain needs parsed flags; notebooks and tests parse none
            flags.FLAGS.mark_as_parsed()
        # Workers send uint8; the floats made here are a copy, so no batch stays in shared memory.
        options = grain.MultiprocessingOptions(num_workers=self._workers)
        finished = batches.to_iter_dataset(ahead).mp_prefetch(options, end_with_parent).map(_finish)
        # In a thread, so that the training loop does not wait for this.
        return iter(grain.experimental.ThreadPrefetchIterDataset(finished, prefetch_buffer_size=1))

    def get_state(self) -> dict[str, int]:
        return {"next_index": self._step}

    def set_state(self, state: dict[str, int]) -> None:
        self._set_next_index(state["next_index"])

    def _get_next_index(self) -> int:
        return self._step

    def _set_next_index(self, index: int) -> None:
        if index != self._step:
            _close(self._running)
        self._step = index

    def close(self) -> None:
        self._closed = True
        if self._running:  # `_close` may be gone when Python exits; then nothing is left
            _close(self._running)


def _close(running: list[grain.DatasetIterator]) -> None:
    while running:
        running.pop().close()
