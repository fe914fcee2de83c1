"""Figures: quality against cost, training, densities; `heatmaps` and `method_figures` have more.

Each function returns a matplotlib Figure, which `style.save` writes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sg_jax.errors import UserError
from sg_jax.evaluation.metrics import METRICS, Metric, drawable
from sg_jax.evaluation.pictures import INK
from sg_jax.evaluation.style import (
    BESIDE,
    COLOURS,
    MARKERS,
    TEXT,
    logarithmic_if_wide,
    new_figure,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEPS = "training step"  # name of an axis


@dataclasses.dataclass(frozen=True)
class Spot:
    """One setting in a picture of quality against cost.

    Attributes:
      cost: in the units of its metric's value.
      quality: in the units of its metric's value.
      text: its name in the list of the front.
      kind: spots of one kind have one colour.
      run: spots of one run have one marker.
      deviation: that of the quality over seeds; 0 draws no bar.
    """

    cost: float
    quality: float
    text: str
    kind: str
    run: str = ""
    deviation: float = 0.0


def front(
    spots: Sequence[Spot], cost: Metric, quality: Metric, colours: Mapping[str, Any]
) -> "Figure":
    """Draw quality against cost, and list the settings on the Pareto front.

    Args:
      spots: at least one.
      cost: the metric of the costs; less is better.
      quality: the metric of the qualities.
      colours: the colour of each kind, in the order of the legend.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure = new_figure((10.4, 5.6))
    axes = figure.subplots()
    costs = np.array([spot.cost for spot in spots]) * cost.factor
    qualities = np.array([spot.quality for spot in spots]) * quality.factor
    best = pareto_front(costs, qualities, quality.better)
    axes.step(costs[best], qualities[best], where="post", color=INK, linewidth=1, zorder=1)
    runs = list(dict.fromkeys(spot.run for spot in spots))
    for x, y, spot in zip(costs, qualities, spots, strict=True):
        axes.errorbar(
            x, y, yerr=spot.deviation * quality.factor or None,
            marker=MARKERS[runs.index(spot.run) % len(MARKERS)], markersize=5.5,
            color=colours[spot.kind], markeredgecolor="white", markeredgewidth=0.5,
            elinewidth=1, linestyle="none", zorder=2,
        )  # fmt: skip
    for number, i in enumerate(best, start=1):
        axes.annotate(str(number), (costs[i], qualities[i]), (-4, -4), ha="right", va="top",
                      textcoords="offset points", fontsize=8, fontweight="bold")  # fmt: skip
    logarithmic_if_wide(axes, qualities)
    axes.set_xlabel(cost.title, color=INK)
    axes.set_ylabel(quality.title, color=INK)
    plain(axes)
    present = {spot.kind for spot in spots}
    marks: list[Any] = [Patch(color=c, label=k) for k, c in colours.items() if k in present]
    if len(runs) > 1:
        marks += [
            Line2D([], [], marker=MARKERS[i % len(MARKERS)], markersize=7, color=INK, label=run,
                   linestyle="none", markeredgecolor="white")
            for i, run in enumerate(runs)
        ]  # fmt: skip
    axes.legend(handles=marks, handlelength=1, **BESIDE)
    texts = quality.texts([spots[i].quality for i in best])
    listed = [
        f"{number}  {spots[i].text}: {text}"
        for number, (i, text) in enumerate(zip(best, texts, strict=True), start=1)
    ]
    figure.legend(
        [Line2D([], [], linestyle="none")] * len(best), listed, loc="outside lower left",
        title="Pareto front", title_fontsize=8.5, alignment="left", handlelength=0, **TEXT,
    )  # fmt: skip
    return figure


