"""What networks find in a stream of images: sums, and the features that some metrics need.

Memory does not grow with the number of images: sums have one size, and features go to files, from
which the metrics read them in parts. An interrupted stream also continues from these files:

    FOLDER/state.npz              the sums after a number of images
    FOLDER/KIND_000000000.npy     kept features from number 0 on; more files may follow
"""

import dataclasses
import io
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from sg_jax.errors import one_line
from sg_jax.evaluation.distances import Predictions, Rows, Statistics
from sg_jax.evaluation.found import FeatureSet, Seen
from sg_jax.runs import arrays, files
from sg_jax.runs.progress import log

PAUSE = 30.0  # seconds between two saves, at least; each costs at most 5% of the time
IN_MEMORY = 2**23  # bytes of features that wait for a file
STATE = "state.npz"
SUMS = [field.name for field in dataclasses.fields(Statistics)]
CLASSES = np.int32


def arrays_of(statistics: Statistics, start: str) -> dict[str, np.ndarray]:
    """Return sums as arrays, by names that begin with `start`."""
    return {f"{start}{key}": np.asarray(getattr(statistics, key)) for key in SUMS}


def statistics_of(parts: Mapping[str, np.ndarray], start: str) -> Statistics:
    """Return the sums of `arrays_of`; raise a KeyError if one is missing."""
    count, mean, scatter = (parts[f"{start}{key}"] for key in SUMS)
    return Statistics(int(count), mean, scatter)


class Tally:
    """What one network finds in a stream of images.

    Args:
      kept: numbers of the images whose features are kept, ascending.
      labelled: numbers of those whose labels are kept; None: those of `kept`.
    """

    def __init__(self, kept: np.ndarray, labelled: np.ndarray | None = None):
        self.count = 0
        self._kept, self._labelled = kept, kept if labelled is None else labelled
        self._statistics: dict[str, Statistics] = {}
        self._predictions: Predictions | None = None
        self._fresh: list[np.ndarray] = []  # features that are not yet in a file
        self._files: list[epath.Path] = []
        self._filed = 0  # how many are in files
        self._classes: dict[str, list[np.ndarray]] = {"labels": [], "predicted": []}

    def empty(self) -> "Tally":
        """Return a tally of the same kind that has seen no images."""
        return Tally(self._kept, self._labelled)

    def add(self, seen: Seen, labels: np.ndarray) -> None:
        """Add what was found in the next images, of the classes `labels` [B]."""
        for name, found in (("features", seen.features), ("spatial", seen.spatial)):
            if found is not None:
                batch = Statistics.of(found, name)
                before = self._statistics.get(name)
                self._statistics[name] = batch if before is None else before.merge(batch)
        if seen.logits is not None:
            sums, logits = self._predictions, seen.logits
            self._predictions = Predictions.of(logits) if sums is None else sums.extend(logits)
        if len(chosen := self._among(self._kept, len(labels))):
            self._fresh.append(seen.features[chosen])
        chosen = self._among(self._labelled, len(labels))
        self._classes["labels"].append(np.asarray(labels, CLASSES)[chosen])
        if seen.probabilities is not None:
            predicted = seen.probabilities[chosen].argmax(axis=1).astype(CLASSES)
            self._classes["predicted"].append(predicted)
        self.count += len(labels)

    def _among(self, wanted: np.ndarray, size: int) -> np.ndarray:
        """Return which of the next `size` images are wanted, counted from the first of them."""
        low, high = np.searchsorted(wanted, [self.count, self.count + size])
        return wanted[low:high] - self.count

    @property
    def waiting(self) -> int:
        """Bytes of the features that are not yet in a file."""
        return sum(part.nbytes for part in self._fresh)

    def spill(self, start: str) -> None:
        """Move the features to a file; its path begins with `start`."""
        if self._fresh:
            part = np.concatenate(self._fresh)
            buffer = io.BytesIO()
            np.save(buffer, part)
            path = files.write_atomically(f"{start}_{self._filed:09d}.npy", buffer.getvalue())
            self._files.append(path)
            self._fresh, self._filed = [], self._filed + len(part)

    def state(self) -> dict[str, np.ndarray]:
        """Return all but the features, as arrays by name."""
        found = {"count": np.asarray(self.count)}
        for name, statistics in self._statistics.items():
            found |= arrays_of(statistics, f"{name}/")
        if self._predictions is not None:
            for field in dataclasses.fields(Predictions):
                found[f"logits/{field.name}"] = np.asarray(getattr(self._predictions, field.name))
        for name, parts in self._classes.items():
            if parts:
                found[name] = np.concatenate(parts)
        return found

    def restore(self, state: Mapping[str, np.ndarray], start: str) -> None:
        """Continue from what `state` returned, and from the files of features that `spill` wrote.

        Files of later images are removed.

        Raises:
          ValueError: a file is missing.
        """
        self.count = int(state["count"])
        for name in ("features", "spatial"):
            if f"{name}/count" in state:
                self._statistics[name] = statistics_of(state, f"{name}/")
        if "logits/split" in state:
            fields: dict[str, Any] = {
                f.name: state[f"logits/{f.name}"] for f in dataclasses.fields(Predictions)
            }
            self._predictions = Predictions(**fields)
        self._classes = {n: [state[n]] if n in state else [] for n in self._classes}
        self._filed = int(np.searchsorted(self._kept, self.count))
        folder, name = os.path.split(start)
        for path in files.named(folder, f"{name}_*.npy"):
            if int(path.stem.rpartition("_")[2]) < self._filed:
                self._files.append(path)
            else:
                path.unlink()
        if (found := len(Rows(self._files)) if self._files else 0) != self._filed:
            raise ValueError(f"features of {found} images instead of {self._filed}")

    def result(self) -> FeatureSet:
        """Return what has been found in all images so far."""
        classes = {name: np.concatenate(p) if p else None for name, p in self._classes.items()}
        kept: Any = None
        if self._files:
            kept = Rows([*self._files, *self._fresh])
        elif self._fresh:
            kept = np.concatenate(self._fresh)
        labels = classes["labels"]
        return FeatureSet(
            kept,
            np.zeros(0, CLASSES) if labels is None else labels,
            classes["predicted"],
            self._statistics["features"],
            self._statistics.get("spatial"),
            self._predictions,
        )


