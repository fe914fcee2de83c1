"""What networks find in real images, and the file that keeps it, so images are read only once.

Sums are accumulated batch by batch and features of at most 10,000 images are kept, so memory does
not grow with the data set. The file is valid for the data sets that it names, with their sizes
and what `data.identity` finds in them.
"""

import dataclasses
import io
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from sg_jax.evaluation import tally
from sg_jax.evaluation.distances import Rows
from sg_jax.evaluation.found import FeatureSet, Seen
from sg_jax.evaluation.metrics import Scores
from sg_jax.evaluation.reading import BATCH, Reader, in_parts, spread
from sg_jax.evaluation.tally import Tallies, Tally
from sg_jax.parallel import processes
from sg_jax.runs import arrays, files
from sg_jax.runs.progress import Progress, log

KEPT = 10_000  # images whose features are kept: ADM's number of reference images


class FeatureNetwork(Protocol):
    """A network that turns images into features."""

    @property
    def digest(self) -> str:
        """Hex digits; results with equal digests can be compared."""

    @property
    def test_accuracy(self) -> float | None:
        """Share of the test images that it labels correctly; None if it has no classes."""

    def score(self, images: np.ndarray) -> tuple:
        """Return what it finds in images, as `Seen` or its first fields."""


@dataclasses.dataclass(frozen=True)
class View:
    """A feature network, and what it finds in the real images.

    Attributes:
      network: the network.
      real: the images that generated ones are compared with.
      test: images that the network was not trained on; None if there are none.
      scores: the scores of the test images that have been measured.
    """

    network: FeatureNetwork
    real: FeatureSet
    test: FeatureSet | None = None
    scores: Scores = dataclasses.field(default_factory=dict)


NOTHING = FeatureSet(None, np.zeros(0, np.int32))  # what processes that do not write have


def found_in(network: FeatureNetwork, reader: Reader, ids: np.ndarray) -> FeatureSet:
    """Return what one network finds in the images `ids` of a data set; see `all_found_in`."""
    return all_found_in({"": network}, reader, ids)[""]


def all_found_in(
    networks: Mapping[str, FeatureNetwork],
    reader: Reader,
    ids: np.ndarray,
    folder: str | os.PathLike | None = None,
    about: str = "",
) -> dict[str, FeatureSet]:
    """Return what networks find in images of a data set, reading each image once.

    Args:
      networks: by kind.
      reader: the data set.
      ids: indices [N], N >= 1.
      folder: where an interrupted call is continued; None: nowhere.
      about: what the result depends on; see `Tallies`.

    Returns:
      By kind: sums over all N; features and labels of min(N, 10,000) evenly spread ones. If the
      processes look at the images together, only the writer has these; others return {}.
    """
    kept = spread(KEPT, len(ids))
    tallies = Tallies({kind: Tally(kept) for kind in networks}, folder, about)
    together = jax.process_count() > 1 and all(
        getattr(network, "together", False) for network in networks.values()
    )
    done = int(processes.from_writer([tallies.count])[0]) if together else tallies.count
    progress = Progress(done, len(ids), 1, unit="image")
    for seen, labels in (_together if together else _alone)(networks, reader, ids[done:]):
        if not together or processes.is_writer():
            tallies.add(seen, labels)
        done += len(labels)
        progress.sometimes(done)
    if not tallies.count:
        return {}
    found = {kind: _in_memory(each) for kind, each in tallies.results().items()}
    tallies.remove()
    return found


Looked = Iterator[tuple[dict[str, Seen], np.ndarray]]


def _alone(networks: Mapping[str, Any], reader: Reader, ids: np.ndarray) -> Looked:
    """Yield what this process finds in each batch, and the labels."""
    for images, labels in reader.batches(in_parts(ids)):
        yield {kind: Seen(*network.score(images)) for kind, network in networks.items()}, labels


def _together(networks: Mapping[str, Any], reader: Reader, ids: np.ndarray) -> Looked:
    """Yield the same, in all processes together: each reads its share of a batch."""
    first, count = jax.process_index() * BATCH, jax.process_count() * BATCH
    parts = list(in_parts(ids, count))
    shares = [part[first : first + BATCH] for part in parts]
    for part, (images, labels) in zip(parts, reader.batches(shares), strict=True):
        seen = {k: net.score_share(images, BATCH, len(part)) for k, net in networks.items()}
        padded = np.zeros(BATCH, np.int32)
        padded[: len(labels)] = labels
        yield seen, multihost_utils.process_allgather(padded, tiled=True)[: len(part)]


