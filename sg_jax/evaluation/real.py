"""real.npz of a run: features of the real images, so that these are not read again.

Statistics are accumulated batch by batch and features of at most 10,000 images are kept, so memory
does not grow with the data set. The file belongs to the images that had the data set's name and
size when it was written, so delete it if you replace them.
"""

import dataclasses
import io
import json
import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from etils import epath

from sg_jax.evaluation.distances import Statistics
from sg_jax.evaluation.metrics import FeatureSet
from sg_jax.evaluation.reading import Reader, in_parts, spread
from sg_jax.runs import files

NAME = "real.npz"
COUNTED = [field.name for field in dataclasses.fields(Statistics)]
KEPT = 10_000  # images whose features are kept: ADM's number of reference images


class FeatureNetwork(Protocol):
    """A network that turns images into features."""

    @property
    def digest(self) -> str:
        """Hex digits; results with equal digests can be compared."""

    @property
    def test_accuracy(self) -> float | None:
        """Share of the test images that it labels correctly; None if it has no classes."""

    def score(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return features [N, F] and class probabilities [N, num_classes], if any, of images."""


@dataclasses.dataclass(frozen=True)
class View:
    """A feature network, and its features of the real images.

    Attributes:
      network: the network.
      real: the images that generated ones are compared with.
      test: images that the network was not trained on.
    """

    network: FeatureNetwork
    real: FeatureSet
    test: FeatureSet


def found_in(network: FeatureNetwork, reader: Reader, ids: np.ndarray) -> FeatureSet:
    """Return a network's features of the images `ids` of a data set, reading each image once.

    Args:
      network: the feature network.
      reader: the data set.
      ids: indices [N], N >= 1.

    Returns:
      Statistics over all N; features, labels and probabilities of min(N, 10,000) evenly spread.
    """
    kept = spread(KEPT, len(ids))
    parts: list[list[np.ndarray]] = []
    statistics, done = None, 0
    for images, labels in reader.batches(in_parts(ids)):
        features, probabilities = network.score(images)
        batch = Statistics.of(features, f"features of {reader.name}")
        statistics = batch if statistics is None else statistics.merge(batch)
        low, high = np.searchsorted(kept, [done, done + len(images)])
        chosen = kept[low:high] - done
        arrays = (features, labels) if probabilities is None else (features, labels, probabilities)
        parts.append([array[chosen] for array in arrays])
        done += len(images)
    joined = [np.concatenate(each) for each in zip(*parts, strict=True)]
    probabilities = joined[2] if len(joined) > 2 else None
    return FeatureSet(joined[0], joined[1], probabilities, statistics)


def save(path: str | os.PathLike, about: Mapping[str, Any], view: View) -> epath.Path:
    """Write the features of the real images, completely or not at all.

    Args:
      path: the .npz file.
      about: what they depend on, as JSON values by name.
      view: both sets and the network's digest are stored, its weights are not.
    """
    arrays: dict[str, Any] = {"about": json.dumps({**about, "digest": view.network.digest})}
    for name, each in (("real", view.real), ("test", view.test)):
        arrays |= {f"{name}/{key}": value for key, value in _arrays(each).items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return files.write_atomically(path, buffer.getvalue())


def load(path: str | os.PathLike, about: Mapping[str, Any], network: FeatureNetwork) -> View | None:
    """Return what `save` wrote; None if it is missing, damaged, or belongs to something else."""
    try:
        with np.load(io.BytesIO(files.path(path).read_bytes()), allow_pickle=False) as file:
            if json.loads(str(file["about"])) != {**about, "digest": network.digest}:
                return None
            return View(network, *(_feature_set(file, name) for name in ("real", "test")))
    except Exception:  # one flipped byte of a zip file raises many kinds of errors
        return None


def _arrays(found: FeatureSet) -> dict[str, np.ndarray]:
    arrays = {"features": found.features, "labels": found.labels}
    if found.probabilities is not None:
        arrays["probabilities"] = found.probabilities
    return arrays | {name: np.asarray(getattr(found.statistics, name)) for name in COUNTED}


def _feature_set(file: Mapping[str, np.ndarray], name: str) -> FeatureSet:
    count, mean, scatter = (file[f"{name}/{key}"] for key in COUNTED)
    counted = Statistics(int(count), mean, scatter)
    key = f"{name}/probabilities"
    probabilities = file[key] if key in file else None
    return FeatureSet(file[f"{name}/features"], file[f"{name}/labels"], probabilities, counted)
