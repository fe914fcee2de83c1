"""The metrics, one row each; all tables, files, figures and reports follow from the rows.

To add one:
  1. Write a function of the real and the generated images' features (two `FeatureSet`s) that
     returns a number, such as those in `distances`.
  2. Add a row to METRICS: how it is printed, which features it needs, how to read it.
  3. If it needs features of another network, add that network to what `scoring.open_judge` returns,
     under the name in the row's `needs`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from sg_jax.evaluation import distances
from sg_jax.evaluation.distances import Manifold, Statistics

Scores = dict[str, float | None]  # by the name of the metric; None: not measured

CLASSIFIER = "classifier"  # features of the small classifier trained on the same data
DRAWING = "drawing"  # not features, but how the images were drawn
LARGEST = 1e30  # size of a number in a figure
RESULT = "result"  # neither: a field of `results.SettingResult`


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """A feature network's output for a set of images.

    Attributes:
      features: [N, F].
      labels: the class of each image, int [N].
      probabilities: of the classes [N, num_classes]; None from a network without classes.
      counted: statistics over more images, of which `features` are evenly spread examples; None
        if `features` are all there are.
    """

    features: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray | None = None
    counted: Statistics | None = None

    @property
    def count(self) -> int:
        """Number of images in `statistics`."""
        return self.counted.count if self.counted else len(self.features)

    @functools.cached_property
    def statistics(self) -> Statistics:
        """Mean and scatter over all the images."""
        return self.counted or Statistics.of(self.features)

    @functools.cached_property
    def manifold(self) -> Manifold:
        """The balls around `features`, for precision and recall."""
        return Manifold(self.features)


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How a set of images was drawn.

    Attributes:
      flops_per_step: FLOPs of one sampling step of one image.
      images_per_second: measured, without compilation.
    """

    flops_per_step: float
    images_per_second: float


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number that is measured for a guidance setting.

    Attributes:
      name: its column in scores.csv and its key in report.json.
      header: its name in a table.
      unit: the unit of the printed number.
      better: 1 if higher is better, -1 if lower is, 0 if neither.
      digits: from a column's largest printed value to the number of decimals.
      needs: a kind of features, such as CLASSIFIER; or DRAWING, or RESULT.
      explanation: how to read it, for the report; empty: not explained. Words in braces are filled
        in: {real} and {test} images, {compared} of the real ones for precision and recall, and
        their {neighbours}.
      function: of (real, generated), two `FeatureSet`s, or of a `Drawing`; a RESULT has none.
      factor: from the value to the printed number.
      floor: what to add if the metric of the real test images is known, which is {floor}.
    """

    name: str
    header: str
    unit: str
    better: int
    digits: Callable[[float], int]
    needs: str
    explanation: str
    function: Callable[..., float]
    factor: float = 1.0
    floor: str = ""

    @property
    def of_images(self) -> bool:
        """Whether it is computed from the images themselves."""
        return self.needs not in (DRAWING, RESULT)

    @property
    def arrow(self) -> str:
        """An arrow that points to better values, after a space."""
        return {1: " ↑", -1: " ↓", 0: ""}[self.better]

    @property
    def title(self) -> str:
        """Header, arrow and unit, for an axis."""
        return f"{self.header}{self.arrow}  ({self.unit})"

    def text(self, value: float | None, digits: int | None = None) -> str:
        """Format one value in the metric's unit; "–" if it was not measured."""
        value = finite(value)
        if value is None:
            return "–"
        value *= self.factor
        return f"{value:,.{self.digits(abs(value)) if digits is None else digits}f}"

    def texts(
        self, values: Sequence[float | None], deviations: Sequence[float | None] | None = None
    ) -> list[str]:
        """Format a column with the same number of decimals, so that the points align.

        Args:
          values: one per row.
          deviations: standard deviation of each; None if there is none.
        """
        digits = self._digits(values)
        spread = [finite(each) for each in deviations or [None] * len(values)]
        return [
            self.text(value, digits) + ("" if s is None else f" ± {self.text(s, digits)}")
            for value, s in zip(values, spread, strict=True)
        ]

    def best(self, values: Sequence[float | None]) -> list[bool]:
        """Return which values print like the best one; none of them if all print the same."""
        texts, winner = self.texts(values), self.winner(values)
        if not self.better or winner is None or len(set(texts) - {"–"}) < 2:
            return [False] * len(texts)
        return [text == texts[winner] for text in texts]

    def winner(self, values: Sequence[float | None]) -> int | None:
        """Return the index of the best value; None without one."""
        known = {i: v for i, value in enumerate(values) if (v := finite(value)) is not None}
        return max(known, key=lambda i: self.better * known[i], default=None)

    def _digits(self, values: Sequence[float | None]) -> int:
        known = [abs(v) * self.factor for v in map(finite, values) if v is not None]
        return self.digits(max(known, default=0))


