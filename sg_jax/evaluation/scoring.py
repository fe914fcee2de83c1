"""Score sets of images against a data set: what evaluation, sweep and diversity share."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from sg_jax.data.pipeline import all_images
from sg_jax.data.sources import Source, open_source
from sg_jax.encoders.classifier import Recipe
from sg_jax.errors import UserError
from sg_jax.evaluation import distances, features
from sg_jax.runs import files
from sg_jax.runs.progress import log


@dataclasses.dataclass(frozen=True)
class Scores:
    """What one set of images scored; see `results.SettingResult`."""

    frechet: float
    precision: float
    recall: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Judge:
    """A feature network, and the real images it compares with.

    Attributes:
      scorer: the feature network.
      reference: features of the real images [N, F].
      labels: their classes [N].
      test_features: features of real images that the network was not trained on [M, F].
    """

    scorer: features.Scorer
    reference: np.ndarray
    labels: np.ndarray
    test_features: np.ndarray

    @property
    def digest(self) -> str:
        """Which feature network it is, in eight hex digits."""
        return self.scorer.digest

    @functools.cached_property
    def real(self) -> distances.Reference:
        """The real images, as many sets are compared with them."""
        return distances.Reference(self.reference)

    @property
    def floor(self) -> float:
        """Fréchet distance of the test images: about the least that generated ones can reach."""
        return self.real.frechet(self.test_features)

    def score(self, images: np.ndarray, labels: np.ndarray) -> Scores:
        """Score images, uint8 [B, H, W, C], that were drawn for `labels` [B]."""
        found, probabilities = self.scorer.score(images)
        precision, recall = self.real.precision_recall(found)
        return Scores(
            frechet=self.real.frechet(found),
            precision=precision,
            recall=recall,
            accuracy=distances.class_accuracy(probabilities, labels),
        )


def recipe(config: ConfigDict) -> Recipe:
    """Return the recipe of the feature network in `config.features`.

    Raises:
      UserError: a value that the recipe does not take.
    """
    try:
        return Recipe(**{k: v for k, v in config.features.items() if k != "path"})
    except UserError as error:
        raise UserError(f"config.{error}") from None


def open_judge(config: ConfigDict, source: Source, workdir: str | os.PathLike) -> Judge:
    """Read the images of a completed config, and read or train the feature network.

    The network learns from all training images; `config.evaluate.references` of them, evenly spread
    over the data set, are what is compared with (0: all). It is kept in the run's classifier.npz,
    or in `config.features.path`, which runs on the same data can share.

    Args:
      config: its sections `data`, `features` and `evaluate` count.
      source: the training images.
      workdir: folder of the run.

    Raises:
      UserError: a test split that cannot be opened.
    """
    real, labels = all_images(source)
    test = open_source(
        source.name,
        config.data.test_split,
        data_dir=config.data.data_dir or None,
        image_size=config.data.image_size or None,
    )
    test_images, test_labels = all_images(test)
    scorer = features.cached_scorer(
        config.features.path or files.path(workdir) / "classifier.npz",
        real,
        labels,
        test_images,
        test_labels,
        name=source.name,
        num_classes=source.num_classes,
        recipe=recipe(config),
        log=log,
        replace=not config.features.path,  # other runs may use that one, or it is another file
    )
    count = min(config.evaluate.references or len(real), len(real))
    spread = np.arange(count) * len(real) // count  # a data set may be stored class by class
    reference = scorer.features(real[spread])
    return Judge(scorer, reference, labels[spread], scorer.features(test_images))


def timed(
    draw: Callable[[np.ndarray], np.ndarray], labels: np.ndarray, batch_size: int
) -> tuple[np.ndarray, float]:
    """Return `draw(labels)` and its images/s.

    The last batch costs as much as a whole one, and counts as one. Call `draw` on a batch before,
    so that compilation is left out.
    """
    batch = min(batch_size, len(labels))
    began = time.perf_counter()
    images = draw(labels)
    seconds = time.perf_counter() - began
    return images, -(-len(labels) // batch) * batch / seconds
