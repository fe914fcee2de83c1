"""Draw images and score them as they come: none are kept, and an interrupted drawing is resumed."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath

from sg_jax.data.asked import Asked, labels_of
from sg_jax.evaluation.found import FeatureSet
from sg_jax.evaluation.judge import Judge
from sg_jax.evaluation.tally import Tallies
from sg_jax.parallel import processes
from sg_jax.runs.progress import Progress, log


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What a stream found.

    Attributes:
      sets: what the networks found, by kind; features may lie in files until `finish`.
      rate: images/s, without compilation and scoring.
      finish: removes these files.
    """

    sets: Mapping[str, FeatureSet]
    rate: float
    finish: Callable[[], None]


class Stream:
    """A drawing.

    Args:
      draw: (wanted, first=, progress=) -> iterator over images uint8 [b, H, W, C]; see
        `programs.sampling.sample_batches`.
      wanted: labels of all images [B], or captions with labels.
      judge: scores the images.
      keep: called with the first `shown` images; None: they are not needed.
      shown: how many that is.
      compiled: whether the program has run before, so that its first batch can be timed.
      batch_size: most images at once.
      files: keeps all images; None: they are not kept.
    """

    def __init__(
        self,
        draw: Callable[..., Iterator[np.ndarray]],
        wanted: np.ndarray | Asked,
        judge: Judge | None,
        *,
        keep: Callable[[np.ndarray], object] | None,
        shown: int,
        compiled: bool,
        batch_size: int,
        files: Any = None,
    ):
        self._draw, self._wanted, self._judge = draw, wanted, judge
        self._labels = labels_of(wanted)
        self._keep, self._shown, self._compiled = keep, shown, compiled
        self._batch, self._files = min(batch_size, len(wanted)), files

    def first(self) -> None:
        """Draw and keep only the first images."""
        images = np.concatenate(list(self._draw(self._wanted[: max(self._batch, self._shown)])))
        if self._keep is not None and processes.is_writer():
            self._keep(images[: self._shown])

    def run(self, folder: epath.Path, about: str) -> Drawn:
        """Draw and score all images.

        Args:
          folder: the writer's, from which an interrupted call continues.
          about: what the drawing depends on; see `Tallies`.
        """
        assert self._judge is not None
        writer, count = processes.is_writer(), len(self._labels)
        tallies = self._judge.tallies(count, folder, about) if writer else Tallies({})
        begun = int(processes.from_writer([tallies.count])[0])
        if begun:
            log(f"Continue after {begun} of {count} images.")
        if self._keep is not None and self._shown and (begun or self._shown > self._batch):
            self.first()
            self._compiled, self._keep = True, None
        elif not self._compiled and count - begun <= self._batch:
            for _ in self._draw(
                self._wanted[begun:], first=begun
            ):  # one batch: it is timed the second time
                self._compiled = True
        progress, done, seconds, timed = Progress(begun, count, 1, unit="image"), begun, 0.0, 0
        batches = self._draw(self._wanted[begun:], first=begun)
        adding: Future | None = None
        with ThreadPoolExecutor(1, "statistics") as pool:
            while done < count:
                began = time.perf_counter()
                images = next(batches)
                if self._compiled:  # a padded last batch costs as much as a full one
                    seconds, timed = seconds + time.perf_counter() - began, timed + self._batch
                self._compiled = True
                seen, labels = self._judge.observe(images), self._labels[done : done + len(images)]
                if writer:
                    if adding is not None:
                        adding.result()
                    adding = pool.submit(self._add, tallies, seen, labels, images, done)
                done += len(images)
                progress.sometimes(done)
            if adding is not None:
                adding.result()
        if self._files is not None:
            self._files.finish(count)
        rate = timed / seconds if timed else self._rate()
        return Drawn(tallies.results(), rate, tallies.remove)

    def _rate(self) -> float:
        """Return the images/s of one batch, for when nothing else was left to draw."""
        for _ in range(2 - self._compiled):
            began = time.perf_counter()
            for _ in self._draw(self._wanted[: self._batch]):
                pass
        return self._batch / (time.perf_counter() - began)

    def _add(
        self, tallies: Tallies, seen: Mapping, labels: np.ndarray, images: np.ndarray, done: int
    ) -> None:
        if self._keep is not None and not done:
            self._keep(images[: self._shown])
        if self._files is not None:
            self._files.add(images, done)
        tallies.add(seen, labels)
