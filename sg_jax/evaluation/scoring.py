"""Score sets of images against a data set; evaluate, sweep and diversity use this."""

import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sg_jax.config.sections import Config
from sg_jax.data import identity
from sg_jax.data import origin as origins
from sg_jax.data.sources import Source, open_source, options_of
from sg_jax.encoders.classifier import Recipe
from sg_jax.errors import UserError
from sg_jax.evaluation import features, real
from sg_jax.evaluation.metrics import CLASSIFIER, DRAWING, METRICS, Drawing, FeatureSet, Scores
from sg_jax.evaluation.reading import Reader, spread
from sg_jax.evaluation.real import View
from sg_jax.runs import files
from sg_jax.runs.progress import log


@dataclasses.dataclass(frozen=True)
class Judge:
    """Feature networks, each with its features of the real images.

    Attributes:
      views: by the kind of features that metrics need; one is CLASSIFIER.
      keep: stores the classifier's view, with the scores of the test images.
    """

    views: Mapping[str, View]
    keep: Callable[[View], object] = lambda view: None

    @property
    def classifier(self) -> View:
        """The classifier trained on the same data."""
        return self.views[CLASSIFIER]

    @property
    def digest(self) -> str:
        """Eight hex digits that identify the feature network."""
        return self.classifier.network.digest

    @property
    def references(self) -> int:
        """Number of real images that generated ones are compared with."""
        return self.classifier.real.count

    @property
    def compared(self) -> int:
        """How many of them represent all in precision and recall; 0: all are used."""
        kept = len(self.classifier.real.features)
        return 0 if kept == self.references else kept

    @property
    def measures(self) -> list[str]:
        """The names of the metrics that it can measure."""
        return [m.name for m in METRICS.values() if m.needs == DRAWING or m.needs in self.views]

    def score(self, images: np.ndarray, labels: np.ndarray, drawing: Drawing) -> Scores:
        """Score images, uint8 [B, H, W, C], that were drawn for `labels` [B]."""
        seen = {}
        for kind, view in self.views.items():
            found, probabilities = view.network.score(images)
            seen[kind] = FeatureSet(found, labels, probabilities)
        scores: Scores = {}
        for name in self.measures:
            metric = METRICS[name]
            if metric.needs == DRAWING:
                scores[name] = metric.function(drawing)
            else:
                scores[name] = metric.function(self.views[metric.needs].real, seen[metric.needs])
        return scores

    def of_test_images(self) -> Scores:
        """Score the real test images, which is about the best that generated ones can reach.

        For 10,000 of them this takes half a minute, so the scores are kept.
        """
        wanted = [metric for metric in METRICS.values() if metric.needs in self.views]
        missing = [m for m in wanted if m.name not in self.views[m.needs].scores]
        for metric in missing:
            view = self.views[metric.needs]
            try:
                view.scores[metric.name] = metric.function(view.real, view.test)
            except UserError:  # too few of them
                view.scores[metric.name] = None
        if missing:
            self.keep(self.classifier)
        return {metric.name: self.views[metric.needs].scores[metric.name] for metric in wanted}


def of_images(config: Config, source: Source, side: int) -> tuple[Config, Source]:
    """Return the config and the source of the real images, if the source is of latents.

    These are the images that the latents were made from, or `config.evaluate.images`.

    Args:
      config: `config.data` is that of the latents.
      source: the training data.
      side: of decoded images.

    Raises:
      UserError: nothing names the images, or they cannot be opened, or have another size.
    """
    if not source.latents:
        return config, source
    origin, name = origins.of(source), config.evaluate.images
    if not name and origin is None:
        raise UserError(
            f"config.data.name={source.name!r} contains latents, and nothing says which images "
            "decoded ones are compared with: name that data set by config.evaluate.images."
        )
    options: dict[str, Any] = dict(origin.images if origin and not name else {})
    if name:
        options = dict(name=name, image_size=side)
    try:
        data = dataclasses.replace(config.data, **options)
        found = open_source(data.name, data.split, **options_of(data))
    except (UserError, TypeError) as error:  # the latter for a file that was changed by hand
        raise UserError(
            f"The real images that decoded latents are compared with cannot be opened: {error} "
            "Give them by config.evaluate.images, the name of a data set."
        ) from None
    if found.image_shape != (side, side, 3):
        raise UserError(
            f"The images of {data.name!r} are {found.image_shape}, but decoded latents are "
            f"({side}, {side}, 3): name others by config.evaluate.images."
        )
    return dataclasses.replace(config, data=data), found