def finite(value: float | None) -> float | None:
    """Return the number, or None for None, NaN and infinity."""
    return value if value is not None and math.isfinite(value) else None


def drawable(values: np.ndarray) -> np.ndarray:
    """Return which numbers a figure can hold: not NaN, and nowhere near the largest ones."""
    return np.abs(values) < LARGEST


def significant(count: int) -> Callable[[float], int]:
    """Return `digits` of a metric that prints about `count` significant figures."""
    return lambda largest: max(0, count - 1 - math.floor(math.log10(largest))) if largest else 0


def fixed(count: int) -> Callable[[float], int]:
    """Return `digits` of a metric that always prints `count` decimals."""
    return lambda _: count


def no_function(*_: object) -> float:
    """Stand for the function of a RESULT, which is not computed."""
    raise AssertionError("a RESULT is not computed")


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "frechet", "Fréchet", "distance", -1, lambda largest: 3 if largest < 100 else 1,
            CLASSIFIER,
            "How far the generated images as a whole are from the real ones: the distance of the "
            "Gaussians fitted to both sets of features (as FID does with an Inception network), "
            "in squared units of the features. Fewer images read higher.",
            lambda real, fake: distances.frechet(real.statistics, fake.statistics),
            floor="The floor, real test images against real training images, is {floor} with "
            "{test} test images; a larger generated set can come out below it.",
        ),
        Metric(
            "precision", "Precision", "0–1", 1, fixed(3), CLASSIFIER,
            "Share of generated images that look real: that lie within reach of some real image, "
            "where the reach is the radius to its {neighbours} nearest neighbours among {compared} "
            "real ones (Kynkäänniemi et al. 2019). A larger data set is represented by 10,000 "
            "evenly spread images, the number that ADM's evaluation uses.",
            lambda real, fake: real.manifold.share_inside(fake.features),
        ),
        Metric(
            "recall", "Recall", "0–1", 1, fixed(3), CLASSIFIER,
            "Share of the same {compared} real images that lie within reach of some generated "
            "image, with the reach measured among the generated ones. It falls when generated "
            "images become alike.",
            lambda real, fake: fake.manifold.share_inside(real.features),
        ),
        Metric(
            "accuracy", "Accuracy", "%", 1, fixed(1), CLASSIFIER,
            "Share of generated images in which the classifier sees the requested class.",
            lambda _, fake: distances.class_accuracy(fake.probabilities, fake.labels),
            factor=100,
            floor="Above {floor}%, its score on real images, they are more typical than real ones.",
        ),
        Metric(
            "gflops_per_step", "Cost", "GFLOPs/step", -1, significant(4), DRAWING,
            "Billions of multiply-adds of the network's linear layers to move one image by one "
            "sampling step.",
            lambda drawing: drawing.flops_per_step / 1e9,
        ),
        Metric(
            "images_per_second", "Speed", "images/s", 1, significant(3), DRAWING,
            "Images drawn per second, without compilation.",
            lambda drawing: drawing.images_per_second,
        ),
        Metric("samples", "Samples", "images", 0, fixed(0), RESULT, "", no_function),
    )
}  # fmt: skip
QUALITY = "frechet"  # what settings are ranked by
COST = "gflops_per_step"  # what it is plotted against
