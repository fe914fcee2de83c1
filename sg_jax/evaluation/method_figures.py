"""Figures that compare guidance methods: what each gains, and autoguidance by checkpoint."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sg_jax.evaluation.comparison import Point, baseline, ranked_by, runs_of
from sg_jax.evaluation.metrics import Metric
from sg_jax.evaluation.pictures import INK
from sg_jax.evaluation.style import BESIDE, COLOURS, MARKERS, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def gain(
    gains: Mapping[str, Mapping[str, tuple[float, float]]], runs: Sequence[str], metric: Metric
) -> "Figure":
    """Draw by how much each method improves the quality of each run, at its best setting.

    Args:
      gains: method -> run -> (share, standard deviation over seeds).
      runs: names of the runs, in their order.
      metric: the metric of the quality.
    """
    methods = sorted(gains)
    figure = new_figure((max(6.4, 1.8 + 0.32 * len(methods) * (len(runs) + 1)), 4.4))
    axes = figure.subplots()
    width = 0.8 / len(runs)
    for i, run in enumerate(runs):
        places = [k for k, kind in enumerate(methods) if run in gains[kind]]
        found = np.array([gains[methods[k]][run] for k in places]).reshape(-1, 2) * 100
        axes.bar(
            np.array(places) + (i - (len(runs) - 1) / 2) * width, found[:, 0], width,
            yerr=np.where(found[:, 1] > 0, found[:, 1], np.nan), ecolor=INK,
            error_kw=dict(elinewidth=1), color=COLOURS[i % len(COLOURS)], label=run,
        )  # fmt: skip
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_xticks(range(len(methods)), methods, rotation=30, ha="right")
    axes.set_ylabel(f"{metric.header}: gain over\nthe unguided one ↑  (%)", color=INK)
    plain(axes)
    axes.legend(**BESIDE)
    return figure


def weak_steps(points: Sequence[Point]) -> "Figure | None":
    """Draw the quality over the weak checkpoint's step; None without autoguidance."""
    lines: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        guidance = point.key.guidance
        if point.autoguided and not guidance.weak_workdir:
            shared = dataclasses.replace(guidance, weak_step=0, weak_workdir="any checkpoint")
            words = f"{point.method}: {shared.describe()}, {point.sampling}"
            lines.setdefault((point.run, words), []).append(point)
    if not lines:
        return None
    metric = ranked_by(points)
    figure = new_figure((10.4, 4.4))
    axes = figure.subplots()
    runs = runs_of([p for found in lines.values() for p in found])
    for i, ((run, words), found) in enumerate(lines.items()):
        found = sorted(found, key=lambda p: p.key.guidance.weak_step)
        axes.errorbar(
            [p.key.guidance.weak_step for p in found], [p.quality * metric.factor for p in found],
            yerr=[p.deviation * metric.factor for p in found],
            marker=MARKERS[runs.index(run) % len(MARKERS)], color=COLOURS[i % len(COLOURS)],
            capsize=2, linewidth=1.5, label=f"{run}, {words}",
        )  # fmt: skip
    for run in runs:
        own = next(p for (name, _), found in lines.items() for p in found if name == run)
        if (unguided := baseline(own, points)) is not None:
            height = unguided.quality * metric.factor
            axes.axhline(height, color=INK, linewidth=1, linestyle="--")
            axes.annotate(f"{run}, unguided", (1, height), (0, 2), ha="right",
                          xycoords=("axes fraction", "data"), textcoords="offset points",
                          fontsize=8, color=INK)  # fmt: skip
    axes.set_xlabel("step of the checkpoint that makes the weak prediction", color=INK)
    axes.set_ylabel(metric.title, color=INK)
    plain(axes)
    axes.legend(**BESIDE)
    return figure
