"""Figures of a sweep and of diversity: heatmaps, quality against cost, densities.

Each function returns a matplotlib Figure, which `save` writes. No pyplot: nothing global, no
display. matplotlib and scipy are imported inside the functions: sampling does without them.
"""

import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from sg_jax.evaluation.pictures import FAINT_INK, INK
from sg_jax.evaluation.results import Column
from sg_jax.runs.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
PANELS_PER_ROW = 4
THICK, THIN, HATCH = 3.0, 1.0, "////"
LOG_ABOVE = 4  # ratio of the largest to the smallest value from which a scale is logarithmic


def heatmaps(
    values: np.ndarray,
    unguided: np.ndarray,
    scales: Sequence[float],
    gamma_strong: Sequence[float],
    gamma_weak: Sequence[float],
    column: Column,
) -> "Figure":
    """Draw a panel per scale, gamma_weak to the right and gamma_strong upwards.

    All panels share one colour scale, on which brighter is better. Cells without guidance are
    hatched; the best cell of a panel has a thin frame, the best of all a thick one.

    Args:
      values: [S, A, W], in the units of the column's field.
      unguided: cells in which nothing guides, bool [S, A, W].
      scales: omega of each panel [S].
      gamma_strong: of each row of cells [A].
      gamma_weak: of each column of cells [W].
      column: which metric it is.
    """
    from matplotlib.patches import Patch

    values = np.asarray(values, np.float64) * column.factor
    wide = min(len(scales), PANELS_PER_ROW)
    high = -(-len(scales) // wide)
    width = 1.9 + wide * (0.3 + 0.56 * len(gamma_weak))
    height = 1.1 + high * (0.6 + 0.44 * len(gamma_strong))
    figure = new_figure((max(width, 5.0), height))
    panels = figure.subplots(high, wide, squeeze=False, sharey=True)
    for spare in panels.flat[len(scales) :]:
        spare.set_visible(False)
    for i, axes in enumerate(panels.flat[: len(scales)]):
        image = _panel(axes, i, values, unguided, column)
        axes.set_title(f"ω = {scales[i]:g}", fontsize=10, color=INK)
        axes.set_xticks(range(len(gamma_weak)), [f"{g:g}" for g in gamma_weak])
        axes.set_yticks(range(len(gamma_strong)), [f"{g:g}" for g in gamma_strong])
        axes.tick_params(length=0, colors=INK, labelsize=9)
        axes.spines[:].set_visible(False)
        if i + wide >= len(scales):
            axes.set_xlabel("γ weak", color=INK)
        if i % wide == 0:
            axes.set_ylabel("γ strong", color=INK)
    bar = figure.colorbar(
        image, ax=panels, pad=0.015, aspect=18, format="%g",
        ticks=_log_ticks() if _logarithmic(values) else None,
    )  # fmt: skip
    bar.ax.minorticks_off()
    bar.set_label(f"{column.header}{column.arrow}  ({column.unit})", color=INK)
    bar.ax.tick_params(colors=FAINT_INK, labelsize=9)
    bar.outline.set_visible(False)
    kinds = dict(edgecolor=INK, facecolor="none")
    marks = [
        Patch(linewidth=THICK, label="best of all", **kinds),
        Patch(linewidth=THIN, label="best of its panel", **kinds),
        Patch(linewidth=0, hatch=HATCH, label="no guidance", **kinds),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _panel(axes, i: int, values: np.ndarray, unguided: np.ndarray, column: Column):
    """Draw values[i] with numbers, hatching and frames; return the image."""
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    best = np.min if column.better < 0 else np.max
    norm = (LogNorm if _logarithmic(values) else Normalize)(values.min(), values.max())
    image = axes.imshow(
        values[i], cmap="viridis_r" if column.better < 0 else "viridis", norm=norm,
        origin="lower", aspect="auto",
    )  # fmt: skip
    for (row, col), value in np.ndenumerate(values[i]):
        cell, colour = ((col - 0.5, row - 0.5), 1, 1), image.cmap(norm(value))
        ink = INK if np.dot(colour[:3], (0.299, 0.587, 0.114)) > 0.5 else "white"
        top = value == best(values[i])
        if unguided[i][row, col]:
            axes.add_patch(
                Rectangle(*cell, fill=False, hatch=HATCH, edgecolor=ink, alpha=0.3, linewidth=0)
            )
        if top:
            line = THICK if value == best(values) else THIN
            axes.add_patch(
                Rectangle(*cell, fill=False, edgecolor=INK, linewidth=line, clip_on=False)
            )
        axes.text(
            col, row, f"{value:.{min(column.digits(values.max()), 3)}f}", ha="center", va="center",
            color=ink, fontsize=8.5, fontweight="bold" if top else "normal",
            path_effects=[withStroke(linewidth=2.5, foreground=colour)],  # clears the hatching
        )  # fmt: skip
    return image


def cost_quality(
    costs: Sequence[float],
    qualities: Sequence[float],
    scales: Sequence[float | None],
    texts: Sequence[str],
    cost: Column,
    quality: Column,
) -> "Figure":
    """Draw quality against cost, a colour per scale, and list the points on the Pareto front.

    Args:
      costs: of P settings, in the units of `cost`'s field.
      qualities: of P settings, in the units of `quality`'s field.
      scales: omega of P settings; None where nothing guides.
      texts: P descriptions.
      cost: which number the cost is; less is better.
      quality: which number the quality is.
    """
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    costs = np.asarray(costs, np.float64) * cost.factor
    qualities = np.asarray(qualities, np.float64) * quality.factor
    figure = new_figure((8.4, 4.4))
    axes = figure.subplots()
    front = pareto_front(costs, qualities, quality.better)
    axes.step(costs[front], qualities[front], where="post", color=INK, linewidth=1, zorder=1,
              label="Pareto front")  # fmt: skip
    known = sorted({s for s in scales if s is not None})
    shades = colormaps["viridis"](np.linspace(0.1, 0.92, max(len(known), 1)))
    for scale, shade in zip(known, shades, strict=False):
        mine = [i for i, s in enumerate(scales) if s == scale]
        axes.scatter(costs[mine], qualities[mine], s=30, color=shade, edgecolor="white",
                     linewidth=0.5, label=f"ω = {scale:g}", zorder=2)  # fmt: skip
    mine = [i for i, s in enumerate(scales) if s is None]
    axes.scatter(costs[mine], qualities[mine], s=42, marker="D", color=COLOURS[1],
                 edgecolor="white", linewidth=0.5, label="no guidance", zorder=3)  # fmt: skip
    for number, i in enumerate(front, start=1):
        axes.annotate(str(number), (costs[i], qualities[i]), (-4, -4), ha="right", va="top",
                      textcoords="offset points", fontsize=8, fontweight="bold")  # fmt: skip
    logarithmic_if_wide(axes, qualities)
    axes.set_xlabel(f"{cost.header}{cost.arrow}  ({cost.unit})", color=INK)
    axes.set_ylabel(f"{quality.header}{quality.arrow}  ({quality.unit})", color=INK)
    plain(axes)
    style = dict(frameon=False, fontsize=8.5, labelcolor=INK)
    axes.add_artist(axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.03), **style))
    digits = quality.digits(qualities.max())
    listed = [
        f"{number}  {texts[i]}: {qualities[i]:.{digits}f}"
        for number, i in enumerate(front, start=1)
    ]
    empty = [Line2D([], [], linestyle="none")] * len(front)
    axes.legend(empty, listed, loc="lower left", bbox_to_anchor=(1.01, -0.03), handlelength=0,
                title="Pareto front", title_fontsize=8.5, alignment="left", **style)  # fmt: skip
    return figure