def check_ready(config: Config, source: Source, side: int) -> None:
    """Raise if an evaluation, after training say, would not find what it needs.

    Args:
      config: all sections.
      source: the training data.
      side: of the images that will be drawn.

    Raises:
      UserError: a test split that cannot be opened; a `config.features.path` that is another file,
        or cannot be written.
    """
    _open_test(*of_images(config, source, side))
    _check_features(config)


def _check_features(config: Config) -> None:
    """Raise if `config.features.path` is another file, or cannot be written."""
    if not config.features.path:
        return
    path = files.path(config.features.path)
    if not path.exists():
        try:
            files.check_writable(files.absolute(path).parent)
        except UserError as error:
            raise UserError(f"config.features.path={config.features.path!r}: {error}") from None
        return
    try:
        features.Scorer.load(path, recipe=_recipe(config))
    except features.Unusable as reason:
        raise UserError(
            f"config.features.path={config.features.path!r}: {reason} It is not replaced: give "
            "another path, delete that file, or give the recipe that it was made by."
        ) from None


def _open_test(config: Config, source: Source) -> Source:
    data = config.data
    return open_source(source.name, data.test_split, key="test_split", **options_of(data))


def _recipe(config: Config) -> Recipe:
    fields = dataclasses.fields(Recipe)
    return Recipe(**{field.name: getattr(config.features, field.name) for field in fields})


def open_judge(config: Config, source: Source, workdir: str | os.PathLike, side: int = 0) -> Judge:
    """Read or train the feature network, and read or compute its features of the real images.

    The network learns from all training images. Generated images are compared with
    `config.evaluate.references` of them, evenly spread over the data set (0: all). The network is
    stored in the run's classifier.npz, or in `config.features.path`, which runs on the same data
    can share. The features are stored in the run's real.npz. As long as both files fit, no image is
    read.

    Args:
      config: the sections `data`, `features` and `evaluate` are used.
      source: the training images, or latents; see `of_images`.
      workdir: folder of the run.
      side: of the images that are drawn; needed for latents.

    Raises:
      UserError: the test split cannot be opened, or `config.features.path` cannot be used.
    """
    config, source = of_images(config, source, side)
    test = _open_test(config, source)
    _check_features(config)
    folder = files.path(workdir)
    path = config.features.path or folder / "classifier.npz"
    about = _about(config, source, test)
    recipe = _recipe(config)
    keep = functools.partial(real.save, folder / real.NAME, about)
    if (view := _kept(path, folder, about, recipe)) is not None:
        log(f"feature network: read from {path}, features of real images from {real.NAME}")
        return Judge({CLASSIFIER: view}, keep)
    train_images, test_images = Reader(source), Reader(test, "test_images")
    scorer = features.cached_scorer(
        path,
        train_images,
        test_images,
        name=source.name,
        num_classes=source.num_classes,
        recipe=recipe,
        log=log,
        replace=not config.features.path,  # other runs may use that file
    )
    references = spread(config.evaluate.references or len(source), len(source))
    log(f"real images: measuring {len(references):,} training and {len(test):,} test images")
    view = View(
        scorer,
        real.found_in(scorer, train_images, references),
        real.found_in(scorer, test_images, np.arange(len(test))),
    )
    keep(view)
    return Judge({CLASSIFIER: view}, keep)


def _about(config: Config, source: Source, test: Source) -> dict[str, Any]:
    """Return what the contents of real.npz depend on, besides the network's weights."""
    about = dict(
        name=source.name,
        splits=[source.split, test.split],
        images=[len(source), len(test)],
        # Only of sources that know an example without decoding it, so that this stays quick.
        data=[identity.of(s) if hasattr(s, "identify") else None for s in (source, test)],
        image_shape=source.image_shape,
        references=min(config.evaluate.references or len(source), len(source)),
    )
    return json.loads(json.dumps(about))  # tuples become lists, as in the file


def _kept(path, folder, about: dict[str, Any], wanted: Recipe) -> View | None:
    """Return the contents of an earlier evaluation's files; None if they do not fit."""
    try:
        scorer = features.Scorer.load(path, recipe=wanted)
    except features.Unusable:
        return None
    view = real.load(folder / real.NAME, about, scorer)
    # By someone else's file, because such a network would not have written it.
    if view is not None and view.real.features.shape[1] != wanted.features:
        return None
    return view


def timed(
    draw: Callable[[np.ndarray], np.ndarray], labels: np.ndarray, batch_size: int
) -> tuple[np.ndarray, float]:
    """Return `draw(labels)` and its images/s.

    The last batch costs as much as a full one, so it counts as one. Call `draw` once before, so
    that compilation is not timed.
    """
    batch = min(batch_size, len(labels))
    began = time.perf_counter()
    images = draw(labels)
    seconds = time.perf_counter() - began
    return images, -(-len(labels) // batch) * batch / seconds