def pareto_front(costs: np.ndarray, qualities: np.ndarray, better: int) -> list[int]:
    """Return the Pareto front's indices by rising cost: no other point is both cheaper and better.

    Args:
      costs: [P], less is better.
      qualities: [P].
      better: 1 if a higher quality is better, -1 if a lower one is.
    """
    best, reached = [], -np.inf
    for i in np.lexsort((-better * qualities, costs)):
        if better * qualities[i] > reached:
            best.append(int(i))
            reached = better * qualities[i]
    return best


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a figure over training.

    Attributes:
      run: its run, which decides its colour.
      x: steps, or time, ascending [N].
      y: losses, or a metric's values [N].
      text: its name; empty: only the run's name.
      deviations: those of y over seeds [N], or None.
    """

    run: str
    x: Sequence[float]
    y: Sequence[float]
    text: str = ""
    deviations: Sequence[float] | None = None

    @property
    def label(self) -> str:
        """Its text in a legend."""
        return ", ".join(word for word in (self.run, self.text) if word)


def training(
    losses: Sequence[Line],
    scores: Sequence[Line] = (),
    metric: Metric = METRICS["frechet"],
    axis: str = STEPS,
    heldout: Sequence[Line] = (),
) -> "Figure":
    """Draw the loss of one or more runs over training, and a metric next to it if there is one.

    Args:
      losses: one line per run, faint as logged and bold as a running mean. NaN, infinity and
        numbers close to it are left out and counted in the legend.
      scores: values of `metric`, one line per run and setting.
      metric: the metric of `scores`.
      axis: the name of the horizontal axis.
      heldout: losses of images that were not trained on, dashed, in the colours of their runs.

    Raises:
      UserError: a line's x and y differ in length, or it has no finite loss.
    """
    figure = new_figure((9.6, 4.2) if scores else (7.2, 3.8))
    left, *others = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    colours = {line.run: COLOURS[i % len(COLOURS)] for i, line in enumerate(losses)}
    _draw_losses(left, losses, colours, heldout)
    left.set_ylabel("loss ↓" if heldout else "training loss ↓", color=INK)
    for axes in others:
        places = {text: n for n, text in enumerate(dict.fromkeys(s.text for s in scores))}
        for line in scores:
            n = places[line.text]
            axes.errorbar(
                line.x, np.multiply(line.y, metric.factor),
                yerr=np.multiply(line.deviations, metric.factor) if line.deviations else None,
                color=colours[line.run], marker=MARKERS[n % len(MARKERS)], capsize=2,
                linestyle=("-", "--", ":", "-.")[n % 4], label=line.label,
            )  # fmt: skip
        axes.set_ylabel(metric.title, color=INK)
        logarithmic_if_wide(axes, np.concatenate([line.y for line in scores]))
        axes.legend(**BESIDE)
    for axes in (left, *others):
        axes.set_xlabel(axis, color=INK)
        axes.set_xlim(left=0)
        if axis == STEPS:
            _whole_numbers(axes)
        plain(axes)
    return figure


def _draw_losses(
    axes: "Axes", losses: Sequence[Line], colours: Mapping[str, str], heldout: Sequence[Line]
) -> None:
    shown, smooth = [], []
    for line in losses:
        x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
        if x.shape != y.shape or x.ndim != 1:
            raise UserError(
                f"steps {list(x.shape)} and losses {list(y.shape)} must be lists of equal length."
            )
        finite = drawable(y)
        if not finite.any():
            raise UserError(f"None of the {len(y)} losses is finite; there is nothing to plot.")
        missing = f"{np.sum(~finite)} of {len(y)} not finite" if not finite.all() else ""
        x, y = x[finite], y[finite]
        mean = running_mean(y, max(1, len(y) // 20))
        dots: dict[str, Any] = {"marker": "."} if len(y) < 40 else {}
        axes.plot(x, y, color=colours[line.run], alpha=0.3, linewidth=0.8)
        label = dataclasses.replace(line, text=missing).label or "running mean"
        axes.plot(x, mean, color=colours[line.run], linewidth=2, label=label, **dots)
        shown.append(y)
        smooth.append(mean)
    for line in heldout:
        x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
        x, y = x[drawable(y)], y[drawable(y)]
        dots = {"marker": "o", "markersize": 3} if len(y) < 40 else {}
        axes.plot(x, y, "--", color=_darker(colours[line.run]), label=line.label, **dots)
        shown.append(y)
        smooth.append(y)
    every, means = np.concatenate(shown), np.concatenate(smooth)
    # A steep start would flatten the rest, so use a logarithmic axis, or else crop the start.
    if every.min() > 0 and means.max() > 10 * means.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        low, high = np.quantile(every, [0.0, 0.995])
        high = max(high, means.max())
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(low - room, high + room)
    axes.legend(**TEXT)


def _darker(colour: str) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    return tuple(0.6 * part for part in to_rgb(colour))


def _whole_numbers(axes: "Axes") -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Average each value with its neighbours.

    Args:
      values: [N].
      window: neighbours taken on each side. Near the start only as many as exist on both sides, so
        that a steep start keeps its height; near the end all on the left, so that the last value is
        a mean too.

    Returns:
      [N].
    """
    places = np.arange(len(values))
    before = np.minimum(window, places)
    after = np.minimum(before, places[::-1])
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return (sums[places + after + 1] - sums[places - before]) / (before + after + 1)


def densities(samples: Mapping[str, np.ndarray], label: str) -> "Figure":
    """Draw one density per name, with a dashed line at its median.

    Args:
      samples: name to distances [B], at least 0.
      label: the name of the horizontal axis.
    """
    figure = new_figure((6.4, 3.9))
    axes = figure.subplots()
    end = max(np.quantile(values, 0.98) for values in samples.values()) * 1.1 or 1.0
    x = np.linspace(0.0, end, 512)
    for i, (name, values) in enumerate(samples.items()):
        colour, median = COLOURS[i % len(COLOURS)], np.median(values)
        text = f"{name}\nmedian {median:.3f}"
        if np.ptp(values) == 0:  # no curve, because all values are equal
            axes.axvline(median, color=colour, linewidth=2, label=text)
            continue
        y = density(values, x)
        axes.plot(x, y, color=colour, linewidth=1.8, label=text)
        axes.fill_between(x, y, color=colour, alpha=0.15, linewidth=0)
        axes.vlines(median, 0, np.interp(median, x, y), color=colour, linestyle="--", linewidth=1.2)
    axes.set_xlim(0, end)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(label, color=INK)
    axes.set_ylabel("density", color=INK)
    plain(axes)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def density(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Estimate the density [X] at x >= 0 of values >= 0 [B] by Gaussian kernels.

    Mass that the kernels spread below 0 is folded back, so that the density integrates to 1.
    """
    from scipy.stats import gaussian_kde

    # Silverman's width; the quartiles keep a long tail from blurring the peak.
    deviation = np.std(values, ddof=1)
    quartiles = np.subtract(*np.quantile(values, (0.75, 0.25))) / 1.34
    narrow = min(quartiles or deviation, deviation) / deviation
    kernel = gaussian_kde(values, bw_method=0.9 * narrow * len(values) ** -0.2)
    return kernel(x) + kernel(-x)
