"""The metrics, one row each; all tables, files, figures and reports follow from the rows.

To add one:
  1. Write a function of the real and the generated images' features (two `FeatureSet`s) that
     returns a number, such as those in `distances`.
  2. Add a row to METRICS: how it is printed, which features it needs, how to read it; and its name
     to `config.tuples.METRICS`, so that a config can ask for it.
  3. If it needs features of another network, add that network to `evaluation.networks`, under the
     name in the row's `needs`.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from sg_jax.evaluation import distances
from sg_jax.evaluation.found import FeatureSet

Scores = dict[str, float | None]  # by the name of the metric; None: not measured

CLASSIFIER = "classifier"  # features of the small classifier trained on the same data
INCEPTION = "inception"  # of Inception, which the papers use
DINOV2 = "dinov2"
MAIN = "main"  # of the network that an evaluation is mainly about; see `main_of`
DRAWING = "drawing"  # not features, but how the images were drawn
RESULT = "result"  # neither: a field of `results.SettingResult`
LARGEST = 1e30  # largest size of a number in a figure


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
      digits: turns a column's largest printed value into the number of decimals.
      needs: a kind of features, such as CLASSIFIER; or MAIN, DRAWING, or RESULT.
      explanation: how to read it, for the report; empty: not explained. Words in braces are filled
        in: {real} and {test} images, {compared} of the real ones for precision and recall, and
        their {neighbours}.
      function: takes (real, generated), two `FeatureSet`s, or a `Drawing`; a RESULT has none.
      factor: multiplies the value to give the printed number.
      floor: text to add if the value of the real test images is known; {floor} stands for it.
      each: whether it needs the features of each image; otherwise sums are enough.
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
    each: bool = False

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
    """Return which numbers a figure can hold: not NaN, and nowhere near the largest floats."""
    return np.abs(values) < LARGEST


def significant(count: int) -> Callable[[float], int]:
    """Return `digits` of a metric that prints about `count` significant figures."""
    return lambda largest: max(0, count - 1 - math.floor(math.log10(largest))) if largest else 0


def fixed(count: int) -> Callable[[float], int]:
    """Return `digits` of a metric that always prints `count` decimals."""
    return lambda _: count


def hundredths(largest: float) -> int:
    """Return the decimals of a metric that papers print with two of them."""
    return 2 if largest >= 1 else 4


def no_function(*_: object) -> float:
    """Stand for the function of a RESULT, which is not computed."""
    raise AssertionError("a RESULT is not computed")


def _accuracy(_: FeatureSet, fake: FeatureSet) -> float:
    return float(np.mean(fake.predicted == fake.labels))


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
            "fid", "FID", "distance", -1, hundredths, INCEPTION,
            "The Fréchet distance in the 2,048 pooled features of Inception (Heusel et al. 2017, "
            "by ADM's protocol). Papers report it for 50,000 images; fewer read higher.",
            lambda real, fake: distances.frechet(real.statistics, fake.statistics),
        ),
        Metric(
            "sfid", "sFID", "distance", -1, hundredths, INCEPTION,
            "The same distance in 2,023 features of a middle layer, which know where in the image "
            "they are (Nash et al. 2021).",
            lambda real, fake: distances.frechet(real.spatial, fake.spatial),
        ),
        Metric(
            "is", "IS", "score", 1, hundredths, INCEPTION,
            "Inception score (Salimans et al. 2016): high if each image shows one of ImageNet's "
            "classes clearly, and all together show many. Mean over parts of 5,000 images.",
            lambda _, fake: distances.inception_score(fake.predictions),
        ),
        Metric(
            "fd_dinov2", "FD-DINOv2", "distance", -1, hundredths, DINOV2,
            "The Fréchet distance in the class token of DINOv2, which follows human judgement more "
            "closely than FID (Stein et al. 2023).",
            lambda real, fake: distances.frechet(real.statistics, fake.statistics),
        ),
        Metric(
            "kid", "KID", "x 1000", -1, fixed(2), MAIN,
            "Kernel distance of the features, unbiased: its mean does not depend on the number of "
            "images, so small sets can be compared (Bińkowski et al. 2018). Images of "
            "classes that are drawn equally often, not at random, read lower, even below 0.",
            lambda real, fake: distances.kid(real.kernel, fake.kept),
            factor=1000,
            each=True,
        ),
        Metric(
            "mind", "MIND", "distance", -1, significant(4), MAIN,
            "Sliced Wasserstein distance of the features (arXiv 2605.06797), which needs fewer "
            "images than a Fréchet distance; fewer still read higher.",
            lambda real, fake: distances.mind(real.sliced, fake.kept),
            each=True,
        ),
        Metric(
            "precision", "Precision", "0–1", 1, fixed(3), MAIN,
            "Share of generated images that look real: that lie within reach of some real image, "
            "where the reach is the radius to its {neighbours} nearest neighbours among {compared} "
            "real ones (Kynkäänniemi et al. 2019). A larger data set is represented by 10,000 "
            "evenly spread images, the number that ADM's evaluation uses.",
            lambda real, fake: real.manifold.share_inside(fake.kept),
            each=True,
        ),
        Metric(
            "recall", "Recall", "0–1", 1, fixed(3), MAIN,
            "Share of the same {compared} real images that lie within reach of some generated "
            "image, with the reach measured among the generated ones. It falls when generated "
            "images become alike.",
            lambda real, fake: fake.manifold.share_inside(real.kept),
            each=True,
        ),
        Metric(
            "accuracy", "Accuracy", "%", 1, fixed(1), CLASSIFIER,
            "Share of generated images in which the classifier sees the requested class.",
            _accuracy,
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
COST = "gflops_per_step"  # what quality is plotted against
QUALITIES = ("fid", "frechet", "fd_dinov2", "mind", "kid")  # what settings are ranked by


def main_of(names: Iterable[str], network: str = "") -> str:
    """Return the kind of network whose features the metrics of MAIN are measured in.

    Args:
      names: the names of an evaluation's metrics.
      network: the one that was asked for; "" for the first that another metric needs, in the order
        Inception, classifier, DINOv2, or else the classifier.
    """
    needed = {METRICS[name].needs for name in names}
    found = [kind for kind in (INCEPTION, CLASSIFIER, DINOV2) if kind in needed]
    return network or (found[0] if found else CLASSIFIER)


def quality(scores: Iterable[Scores]) -> Metric:
    """Return the metric that settings are ranked by: the first of `QUALITIES` that was measured."""
    return common_quality([measured(scores)])


def common_quality(found: Sequence[Collection[str]]) -> Metric:
    """Return the first of `QUALITIES` that is in all of several sets of names, or else in any."""
    wanted = [name for name in QUALITIES if any(name in names for names in found)]
    shared = [name for name in wanted if all(name in names for names in found)]
    return METRICS[next(iter([*shared, *wanted]), "frechet")]


def measured(scores: Iterable[Scores]) -> set[str]:
    """Return the names of the metrics that at least one of several settings or seeds has."""
    return {name for each in scores for name, value in each.items() if value is not None}
