"""Figures and the table of several runs side by side; see `compare`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sg_jax.evaluation import plots
from sg_jax.evaluation.comparison import Point, baseline, runs_of
from sg_jax.evaluation.pictures import INK, running_mean
from sg_jax.evaluation.plots import COLOURS
from sg_jax.evaluation.results import COLUMNS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X"
STYLE = dict(frameon=False, fontsize=8.5, labelcolor=INK)
DISTANCE = "Fréchet distance ↓"
UNITS = {60: "minutes", 3600: "hours"}  # of a time axis, in seconds


def cost(points: Sequence[Point]) -> "Figure":
    """Draw the Fréchet distance against GFLOPs per image: a colour per method, a marker per run.

    The bars are standard deviations over seeds. The points of the Pareto front are listed.
    """
    from matplotlib import colormaps
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure = plots.new_figure((10.4, 5.6))
    axes = figure.subplots()
    costs = np.array([p.gflops for p in points])
    distances = np.array([p.mean.frechet for p in points])
    front = plots.pareto_front(costs, distances, better=-1)
    axes.step(costs[front], distances[front], where="post", color=INK, linewidth=1, zorder=1)
    methods, runs = sorted({p.method for p in points}), runs_of(points)
    shades = dict(zip(methods, colormaps["tab20"](np.arange(len(methods)) % 20), strict=True))
    shades["unguided"] = INK
    for i, point in enumerate(points):
        axes.errorbar(
            costs[i], distances[i], yerr=point.deviation.frechet or None,
            marker=MARKERS[runs.index(point.run) % len(MARKERS)], markersize=5.5,
            color=shades[point.method], markeredgecolor="white", markeredgewidth=0.5,
            elinewidth=1, linestyle="none", zorder=3 if point.method == "unguided" else 2,
        )  # fmt: skip
    for number, i in enumerate(front, start=1):
        axes.annotate(str(number), (costs[i], distances[i]), (-4, -4), ha="right", va="top",
                      textcoords="offset points", fontsize=8, fontweight="bold")  # fmt: skip
    plots.logarithmic_if_wide(axes, distances)
    axes.set_xlabel("Cost ↓  (GFLOPs per image, all steps)", color=INK)
    axes.set_ylabel(DISTANCE, color=INK)
    plots.plain(axes)
    empty = dict(linestyle="none", markeredgecolor="white")
    marks = [Patch(color=shades[m], label=m) for m in methods] + [
        Line2D([], [], marker=MARKERS[i % len(MARKERS)], markersize=7, color=INK, label=r, **empty)
        for i, r in enumerate(runs)
    ]
    axes.legend(
        handles=marks, loc="upper left", bbox_to_anchor=(1.01, 1.02), handlelength=1, **STYLE
    )
    listed = [
        f"{number}  {points[i].run}, {points[i].key.guidance.describe()}, {points[i].sampling}: "
        f"{distances[i]:.3f}"
        for number, i in enumerate(front, start=1)
    ]
    figure.legend(
        [Line2D([], [], linestyle="none")] * len(front), listed, loc="outside lower left",
        title="Pareto front", title_fontsize=8.5, alignment="left", handlelength=0, **STYLE,
    )  # fmt: skip
    return figure


def gain(gains: Mapping[str, Mapping[str, tuple[float, float]]], runs: Sequence[str]) -> "Figure":
    """Draw by how much each method lowers the Fréchet distance of each run, at its best setting.

    Args:
      gains: method -> run -> (share, standard deviation over seeds).
      runs: names of the runs, in their order.
    """
    methods = sorted(gains)
    figure = plots.new_figure((max(6.4, 1.8 + 0.32 * len(methods) * (len(runs) + 1)), 4.4))
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
    axes.set_ylabel("Fréchet distance below\nthe unguided one ↑  (%)", color=INK)
    plots.plain(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), **STYLE)
    return figure


def weak_steps(points: Sequence[Point]) -> "Figure | None":
    """Draw the Fréchet distance over the weak checkpoint's step; None without autoguidance."""
    lines: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        if "AG" in point.method and not point.key.guidance.weak_workdir:
            words = point.key.guidance.describe().replace(
                f" step {point.key.guidance.weak_step}", ""
            )
            words = f"{point.method}: {words}, {point.sampling}"
            lines.setdefault((point.run, words), []).append(point)
    if not lines:
        return None
    figure = plots.new_figure((10.4, 4.4))
    axes = figure.subplots()
    runs = runs_of([p for found in lines.values() for p in found])
    for i, ((run, words), found) in enumerate(lines.items()):
        found = sorted(found, key=lambda p: p.key.guidance.weak_step)
        axes.errorbar(
            [p.key.guidance.weak_step for p in found], [p.mean.frechet for p in found],
            yerr=[p.deviation.frechet for p in found],
            marker=MARKERS[runs.index(run) % len(MARKERS)],
            color=COLOURS[i % len(COLOURS)], capsize=2, linewidth=1.5, label=f"{run}, {words}",
        )  # fmt: skip
    for run in runs:
        own = next(p for (name, _), found in lines.items() for p in found if name == run)
        if (unguided := baseline(own, points)) is not None:
            axes.axhline(unguided.mean.frechet, color=INK, linewidth=1, linestyle="--")
            axes.annotate(f"{run}, unguided", (1, unguided.mean.frechet), (0, 2), ha="right",
                          xycoords=("axes fraction", "data"), textcoords="offset points",
                          fontsize=8, color=INK)  # fmt: skip
    axes.set_xlabel("step of the checkpoint that makes the weak prediction", color=INK)
    axes.set_ylabel(DISTANCE, color=INK)
    plots.plain(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), **STYLE)
    return figure


