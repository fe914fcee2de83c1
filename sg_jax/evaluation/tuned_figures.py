"""The figure of tuning: quality over cost, a line per method, a panel per metric."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sg_jax.evaluation.metrics import Metric
from sg_jax.evaluation.pictures import INK
from sg_jax.evaluation.style import MARKERS, TEXT, hues, new_figure, plain
from sg_jax.evaluation.tuned import Winner
from sg_jax.method.candidates import UNGUIDED, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_ROW = 3  # panels


def curves(winners: Sequence[Winner], metrics: Sequence[Metric]) -> "Figure":
    """Draw each metric over the cost of a run; bars are deviations over runs, or over seeds of one.

    Args:
      winners: those of all methods and budgets; at least one.
      metrics: the panels; at least one.
    """
    wide = min(PER_ROW, len(metrics))
    high = -(-len(metrics) // wide)
    figure = new_figure((4.2 * wide, 3.3 * high + 0.7))
    panels = figure.subplots(high, wide, squeeze=False).ravel()
    methods = list(dict.fromkeys(winner.method for winner in winners))
    colours = hues([m for m in methods if m != UNGUIDED]) | {UNGUIDED: INK}
    for axes, metric in zip(panels, metrics, strict=False):
        for i, method in enumerate(methods):
            found = [(w.cost, w.spread(metric)) for w in winners if w.method == method]
            points = [(cost, s.mean, s) for cost, s in found if s.mean is not None]
            points.sort(key=lambda point: point[0])
            bars = [s.seeds if s.runs is None else s.runs for _, _, s in points]
            # Otherwise the bars of one budget would overlap.
            moved = 0.004 * (i - len(methods) / 2)
            axes.errorbar(
                [cost * (1 + moved) for cost, _, _ in points],
                [mean * metric.factor for _, mean, _ in points],
                yerr=[(bar or 0.0) * metric.factor for bar in bars],
                color=colours[method], marker=MARKERS[i % len(MARKERS)], markersize=5,
                capsize=2, elinewidth=1, linewidth=1.5, label=title(method),
                linestyle="--" if method == UNGUIDED else "-",
            )  # fmt: skip
        axes.set_ylabel(metric.title, color=INK)
        axes.set_xlabel("cost of a run, as a multiple of one without guidance", color=INK)
        plain(axes)
    for axes in panels[len(metrics) :]:
        axes.remove()
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=min(len(methods), 3 * wide),
        **TEXT,
    )
    return figure
