"""From a source to batches of a step: shuffled, repeated, flipped, shared among processes.

Batch `s` is a function of (source, seed, flip, batch size) and `s` alone. Processes and workers
only divide the reading, so the position of an iterator is the step, and that is all that a
checkpoint has to hold.
"""

import weakref
from typing import Any

import grain
import numpy as np
from absl import flags

from sg_jax.data.images import to_float
from sg_jax.data.sources import Source
from sg_jax.errors import UserError


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
) -> grain.DatasetIterator:
    """Return an endless iterator over {"image": float32 [b, H, W, C], "condition": int32 [b]}.

    Images are in [-1, 1]; latents are as stored, or drawn anew in every epoch from the normal
    distributions stored. Every epoch is a new permutation of all examples; a batch may span two.
    The batches of all processes, concatenated in their order, are the batch of one process.

    Args:
      source: examples by index.
      batch_size: examples per step over all processes; each gives b = batch_size / process_count.
      seed: of order, flips and draws, 0 <= seed < 2**32.
      process_index: which process this is; processes that need the same rows give the same.
      process_count: how many there are, with other rows each; see `distributed.share`.
      flip: mirror each image left to right with probability 1/2, anew in every epoch.
      threads: threads that prepare batches ahead, in each reading process; 0 prepares none ahead.
      workers: processes that read instead of this one. They import the main module anew, so a
        script needs `if __name__ == "__main__"`.

    Raises:
      UserError: a batch size that cannot be divided, a seed or a number of workers out of range,
        latents to be flipped.
    """
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"config.train.batch_size={batch_size} must be a positive multiple of the "
            f"{process_count} processes."
        )
    if not 0 <= seed < 2**32:
        raise UserError(f"config.seed={seed} must satisfy 0 <= seed < 2**32.")
    if workers < 0:
        raise UserError(f"config.data.workers={workers} must be 0 or more.")
    check_flip(flip, source.latents)
    examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    if flip:
        examples = examples.random_map(_flip)
    if source.posterior:
        examples = examples.random_map(_draw)
    batches = examples.batch(batch_size // process_count, drop_remainder=True)
    return _StepIterator(batches[process_index::process_count], threads, workers)


def check_flip(flip: bool, latents: bool) -> None:
    """Raise if latents are to be mirrored: that is not what the mirrored image would give."""
    if flip and latents:
        raise UserError(
            "config.data.flip=True mirrors pixels, and the latents of a mirrored image are not the "
            "mirrored latents: set it to False, and store the latents of the mirrored images as "
            "further examples (`--mode latents --from A B` joins two folders)."
        )


def seek(iterator: grain.DatasetIterator, position: int) -> None:
    """Make the batch of step `position` the next one, whatever was read before."""
    if position < 0:
        raise ValueError(f"position={position} must be 0 or more")
    grain.experimental.set_next_index(iterator, position)


def _flip(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    if rng.random() >= 0.5:
        return example
    image = example["image"]
    # A view [:, ::-1] would be copied pixel by pixel into the batch: three times as slow.
    return {**example, "image": image.take(range(image.shape[1] - 1, -1, -1), axis=1)}


def _draw(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    mean, std = example["image"], example["std"]
    noise = rng.standard_normal(mean.shape, np.float32)
    return {"image": mean + std * noise, "label": example["label"]}


def _finish(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    images = batch["image"]
    floats = to_float(images) if images.dtype == np.uint8 else np.array(images, np.float32)
    return {"image": floats, "condition": np.array(batch["label"], np.int32)}


class _StepIterator(grain.DatasetIterator):
    """Iterate from any step on, with any number of workers, by slicing the batches there.

    Grain's own iterator over two or more workers cannot be set to an index, and its state fits no
    other number of workers.
    """

    def __init__(self, batches: grain.MapDataset, threads: int, workers: int):
        super().__init__()
        self._batches = batches
        self._threads = threads
        self._workers = workers
        self._step = 0
        self._running: list[grain.DatasetIterator] = []  # none before the first batch, then one
        # Also when Python ends: grain's own clean-up comes too late there, and complains.
        weakref.finalize(self, _close, self._running)

    def __next__(self) -> dict[str, np.ndarray]:
        self.start_prefetch()
        batch = next(self._running[0])
        self._step += 1
        return batch

    def start_prefetch(self) -> None:
        if self._closed:
            raise ValueError("the iterator is closed")
        if not self._running:
            self._running.append(self._from_step())
            self._running[0].start_prefetch()

    def _from_step(self) -> grain.DatasetIterator:
        # Grain's default is 500 batches ahead: 100 GB at 256 images of 256x256.
        ahead = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._threads)
        batches = self._batches[self._step :]
        if not self._workers:
            return iter(batches.map(_finish).to_iter_dataset(ahead))
        if not flags.FLAGS.is_parsed():  # which grain needs; a notebook or a test parses none
            flags.FLAGS.mark_as_parsed()
        # Workers send uint8; the floats made here are a copy, so no batch is in shared memory.
        options = grain.MultiprocessingOptions(num_workers=self._workers)
        finished = batches.to_iter_dataset(ahead).mp_prefetch(options).map(_finish)
        # In a thread, so that the training loop does not wait for that.
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
        if self._running:  # at Python's end `_close` may be gone, but then there is none
            _close(self._running)


def _close(running: list[grain.DatasetIterator]) -> None:
    while running:
        running.pop().close()