def training(
    points: Sequence[Point],
    metrics: Mapping[str, Sequence[Mapping[str, float]]],
    seconds: Mapping[str, Mapping[int, float]],
) -> "Figure | None":
    """Draw the loss over the time of training, and the Fréchet distance; None without records.

    Args:
      points: at all checkpoints that were scored; if it is one each, only the loss is drawn.
      metrics: run -> records of its metrics.jsonl.
      seconds: run -> step -> seconds of training; see `writers.training_seconds`.
    """
    longest = max((max(times.values(), default=0) for times in seconds.values()), default=0)
    if not longest:
        return None
    unit = 3600 if longest > 2 * 3600 else 60
    scored = {run: _over_training(points, run, times) for run, times in seconds.items()}
    panels = 2 if any(scored.values()) else 1
    figure = plots.new_figure((4.8 * panels, 4.2))
    left, *others = figure.subplots(1, panels, squeeze=False)[0]
    ends, shown = [], []
    for i, (run, times) in enumerate(seconds.items()):
        colour = COLOURS[i % len(COLOURS)]
        records = [r for r in metrics[run] if "loss" in r]
        x = np.array([times[r["step"]] for r in records]) / unit
        losses = np.array([r["loss"] for r in records])
        left.plot(x, losses, color=colour, alpha=0.25, linewidth=0.8)
        left.plot(x, running_mean(losses, max(1, len(losses) // 20)), color=colour, label=run)
        ends += list(losses[len(losses) // 10 :])
        for n, (words, found) in enumerate(scored[run]):
            shown += [p.mean.frechet for p in found]
            others[0].errorbar(
                _at(times, [p.key.checkpoint for p in found]) / unit,
                [p.mean.frechet for p in found],
                yerr=[p.deviation.frechet for p in found],
                color=colour, marker=MARKERS[n % len(MARKERS)], capsize=2,
                linestyle=("-", "--", ":", "-.")[n % 4], label=f"{run}, {words}",
            )  # fmt: skip
    left.set_ylim(0.98 * min(ends), 1.02 * max(ends))  # the steep beginning is left out
    for axes, label in zip((left, *others), ("training loss ↓", DISTANCE), strict=False):
        axes.set_xlabel(f"time of training ({UNITS[unit]})", color=INK)
        axes.set_ylabel(label, color=INK)
        plots.plain(axes)
    left.legend(**STYLE)
    for axes in others:
        plots.logarithmic_if_wide(axes, np.array(shown))
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), **STYLE)
    return figure


def _at(times: Mapping[int, float], steps: Sequence[int]) -> np.ndarray:
    """Return the seconds of training to `steps`, which need not be those that were logged."""
    known = sorted(times)
    return np.interp(steps, [0, *known], [0.0, *(times[step] for step in known)])


def _over_training(points: Sequence[Point], run: str, times: Mapping[int, float]):
    """Return (words, points by step) of the settings scored at most checkpoints, and not one."""
    found: dict[str, list[Point]] = {}
    for point in points:
        if point.run == run and times:
            found.setdefault(f"{point.key.guidance.describe()}, {point.sampling}", []).append(point)
    most = max(map(len, found.values()), default=0)
    return [
        (words.split(", euler")[0], sorted(each, key=lambda p: p.key.checkpoint))
        for words, each in found.items()
        if len(each) == most > 1
    ]


def markdown(
    points: Sequence[Point],
    best: Mapping[str, Mapping[str, Point]],
    gains: Mapping[str, Mapping[str, tuple[float, float]]],
) -> str:
    """Return two tables: the best setting of each method, and every setting."""
    key = points[0].key
    lines = [
        f"{key.samples:,} generated against {key.references:,} real images, feature network "
        f"{key.features}; mean ± standard deviation over seeds.",
        "",
        "## The best setting of each method",
        "",
        "Gain: by how much the Fréchet distance is below the unguided one, seed by seed.",
        "",
        "| method | run | setting | Fréchet ↓ | gain | GFLOPs/image |",
        "|---|---|---|---|---|---|",
    ]
    for kind in sorted(best):
        for run, point in best[kind].items():
            share, deviation = gains[kind][run]
            lines.append(
                f"| {kind} | {run} | {point.key.guidance.describe()}, {point.sampling} | "
                f"{point.mean.frechet:.3f} | {share:+.1%}"
                + (f" ± {deviation:.1%}" if deviation else "")
                + f" | {point.gflops:,.4g} |"
            )
    heads = [f"{c.header}{c.arrow} ({c.unit})" for c in COLUMNS[:4]]
    lines += [
        "",
        "## Every setting",
        "",
        "| run | step | setting | method | " + " | ".join(heads) + " | GFLOPs/image | images/s | "
        "seeds |",
        "|---" * (7 + len(heads)) + "|",
    ]
    for point in sorted(points, key=lambda p: (p.run, p.key.checkpoint, p.method)):
        numbers = [_number(point, column) for column in COLUMNS[:4]]
        lines.append(
            f"| {point.run} | {point.key.checkpoint} | {point.key.guidance.describe()}, "
            f"{point.sampling} | {point.method} | {' | '.join(numbers)} | {point.gflops:,.4g} | "
            f"{point.mean.images_per_second:,.4g} | {len(point.scores)} |"
        )
    return "\n".join(lines) + "\n"


def _number(point: Point, column) -> str:
    value = getattr(point.mean, column.field) * column.factor
    text = f"{value:.{column.digits(abs(value))}f}"
    if len(point.scores) == 1:
        return text
    deviation = getattr(point.deviation, column.field) * column.factor
    return f"{text} ± {deviation:.{column.digits(abs(value))}f}"
