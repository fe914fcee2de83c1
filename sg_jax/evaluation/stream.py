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
from sg_jax.programs.sampling import COMPILE
from sg_jax.runs.progress import Progress, Spent, log


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
      draw: (wanted, first=, spent=) -> iterator over images uint8 [b, H, W, C]; see
        `programs.sampling.sample_batches`.
      wanted: labels of all images [B], or captions with labels.
      judge: scores the images.
      keep: called with the first `shown` images; None: they are not needed.
      shown: how many that is.
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
        batch_size: int,
        files: Any = None,
    ):
        self._draw, self._wanted, self._judge = draw, wanted, judge
        self._labels = labels_of(wanted)
        self._keep, self._shown, self._files = keep, shown, files
        self._batch, self._spent = min(batch_size, len(wanted)), Spent()

    def first(self) -> None:
        """Draw and keep only the first images."""
        images = np.concatenate(list(self._from(0, max(self._batch, self._shown))))
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
            self._keep = None
        # The last images are drawn in a full batch too, since fewer would need another program.
        start = min(begun, count - self._batch)
        batches, drawn = self._from(start), begun - start
        progress, done, seconds = Progress(begun, count, 1, unit="image"), begun, []
        adding: Future | None = None
        with ThreadPoolExecutor(1, "statistics") as pool:
            while done < count:
                images, took = self._timed(batches)
                images, drawn = images[drawn:], 0
                seconds.append(took)
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
        # The first batch takes longer than others; a last one that is filled up takes as long.
        seconds = seconds[1:] or seconds or [self._timed(self._from(0, self._batch))[1]]
        return Drawn(tallies.results(), self._batch / float(np.mean(seconds)), tallies.remove)

    def _from(self, first: int, end: int | None = None) -> Iterator[np.ndarray]:
        """Draw from image `first` on, up to image `end`."""
        return self._draw(self._wanted[first:end], first=first, spent=self._spent)

    def _timed(self, batches: Iterator[np.ndarray]) -> tuple[np.ndarray, float]:
        """Return the next batch, and the seconds that it took without compilation."""
        began, before = time.perf_counter(), self._spent.seconds.get(COMPILE, 0.0)
        images = next(batches)
        compiling = self._spent.seconds.get(COMPILE, 0.0) - before
        return images, time.perf_counter() - began - compiling

    def _add(
        self, tallies: Tallies, seen: Mapping, labels: np.ndarray, images: np.ndarray, done: int
    ) -> None:
        if self._keep is not None and not done:
            self._keep(images[: self._shown])
        if self._files is not None:
            self._files.add(images, done)
        tallies.add(seen, labels)