class Tallies:
    """The tallies of several networks over one stream, saved in a folder along the way.

    Args:
      tallies: by the kind of network.
      folder: where to keep them; None: in memory.
      about: what they depend on, in words; anything saved with other words is dropped.
    """

    def __init__(self, tallies: Mapping[str, Tally], folder: Any = None, about: str = ""):
        self.tallies = tallies
        self._folder = None if folder is None else files.path(folder)
        self._about = about
        self._due = time.monotonic() + PAUSE
        if self._folder is not None:
            self._restore(self._folder)

    @property
    def count(self) -> int:
        """Number of images so far."""
        return next(iter(self.tallies.values())).count if self.tallies else 0

    def add(self, seen: Mapping[str, Seen], labels: np.ndarray) -> None:
        """Add what each network found in the next images."""
        for kind, tally in self.tallies.items():
            tally.add(seen[kind], labels)
        if self._folder is None:
            return
        if time.monotonic() >= self._due:
            self.save()
        elif sum(tally.waiting for tally in self.tallies.values()) > IN_MEMORY:
            self._spill(self._folder)

    def save(self) -> None:
        """Save everything so far, so that another process can continue from here."""
        if self._folder is None or not self.count:
            return
        began = time.monotonic()
        self._spill(self._folder)
        parts: dict[str, Any] = {"about": np.asarray(self._about)}
        for kind, tally in self.tallies.items():
            parts |= {f"{kind}/{name}": array for name, array in tally.state().items()}
        buffer = io.BytesIO()
        np.savez(buffer, **parts)
        files.write_atomically(self._folder / STATE, buffer.getvalue())
        now = time.monotonic()
        self._due = now + max(PAUSE, 20 * (now - began))

    def _spill(self, folder: epath.Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, tally in self.tallies.items():
            tally.spill(os.fspath(folder / kind))

    def results(self) -> dict[str, FeatureSet]:
        """Return what each network has found so far."""
        return {kind: tally.result() for kind, tally in self.tallies.items()}

    def remove(self) -> None:
        """Remove the folder."""
        if self._folder is not None and self._folder.exists():
            self._folder.rmtree(missing_ok=True)

    def _restore(self, folder: epath.Path) -> None:
        """Continue from what an interrupted process saved, if it is complete and belongs here."""
        path = folder / STATE
        if not path.exists():
            self.remove()
            return
        try:
            parts = arrays.from_npz(arrays.read_bytes(path))
            if str(parts["about"]) != self._about:
                raise ValueError("it belongs to something else")
            for kind, tally in self.tallies.items():
                inner = {
                    n.partition("/")[2]: a for n, a in parts.items() if n.startswith(f"{kind}/")
                }
                tally.restore(inner, os.fspath(folder / kind))
            if len({tally.count for tally in self.tallies.values()}) > 1:
                raise ValueError("its parts have different numbers of images")
        except Exception as error:  # damaged files raise many kinds of errors
            log(f"{folder} cannot be used ({one_line(error)}): that work is done again.")
            self.remove()
            self.tallies = {kind: tally.empty() for kind, tally in self.tallies.items()}
