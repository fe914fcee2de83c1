"""What tuning found, summarised over seeds and runs: means, deviations and differences."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sg_jax.evaluation.metrics import Metric, finite
from sg_jax.evaluation.tuned_rows import REPORT, Row
from sg_jax.method.candidates import UNGUIDED


class Spread(NamedTuple):
    """A mean, and how much it varies.

    Attributes:
      mean: over runs, of their means over seeds; None: not measured, or not finite with some seed.
      seeds: standard deviation over the seeds of a run; for several runs, the root mean square;
        None: no run has two seeds.
      runs: standard deviation of the runs' means; None for one run.
    """

    mean: float | None
    seeds: float | None = None
    runs: float | None = None


class Gain(NamedTuple):
    """The difference between two settings, seed by seed.

    Attributes:
      spread: the spread of the differences.
      better: in how many of the pairs it is an improvement.
      pairs: their number.
    """

    spread: Spread
    better: int
    pairs: int


Values = dict[tuple[str, int], float]  # by run and seed


@dataclasses.dataclass(frozen=True)
class Winner:
    """The best setting of a method at a budget, in one run or in each of several.

    Attributes:
      method: its name.
      budget: the cost that was allowed.
      rows: the scores of the report.
    """

    method: str
    budget: float
    rows: tuple[Row, ...]

    @property
    def cost(self) -> float:
        """Its actual cost, the mean over runs."""
        return float(np.mean([row.cost for row in self.rows]))

    @property
    def settings(self) -> str:
        """The settings in words, of all runs."""
        return "; ".join(dict.fromkeys(row.key.guidance.describe() for row in self.rows))

    @property
    def steps(self) -> str:
        """The number of steps, of all runs."""
        found = sorted({row.key.steps for row in self.rows})
        return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"

    def values(self, metric: Metric) -> Values:
        """Return what was measured."""
        found = {(r.run, r.key.seed): finite(r.scores.get(metric.name)) for r in self.rows}
        return {place: value for place, value in found.items() if value is not None}

    def failed(self, metric: Metric) -> bool:
        """Return whether some seed has no finite value, because of its samples or its score."""
        return any(finite(row.scores.get(metric.name, 0.0)) is None for row in self.rows)

    def spread(self, metric: Metric) -> Spread:
        """Return the mean of a metric and how much it varies; no mean if a seed failed."""
        return Spread(None) if self.failed(metric) else spread(self.values(metric))

    def less(self, other: "Winner", metric: Metric) -> Gain:
        """Return the difference from another one, seed by seed, as both have the same noise."""
        if self.failed(metric) or other.failed(metric):
            return Gain(Spread(None), 0, 0)
        mine, theirs = self.values(metric), other.values(metric)
        found = {place: mine[place] - theirs[place] for place in mine if place in theirs}
        better = sum(metric.better * value > 0 for value in found.values())
        return Gain(spread(found), better, len(found))


def spread(values: Values) -> Spread:
    """Return the mean of values by run and seed, and how much they vary."""
    if not values:
        return Spread(None)
    by_run = [
        np.array([value for (_, _), value in each])
        for _, each in itertools.groupby(sorted(values.items()), key=lambda item: item[0][0])
    ]
    means = [float(each.mean()) for each in by_run]
    within = [float(each.var(ddof=1)) for each in by_run if len(each) > 1]
    seeds = float(np.sqrt(np.mean(within))) if within else None
    runs = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return Spread(float(np.mean(means)), seeds, runs)


def winners(rows: Sequence[Row]) -> list[Winner]:
    """Return the best setting of each method at each budget, by rising budget."""
    found: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        if row.stage == REPORT:
            found.setdefault((row.budget, row.method), []).append(row)
    order = {budget: place for place, budget in enumerate(sorted({b for b, _ in found}))}
    each = [Winner(method, budget, tuple(rows)) for (budget, method), rows in found.items()]
    return sorted(each, key=lambda winner: order[winner.budget])


def unguided(found: Sequence[Winner], budget: float) -> Winner:
    """Return the result of no guidance at a budget."""
    return next(w for w in found if w.method == UNGUIDED and w.budget == budget)
