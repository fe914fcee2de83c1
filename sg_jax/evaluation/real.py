"""real.npz of a run: features of the real images, so that these are not read again.

Statistics are accumulated batch by batch and features of at most 10,000 images are kept, so memory
does not grow with the data set. The file belongs to the data sets that it names: their sizes, and
what `data.identity` finds in them.
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
from sg_jax.evaluation.metrics import FeatureSet, Scores
from sg_jax.evaluation.reading import Reader, in_parts, spread
from sg_jax.runs import arrays, files
from sg_jax.runs.progress import log

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
      scores: how the test images score, as far as that was measured.
    """

    network: FeatureNetwork
    real: FeatureSet
    test: FeatureSet
    scores: Scores = dataclasses.field(default_factory=dict)


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
      view: both sets, the scores and the network's digest are stored, its weights are not.
    """
    parts: dict[str, Any] = {
        "about": json.dumps({**about, "digest": view.network.digest}),
        "scores": json.dumps(view.scores),
    }
    for name, each in (("real", view.real), ("test", view.test)):
        parts |= {f"{name}/{key}": value for key, value in _arrays(each).items()}
    buffer = io.BytesIO()
    np.savez(buffer, **parts)
    return files.write_atomically(path, buffer.getvalue())


def load(path: str | os.PathLike, about: Mapping[str, Any], network: FeatureNetwork) -> View | None:
    """Return what `save` wrote; None if it is missing, damaged, or belongs to something else."""
    try:
        parts = arrays.from_npz(arrays.read_bytes(files.path(path)))
        if json.loads(str(parts["about"])) != {**about, "digest": network.digest}:
            return None
        real, test = (_feature_set(parts, name) for name in ("real", "test"))
        if real.features.shape[1:] != test.features.shape[1:]:
            raise ValueError("features of two networks")
        # Older files have no scores.
        scores = json.loads(str(parts["scores"])) if "scores" in parts else {}
        known = {name: None if value is None else float(value) for name, value in scores.items()}
        return View(network, real, test, known)
    except FileNotFoundError:
        return None
    except Exception as error:  # one flipped byte of a zip file raises many kinds of errors
        log(f"{path} cannot be read ({type(error).__name__}: {error}): it is made anew.")
        return None


def _arrays(found: FeatureSet) -> dict[str, np.ndarray]:
    arrays = {"features": found.features, "labels": found.labels}
    if found.probabilities is not None:
        arrays["probabilities"] = found.probabilities
    return arrays | {name: np.asarray(getattr(found.statistics, name)) for name in COUNTED}


def _feature_set(parts: Mapping[str, np.ndarray], name: str) -> FeatureSet:
    """Return one set of `_arrays`; raise a ValueError unless they belong together."""
    count, mean, scatter = (parts[f"{name}/{key}"] for key in COUNTED)
    features, labels = parts[f"{name}/features"], parts[f"{name}/labels"]
    probabilities = parts.get(f"{name}/probabilities")
    kept, size = features.shape
    wanted = {
        "mean": (mean, (size,)),
        "scatter": (scatter, (size, size)),
        "labels": (labels, (kept,)),
    }
    for key, (array, shape) in wanted.items():
        if array.shape != shape:
            raise ValueError(f"{name}/{key} has shape {array.shape} instead of {shape}")
    if probabilities is not None and (probabilities.ndim != 2 or len(probabilities) != kept):
        raise ValueError(f"{name}/probabilities has shape {probabilities.shape}")
    if not all(np.isfinite(x).all() for x in (features, mean, scatter)) or labels.dtype.kind != "i":
        raise ValueError(f"{name} contains NaN, infinity or labels that are no ints")
    return FeatureSet(features, labels, probabilities, Statistics(int(count), mean, scatter))