def _in_memory(found: FeatureSet) -> FeatureSet:
    if isinstance(found.features, Rows):
        whole = np.concatenate(list(found.features.blocks(BATCH)))
        return dataclasses.replace(found, features=whole)
    return found


def save(path: str | os.PathLike, about: Mapping[str, Any], view: View) -> epath.Path:
    """Write what was found in the real images, completely or not at all.

    Args:
      path: the .npz file.
      about: what it depends on, as JSON values by name.
      view: both sets, the scores and the network's digest are stored, but not its weights.
    """
    parts: dict[str, Any] = {
        "about": json.dumps({**about, "digest": view.network.digest}),
        "scores": json.dumps(view.scores),
    }
    for name, each in (("real", view.real), ("test", view.test)):
        if each is not None:
            parts |= {f"{name}/{key}": value for key, value in arrays_of(each).items()}
    buffer = io.BytesIO()
    np.savez(buffer, **parts)
    return files.write_atomically(path, buffer.getvalue())


def load(path: str | os.PathLike, about: Mapping[str, Any], network: FeatureNetwork) -> View | None:
    """Return what `save` wrote; None if it is missing, damaged, or belongs to something else."""
    try:
        parts = arrays.from_npz(arrays.read_bytes(files.path(path)))
        made_from = json.loads(str(parts["about"]))
        if None not in about.get("data", [None]):  # identified, so the place does not matter
            made_from = {**made_from, "name": about["name"]}
        if made_from != {**about, "digest": network.digest}:
            return None
        real = of_arrays(parts, "real")
        test = of_arrays(parts, "test") if "test/features" in parts else None
        if test is not None and real.width != test.width:
            raise ValueError("features of two networks")
        # Older files have no scores.
        scores = json.loads(str(parts["scores"])) if "scores" in parts else {}
        known = {name: None if value is None else float(value) for name, value in scores.items()}
        return View(network, real, test, known)
    except FileNotFoundError:
        return None
    except Exception as error:  # one flipped byte of a zip file raises many kinds of errors
        log(f"{path} cannot be read ({type(error).__name__}: {error}): it is made again.")
        return None


def arrays_of(found: FeatureSet) -> dict[str, np.ndarray]:
    """Return a set as arrays by name."""
    stored = {"features": np.asarray(found.kept), "labels": found.labels}
    if found.predicted is not None:
        stored["predicted"] = found.predicted
    for start, statistics in (("", found.statistics), ("spatial/", found.spatial)):
        if statistics is not None:
            stored |= tally.arrays_of(statistics, start)
    return stored


def of_arrays(parts: Mapping[str, np.ndarray], name: str) -> FeatureSet:
    """Return the set of `arrays_of`; raise a ValueError unless the arrays belong together."""
    parts = {
        n.removeprefix(f"{name}/"): array for n, array in parts.items() if n.startswith(f"{name}/")
    }
    features, labels = parts["features"], parts["labels"]
    kept, size = features.shape
    spatial = parts["spatial/mean"].shape[0] if "spatial/mean" in parts else 0
    wanted = {"mean": (size,), "scatter": (size, size), "labels": (kept,)}
    wanted |= {"spatial/scatter": (spatial, spatial)} if spatial else {}
    wanted |= {"predicted": (kept,)} if "predicted" in parts else {}
    for key, shape in wanted.items():
        if parts[key].shape != shape:
            raise ValueError(f"{name}/{key} has shape {parts[key].shape} instead of {shape}")
    probabilities = parts.get("probabilities")  # in older files
    if probabilities is not None and (probabilities.ndim != 2 or len(probabilities) != kept):
        raise ValueError(f"{name}/probabilities has shape {probabilities.shape}")
    if not all(np.isfinite(x).all() for x in parts.values()) or labels.dtype.kind != "i":
        raise ValueError(f"{name} contains NaN, infinity or labels that are not integers")
    predicted = parts.get("predicted")
    if probabilities is not None:
        predicted = probabilities.argmax(axis=1)
    return FeatureSet(
        features,
        labels,
        predicted,
        tally.statistics_of(parts, ""),
        tally.statistics_of(parts, "spatial/") if spatial else None,
    )
