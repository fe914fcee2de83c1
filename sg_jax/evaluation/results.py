"""What is measured of a guidance setting, and how each number is printed."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class SettingResult:
    """What one guidance setting scored. None or NaN stands for "not measured".

    Attributes:
      name: short, such as "sg".
      description: the setting in a few words, such as "ω 1.75, γ 0 / 0.75".
      frechet: Fréchet distance to the real images, squared units of the features; lower is better.
      precision: share of generated images that lie among the real ones, 0..1.
      recall: share of real images that lie among the generated ones, 0..1.
      accuracy: share of images the classifier gives the class they were made for, 0..1.
      gflops_per_step: cost of one sampling step of one image, 1e9 operations.
      images_per_second: measured speed, compilation left out.
      samples: number of generated images per seed.
      seeds: how many times it was measured, each with other noise; the numbers are means.
      deviations: field to standard deviation over the seeds; empty for one seed.
    """

    name: str
    description: str
    frechet: float | None
    precision: float | None
    recall: float | None
    accuracy: float | None
    gflops_per_step: float | None
    images_per_second: float | None
    samples: int
    seeds: int = 1
    deviations: Mapping[str, float] = dataclasses.field(default_factory=dict)


def finite(value: float | None) -> float | None:
    """Return the number, or None for None, NaN and infinity."""
    return value if value is not None and math.isfinite(value) else None


@dataclasses.dataclass(frozen=True)
class Column:
    """One number of a table.

    Attributes:
      field: its name in SettingResult.
      header: its name in the table.
      unit: of what is printed.
      better: 1 if higher is better, -1 if lower is, 0 if neither.
      digits: from the column's largest printed value to the digits behind the point.
      factor: from the value to what is printed.
    """

    field: str
    header: str
    unit: str
    better: int
    digits: Callable[[float], int]
    factor: float = 1.0

    def texts(self, rows: Sequence[SettingResult]) -> list[str]:
        """Format the column with equally many digits, so that points align."""
        values = [finite(getattr(row, self.field)) for row in rows]
        deviations = [finite(row.deviations.get(self.field)) for row in rows]
        digits = self._digits(values)
        return [
            self._text(value, digits)
            + ("" if deviation is None else f" ± {self._text(deviation, digits)}")
            for value, deviation in zip(values, deviations, strict=True)
        ]

    def best(self, rows: Sequence[SettingResult]) -> list[bool]:
        """Say which rows print the best value; none if all print the same."""
        values = [finite(getattr(row, self.field)) for row in rows]
        known, digits = [v for v in values if v is not None], self._digits(values)
        texts = [self._text(value, digits) for value in values]
        if not self.better or len(set(texts) - {"–"}) < 2:
            return [False] * len(rows)
        winner = texts[values.index(max(known) if self.better > 0 else min(known))]
        return [text == winner for text in texts]

    def _digits(self, values: Sequence[float | None]) -> int:
        return self.digits(max((abs(v) * self.factor for v in values if v is not None), default=0))

    def _text(self, value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value * self.factor:,.{digits}f}"

    @property
    def arrow(self) -> str:
        """An arrow to where better is, after a space."""
        return {1: " ↑", -1: " ↓", 0: ""}[self.better]


def _significant(count: int) -> Callable[[float], int]:
    return lambda largest: max(0, count - 1 - math.floor(math.log10(largest))) if largest else 0


COLUMNS = (
    Column("frechet", "Fréchet", "distance", -1, lambda largest: 3 if largest < 100 else 1),
    Column("precision", "Precision", "0–1", 1, lambda _: 3),
    Column("recall", "Recall", "0–1", 1, lambda _: 3),
    Column("accuracy", "Accuracy", "%", 1, lambda _: 1, factor=100),
    Column("gflops_per_step", "Cost", "GFLOPs/step", -1, _significant(4)),
    Column("images_per_second", "Speed", "images/s", 1, _significant(3)),
    Column("samples", "Samples", "images", 0, lambda _: 0),
)
