"""The scores of a guidance setting over its seeds."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from sg_jax.evaluation.metrics import Metric, Scores


@dataclasses.dataclass(frozen=True)
class SettingResult:
    """The scores of one guidance setting.

    Attributes:
      name: short, such as "sg".
      description: the setting in a few words, such as "ω 1.75, γ 0 / 0.75".
      scores: metric to its mean over the seeds; see `metrics.METRICS`. Absent, None or NaN stands
        for "not measured".
      samples: number of generated images per seed.
      seeds: how many times it was measured, each time with other noise.
      deviations: metric to its standard deviation over the seeds, if it varies.
    """

    name: str
    description: str
    scores: Mapping[str, float | None]
    samples: int
    seeds: int = 1
    deviations: Mapping[str, float | None] = dataclasses.field(default_factory=dict)

    def value(self, metric: Metric) -> float | None:
        """Return what a table shows in a metric's column."""
        if metric.name in self.scores:
            return self.scores[metric.name]
        return getattr(self, metric.name, None)  # "samples"

    def has(self, metric: Metric) -> bool:
        """Return whether there is a value for a metric."""
        return self.value(metric) is not None

    @classmethod
    def over_seeds(
        cls, name: str, description: str, samples: int, scores: Sequence[Scores]
    ) -> "SettingResult":
        """Summarise the scores of all seeds."""
        means, deviations = mean_and_deviation(scores)
        varies = {name: value for name, value in deviations.items() if value}
        return cls(name, description, means, samples, len(scores), varies)


def mean_and_deviation(scores: Sequence[Scores]) -> tuple[Scores, Scores]:
    """Return each metric's mean, and its standard deviation over seeds (N - 1; 0 for one).

    Seeds without a metric do not count for it; it is None if no seed has it.
    """
    means: Scores = {}
    deviations: Scores = {}
    for name in dict.fromkeys(name for each in scores for name in each):
        found = [each.get(name) for each in scores]
        values = np.array([value for value in found if value is not None], np.float64)
        same = len(set(values.tolist())) < 2  # even the mean of equal numbers may be off by a digit
        means[name] = (values[0] if same else values.mean()).item() if len(values) else None
        deviations[name] = None if not len(values) else 0.0 if same else values.std(ddof=1).item()
    return means, deviations