def pareto_front(costs: np.ndarray, qualities: np.ndarray, better: int) -> list[int]:
    """Return the settings than which none is both cheaper and better, by rising cost.

    Args:
      costs: [P], less is better.
      qualities: [P].
      better: 1 if a higher quality is better, -1 if a lower one is.
    """
    front, reached = [], -np.inf
    for i in np.lexsort((-better * qualities, costs)):
        if better * qualities[i] > reached:
            front.append(int(i))
            reached = better * qualities[i]
    return front


def densities(samples: Mapping[str, np.ndarray], label: str) -> "Figure":
    """Draw one density per name, with a dashed line at its median.

    Args:
      samples: name to distances [B], at least 0.
      label: what the horizontal axis shows.
    """
    figure = new_figure((6.4, 3.9))
    axes = figure.subplots()
    end = max(np.quantile(values, 0.98) for values in samples.values()) * 1.1 or 1.0
    x = np.linspace(0.0, end, 512)
    for i, (name, values) in enumerate(samples.items()):
        colour, median = COLOURS[i % len(COLOURS)], np.median(values)
        text = f"{name}\nmedian {median:.3f}"
        if np.ptp(values) == 0:  # no curve: all in one place
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

    What kernels spread below 0 is folded back, so that it integrates to 1 from 0 on.
    """
    from scipy.stats import gaussian_kde

    # Silverman's width; the quartiles keep a long tail from blurring the peak.
    deviation = np.std(values, ddof=1)
    quartiles = np.subtract(*np.quantile(values, (0.75, 0.25))) / 1.34
    narrow = min(quartiles or deviation, deviation) / deviation
    kernel = gaussian_kde(values, bw_method=0.9 * narrow * len(values) ** -0.2)
    return kernel(x) + kernel(-x)


def save(figure: "Figure", path: str | os.PathLike) -> epath.Path:
    """Write a figure as PNG, whole or not at all, and return `path` as a path."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return write_atomically(path, buffer.getvalue())


def new_figure(size: tuple[float, float]) -> "Figure":
    """Return an empty figure of that many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _logarithmic(values: np.ndarray) -> bool:
    return bool(0 < LOG_ABOVE * values.min() < values.max())


def _log_ticks():
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1, 1.5, 2, 3, 5, 7))


def logarithmic_if_wide(axes, values: np.ndarray) -> None:
    """Make the vertical axis logarithmic, with plain numbers, where values differ much."""
    if _logarithmic(np.asarray(values)):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(_log_ticks())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()


def plain(axes) -> None:
    """Give axes the style of all plots: a faint grid, no box."""
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT_INK)
    axes.spines[["top", "right"]].set_visible(False)
