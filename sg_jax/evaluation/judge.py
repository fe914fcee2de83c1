"""The judge of an evaluation: networks, what they find in real images, and other images' scores."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sg_jax.errors import UserError
from sg_jax.evaluation.found import FeatureSet, Seen
from sg_jax.evaluation.metrics import (
    CLASSIFIER,
    DRAWING,
    MAIN,
    METRICS,
    Drawing,
    Metric,
    Scores,
)
from sg_jax.evaluation.real import View
from sg_jax.evaluation.tally import Tallies, Tally
from sg_jax.parallel import processes


@dataclasses.dataclass(frozen=True)
class Judge:
    """Feature networks, each with what it finds in the real images.

    Attributes:
      views: one for each kind of features that metrics need. Processes that do not write have only
        those that all processes compute together, without the real images.
      keep: stores the classifier's view, with the scores of the test images.
      metrics: the names of those to measure; empty: all that the views allow.
      main: the kind of features that metrics of MAIN are measured in.
      reference: the file that the real images come from, with its digest; or, in words, the data
        set or split if it is not the run's own; "": the run's own data.
      from_file: whether `reference` is a file.
    """

    views: Mapping[str, View]
    keep: Callable[[View], object] = lambda view: None
    metrics: tuple[str, ...] = ()
    main: str = CLASSIFIER
    reference: str = ""
    from_file: bool = False

    @property
    def classifier(self) -> View:
        """The classifier trained on the same data."""
        return self.views[CLASSIFIER]

    @property
    def main_view(self) -> View | None:
        """The view of the main network, or the first if nothing is measured in its features."""
        return self.views.get(self.main) or next(iter(self.views.values()), None)

    @property
    def real(self) -> FeatureSet | None:
        """What the main network finds in the real images; None in processes that do not write."""
        view = self.main_view
        return view.real if view and processes.is_writer() else None

    @property
    def digest(self) -> str:
        """Eight hex digits that identify the feature networks."""
        if list(self.views) == [CLASSIFIER]:
            return self.classifier.network.digest
        every = sorted((kind, view.network.digest) for kind, view in self.views.items())
        return f"{zlib.crc32(repr((every, self.main)).encode()):08x}"

    @property
    def networks(self) -> str:
        """The feature networks and their digests, in words."""
        return ", ".join(
            getattr(view.network, "label", f"{kind} {view.network.digest}")
            for kind, view in self.views.items()
        )

    @functools.cached_property
    def real_digest(self) -> str:
        """Eight hex digits of the real images' statistics in the main network."""
        if self.real is None:
            return ""
        statistics = self.real.statistics
        crc = zlib.crc32(np.ascontiguousarray(statistics.mean).tobytes())
        return f"{zlib.crc32(np.ascontiguousarray(statistics.scatter).tobytes(), crc):08x}"

    def compared_with(self, data: str) -> str:
        """Return the real images in words; `data` is the name of the data set."""
        if self.from_file:
            return self.reference
        other = f", {self.reference}" if self.reference else ""
        return f"{self.references:,} images of {data}{other} ({self.real_digest})"

    @property
    def references(self) -> int:
        """Number of real images that generated ones are compared with; 0: the file does not say."""
        return self.real.count or 0 if self.real else 0

    @property
    def compared(self) -> int:
        """How many real images represent all in precision and recall; 0: all are used."""
        kept = len(self.real.features) if self.real and self.real.features is not None else 0
        return 0 if kept == self.references else kept

    @property
    def measures(self) -> list[str]:
        """The names of the metrics that it can measure."""
        return [
            m.name
            for m in METRICS.values()
            if m.needs == DRAWING or (self.kind_of(m) in self.views and self._wanted(m))
        ]

    def lacks(self, scores: Scores) -> bool:
        """Return whether one of the metrics that it can measure is missing."""
        return any(scores.get(name) is None for name in self.measures)

    def _wanted(self, metric: Metric) -> bool:
        return not self.metrics or metric.name in self.metrics

    def kind_of(self, metric: Metric) -> str:
        """Return the kind of features that a metric is measured in."""
        return self.main if metric.needs == MAIN else metric.needs

    def tallies(self, count: int, folder: Any = None, about: str = "") -> Tallies:
        """Return tallies of what the networks find in `count` images; see `Tallies`."""
        each = {self.kind_of(METRICS[n]) for n in self.measures if METRICS[n].each}
        every, none = np.arange(count), np.arange(0)
        kinds = {
            kind: Tally(every if kind in each else none, every if kind == CLASSIFIER else none)
            for kind in self.views
        }
        return Tallies(kinds, folder, about)

    def observe(self, images: np.ndarray) -> dict[str, Seen]:
        """Return what each network finds in images, uint8 [B, H, W, C], in all processes."""
        return {kind: Seen(*view.network.score(images)) for kind, view in self.views.items()}

    def scores_of(self, found: Mapping[str, FeatureSet], drawing: Drawing | None = None) -> Scores:
        """Score what `tallies` gathered, in the writer."""
        scores: Scores = {}
        for name in self.measures:
            metric = METRICS[name]
            if metric.needs == DRAWING:
                scores |= {} if drawing is None else {name: metric.function(drawing)}
            else:
                kind = self.kind_of(metric)
                scores[name] = metric.function(self.views[kind].real, found[kind])
        return scores

    def of_test_images(self) -> Scores:
        """Score the real test images: about the best scores that generated ones can reach.

        For 10,000 of them this takes half a minute, so the scores are kept.
        """
        found: Scores = {}
        for name in self.measures:
            metric = METRICS[name]
            view = self.views.get(self.kind_of(metric))
            if view is None or view.test is None:
                continue
            if name not in view.scores:
                try:
                    view.scores[name] = metric.function(view.real, view.test)
                except UserError:  # too few of them
                    view.scores[name] = None
                self.keep(view)
            found[name] = view.scores[name]
        return found
