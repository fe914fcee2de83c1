"""The scores of several runs, as points that can be compared."""

import collections
import dataclasses
import functools
import math
import os
from collections.abc import Sequence

import numpy as np

from sg_jax.errors import UserError
from sg_jax.evaluation import metrics, table
from sg_jax.evaluation.metrics import COST, METRICS, RESULT, Metric, Scores, drawable
from sg_jax.evaluation.results import SettingResult
from sg_jax.evaluation.table import Key
from sg_jax.method.guidance import WEAK_LABELS, Guidance
from sg_jax.runs import files
from sg_jax.runs.progress import log

IMAGE_COST = dataclasses.replace(
    METRICS[COST],
    name="gflops_per_image",
    unit="GFLOPs/image",
    explanation="Billions of multiply-adds of the network's linear layers to draw one image, all "
    "steps together.",
)


@dataclasses.dataclass(frozen=True)
class Point:
    """One setting of one run, over the seeds that it was measured with.

    Attributes:
      run: name of the run.
      key: how it was measured; its seed is always 0.
      scores: the scores by seed.
      rank: name of the metric that settings are ranked by; "": the first of `QUALITIES` that this
        one has.
    """

    run: str
    key: Key
    scores: dict[int, Scores]
    rank: str = ""

    @functools.cached_property
    def result(self) -> SettingResult:
        """Means and deviations over the seeds, with the cost of an image."""
        words = f"{self.method}: {self.key.guidance.describe()}, {self.drawing}"
        found = SettingResult.over_seeds(
            self.run, words, self.key.samples, list(self.scores.values())
        )
        cost = found.scores.get(COST)
        whole = None if cost is None else cost * self.key.steps
        return dataclasses.replace(found, scores={**found.scores, IMAGE_COST.name: whole})

    @property
    def metric(self) -> Metric:
        """The metric that settings are ranked by."""
        return METRICS[self.rank] if self.rank else metrics.quality(self.scores.values())

    @property
    def quality(self) -> float:
        """Mean of the metric that settings are ranked by; NaN if it was not measured."""
        value = self.result.scores.get(self.metric.name)
        return math.nan if value is None else value

    @property
    def deviation(self) -> float:
        """Standard deviation of the quality over seeds; 0 for one seed."""
        return self.result.deviations.get(self.metric.name) or 0.0

    @property
    def cost(self) -> float:
        """GFLOPs per image, all steps together; NaN if they were not measured."""
        value = self.result.scores[IMAGE_COST.name]
        return math.nan if value is None else value

    @property
    def sampling(self) -> str:
        """Sampler and steps, such as "euler, 40 steps"."""
        return f"{self.key.sampler}, {self.key.steps} steps"

    @property
    def drawing(self) -> str:
        """Sampler and steps, and what decoded the images if they were latents."""
        decoder = self.key.decoder
        return f"{self.sampling}, decoder {decoder}" if decoder else self.sampling

    @property
    def method(self) -> str:
        """The kind of guidance, such as "AG+SG"."""
        return method(self.key.guidance, self.key.checkpoint)

    @property
    def autoguided(self) -> bool:
        """Whether another network makes the weak prediction."""
        return self.key.guidance.weak_acts and _another(self.key.guidance, self.key.checkpoint)

    def gain(self, baseline: "Point") -> tuple[float, float]:
        """Return the share by which the quality beats the baseline's, and its deviation over seeds.

        Seeds are compared one by one, because with the same seed both start from the same noise.
        """
        shares, name = [], self.metric.name
        for seed, scores in self.scores.items():
            mine, other = scores.get(name), baseline.scores.get(seed, {}).get(name)
            if mine is None or not other:
                continue
            share = self.metric.better * (mine - other) / abs(other)  # KID may be below 0
            if drawable(np.array(share)):
                shares.append(share)
        if not shares:
            return float("nan"), float("nan")
        return float(np.mean(shares)), float(np.std(shares, ddof=1)) if len(shares) > 1 else 0.0


def ranked_by(points: Sequence[Point]) -> Metric:
    """Return the metric that the settings of some points are ranked by.

    If the points do not say it, it is the first of `QUALITIES` that all runs have, or else any.
    """
    if points and points[0].rank:
        return points[0].metric
    each = [_measured([p for p in points if p.run == run]) for run in runs_of(points)]
    return metrics.common_quality(each)


def columns(points: Sequence[Point]) -> list[Metric]:
    """Return the metrics that were measured, with the cost of an image instead of a step."""
    found = {ranked_by(points).name, COST}
    found |= _measured(points)
    every = [m for m in METRICS.values() if m.needs != RESULT and m.name in found]
    return [IMAGE_COST if metric.name == COST else metric for metric in every]


def _measured(points: Sequence[Point]) -> set[str]:
    """Return the names of the metrics that at least one of some points has."""
    return metrics.measured(scores for point in points for scores in point.scores.values())


def _another(guidance: Guidance, checkpoint: int) -> bool:
    """Return whether the weak network differs from that of step `checkpoint`."""
    return bool(guidance.weak_workdir) or guidance.weak_step not in (0, checkpoint)


