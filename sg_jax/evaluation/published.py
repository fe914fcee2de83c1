"""Figures that papers report, to be shown next to ours."""

import dataclasses
from collections.abc import Mapping, Sequence

from sg_jax.evaluation.metrics import METRICS, Metric
from sg_jax.evaluation.results import SettingResult

COLUMNS = ("fid", "sfid", "is", "precision", "recall", "gflops_per_step")


@dataclasses.dataclass(frozen=True)
class Table:
    """What a paper measured.

    Attributes:
      source: the paper, and the place in it.
      protocol: what was measured, and how.
      rows: by the name of the setting, a value by the name of the metric; values that the paper
        does not give are absent.
    """

    source: str
    protocol: str
    rows: Mapping[str, Mapping[str, float]]


TABLES = {
    "table3": Table(
        "Krause et al., arXiv 2601.01608, Tables 2 and 3",
        "SiT-XL/2 with routing after 400 epochs of ImageNet-256, 50,000 images",
        {
            "unguided": dict(fid=4.89, gflops_per_step=114.42),
            "cfg": dict(fid=2.57, gflops_per_step=228.84),
            "ag": dict(fid=2.95, gflops_per_step=228.84),
            "icg": dict(fid=2.81, gflops_per_step=228.84),
            "sg_flops": dict(fid=2.14, gflops_per_step=97.67),
            "sg_fid": dict(
                {"is": 249.7}, fid=1.58, sfid=4.45, precision=0.80, recall=0.63,
                gflops_per_step=173.16,
            ),
        },
    ),
    "adm": Table(
        "Dhariwal and Nichol, arXiv 2105.05233, with its evaluator",
        "admnet_guided_upsampled_imagenet256.npz against VIRTUAL_imagenet256_labeled.npz",
        {"adm": dict({"is": 215.84}, fid=3.9426, sfid=6.1404, precision=0.8265, recall=0.5309)},
    ),
}  # fmt: skip
HEAD = ("Setting", "Metric", "paper", "ours", "difference")


def beside(name: str, rows: Sequence[SettingResult]) -> list[tuple[str, ...]]:
    """Return lines with a paper's figures, ours and the difference, for the heading `HEAD`.

    Args:
      name: name of a table in `TABLES`.
      rows: our results; those with a name in the table are compared.
    """
    table = TABLES[name]
    lines: list[tuple[str, ...]] = []
    for row in rows:
        for column in COLUMNS:
            theirs = table.rows.get(row.name, {}).get(column)
            metric = METRICS[column]
            ours = row.value(metric)
            if theirs is not None:
                lines.append((row.name, metric.header, *_compared(metric, theirs, ours)))
    return lines


def _compared(metric: Metric, theirs: float, ours: float | None) -> tuple[str, str, str]:
    digits = max(2, len(f"{theirs * metric.factor}".partition(".")[2]))
    if ours is None:
        return metric.text(theirs, digits), "–", "–"
    change = (ours - theirs) * metric.factor
    share = f"{change:+.{digits}f} ({ours / theirs - 1:+.1%})"
    return metric.text(theirs, digits), metric.text(ours, digits), share


def text(name: str, rows: Sequence[SettingResult]) -> str:
    """Return `beside` as a table for the terminal; "" if the paper has none of the settings."""
    lines = beside(name, rows)
    if not lines:
        return ""
    columns = list(zip(HEAD, *lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    listed = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (HEAD, *lines)
    ]
    table = TABLES[name]
    title = f"Compared with the paper's figures ({table.source}: {table.protocol}):"
    return "\n".join([title, listed[0], "-" * max(map(len, listed)), *listed[1:]])