def method(guidance: Guidance, checkpoint: int) -> str:
    """Return the kind of a canonical setting; see the table in `guidance`.

    Args:
      guidance: the setting.
      checkpoint: step of the strong prediction; a weak one of the same step uses the same network.
    """
    if not guidance.guided:
        return "unguided"
    acts = guidance.weak_acts
    sparse = acts and (guidance.gamma_strong != 0 or guidance.gamma_weak != 0)
    another = acts and _another(guidance, checkpoint)
    names = ["AG"] if another else ["EMA"] if acts and guidance.weak_weights else []
    names += [m] if (m := WEAK_LABELS[guidance.weak_label].method) else []
    if guidance.gamma_weak == 1.0 and guidance.weak_label == "null":
        names = [*names[:-1], "PDG"]
    elif sparse:
        names.append("SG")
    names += ["TSG"] if guidance.time_noise else []
    if guidance.skip_acts:
        names.append("SLG" if isinstance(guidance.skip, tuple) else "S2")
    names += ["IG"] if guidance.inner_acts else []
    words = ["+".join(names) or "unguided"]
    scheduled = isinstance(guidance.gamma_strong, tuple) or isinstance(guidance.gamma_weak, tuple)
    words += ["scheduled"] if scheduled else []
    words += ["in interval"] if guidance.interval != (0.0, 1.0) else []
    words += [guidance.ids] if guidance.ids != "uniform" else []
    words += [f"{guidance.channels} channels"] if guidance.channels else []
    words += [f"every {guidance.refresh} steps"] if guidance.refresh > 1 else []
    projected = guidance.parallel != 1 or guidance.norm or guidance.momentum
    words += ["APG"] if projected else []
    words += ["CFG-Zero*"] if guidance.rescale or guidance.zero_steps else []
    words += ["apart"] if guidance.weak_step and not another else []
    return ", ".join(words)


def name_of(workdir: str | os.PathLike) -> str:
    """Return the name of a run: that of its folder."""
    return files.absolute(workdir).name or str(workdir)


def read(workdir: str | os.PathLike) -> list[Point]:
    """Return the points of a run's scores.csv, with the seeds of a setting together."""
    name = name_of(workdir)
    found: dict[Key, dict[int, Scores]] = {}
    for key, measured in table.read(workdir).items():
        found.setdefault(dataclasses.replace(key, seed=0), {})[key.seed] = measured
    if not found:
        raise UserError(f"{workdir} has no {table.NAME}: run --mode evaluate there first.")
    return [Point(name, key, scores) for key, scores in found.items()]


def alike(points: Sequence[Point]) -> list[Point]:
    """Return the points measured in the most common way, and log how many others there are.

    All of them are ranked by one metric, that of the last scored checkpoints; see `ranked_by`.

    Raises:
      UserError: a run has no point that was measured like the others.
    """

    def how(point: Point) -> tuple:
        key = point.key
        return (
            key.features, key.references, key.compared, key.reference, key.labels, key.samples
        )  # fmt: skip

    ((most, _),) = collections.Counter(map(how, points)).most_common(1)
    kept = [point for point in points if how(point) == most]
    if missing := {point.run for point in points} - {point.run for point in kept}:
        raise UserError(
            f"{', '.join(sorted(missing))} and {', '.join(sorted({p.run for p in kept}))} were "
            "measured in different ways: score them again with the same config.features (one file "
            "for all: config.features.path), and the same references, reference, labels and "
            "samples of config.evaluate."
        )
    if left := len(points) - len(kept):
        log(
            f"{left} settings are left out, because they were measured with a different number "
            "of samples, a different feature network, different real images or different labels."
        )
    rank = ranked_by(final(kept)).name
    return [dataclasses.replace(point, rank=rank) for point in kept]


def final(points: Sequence[Point]) -> list[Point]:
    """Return the points at the last scored checkpoint of each run."""
    last = {run: max(p.key.checkpoint for p in points if p.run == run) for run in runs_of(points)}
    return [point for point in points if point.key.checkpoint == last[point.run]]


def runs_of(points: Sequence[Point]) -> list[str]:
    """Return the names of the runs, in their order."""
    return list(dict.fromkeys(point.run for point in points))


def baseline(point: Point, points: Sequence[Point]) -> Point | None:
    """Return the unguided, dense point of the same run, checkpoint, sampler and steps, if any."""
    wanted = _baseline_of(point)
    return next((p for p in points if (p.run, p.key) == wanted and measured([p])), None)


def _baseline_of(point: Point) -> tuple[str, Key]:
    return point.run, dataclasses.replace(point.key, guidance=Guidance())


def best_of_methods(points: Sequence[Point]) -> dict[str, dict[str, Point]]:
    """Return method -> run -> its setting with the best quality, among those with a baseline.

    Only points with the most common sampler and number of steps count, and a seed that the baseline
    has too. If some have more seeds, only those count, because the best of many one-seed numbers is
    partly luck.
    """
    ((usual, _),) = collections.Counter(point.sampling for point in points).most_common(1)
    known = measured(points)
    there, found = {(p.run, p.key): p.scores for p in known}, dict[str, dict[str, Point]]()
    for point in known:
        if point.method == "unguided" or point.sampling != usual:
            continue
        if not point.scores.keys() & there.get(_baseline_of(point), {}).keys():
            continue
        best = found.setdefault(point.method, {})
        if point.run not in best or _rank(point) < _rank(best[point.run]):
            best[point.run] = point
    return found


def _rank(point: Point) -> tuple[int, float]:
    return -len(point.scores), -point.metric.better * point.quality


def measured(points: Sequence[Point]) -> list[Point]:
    """Return the points with both quality and cost."""
    return [p for p in points if drawable(np.array([p.quality, p.cost, p.deviation])).all()]
