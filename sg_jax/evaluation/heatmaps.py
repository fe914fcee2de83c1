"""Heatmaps of a sweep: a panel per scale, and a number in each cell."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sg_jax.evaluation.metrics import Metric, drawable
from sg_jax.evaluation.pictures import FAINT_INK, INK
from sg_jax.evaluation.style import is_wide, log_ticks, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS_PER_ROW = 4
THICK, THIN, HATCH = 3.0, 1.0, "////"


def heatmaps(
    values: np.ndarray,
    unguided: np.ndarray,
    scales: Sequence[float],
    gamma_strong: Sequence[float],
    gamma_weak: Sequence[float],
    metric: Metric,
) -> "Figure":
    """Draw a panel per scale, with gamma_weak to the right and gamma_strong upwards.

    All panels share one colour scale; brighter is better. Cells without guidance are hatched; the
    best cell of a panel has a thin frame, and the best of all a thick one. Cells without a finite
    number stay empty.

    Args:
      values: [S, A, W], in the units of the metric's value; at least one is finite.
      unguided: which cells have no guidance, bool [S, A, W].
      scales: omega of each panel [S].
      gamma_strong: the rate of each row of cells [A].
      gamma_weak: the rate of each column of cells [W].
      metric: the metric of `values`.
    """
    from matplotlib.patches import Patch

    values = np.asarray(values, np.float64) * metric.factor
    wide = min(len(scales), PANELS_PER_ROW)
    high = -(-len(scales) // wide)
    width = 1.9 + wide * (0.3 + 0.56 * len(gamma_weak))
    height = 1.1 + high * (0.6 + 0.44 * len(gamma_strong))
    figure = new_figure((max(width, 5.0), height))
    panels = figure.subplots(high, wide, squeeze=False, sharey=True)
    for spare in panels.flat[len(scales) :]:
        spare.set_visible(False)
    for i, axes in enumerate(panels.flat[: len(scales)]):
        image = _panel(axes, i, values, unguided, metric)
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
        ticks=log_ticks() if is_wide(values[drawable(values)]) else None,
    )  # fmt: skip
    bar.ax.minorticks_off()
    bar.set_label(metric.title, color=INK)
    bar.ax.tick_params(colors=FAINT_INK, labelsize=9)
    bar.outline.set_visible(False)
    kinds: dict[str, Any] = dict(edgecolor=INK, facecolor="none")
    marks = [
        Patch(linewidth=THICK, label="best of all", **kinds),
        Patch(linewidth=THIN, label="best of its panel", **kinds),
        Patch(linewidth=0, hatch=HATCH, label="no guidance", **kinds),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _panel(axes, i: int, values: np.ndarray, unguided: np.ndarray, metric: Metric):
    """Draw values[i] with numbers, hatching and frames; return the image."""
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    best, worst = (np.min, np.inf) if metric.better < 0 else (np.max, -np.inf)
    known = values[drawable(values)]
    norm = (LogNorm if is_wide(known) else Normalize)(known.min(), known.max())
    values = np.where(drawable(values), values, np.nan)
    ranked = np.where(np.isnan(values), worst, values)
    image = axes.imshow(
        values[i], cmap="viridis_r" if metric.better < 0 else "viridis", norm=norm,
        origin="lower", aspect="auto",
    )  # fmt: skip
    for (row, col), value in np.ndenumerate(values[i]):
        if np.isnan(value):
            axes.text(col, row, "–", ha="center", va="center", color=INK, fontsize=8.5)
            continue
        cell, colour = ((col - 0.5, row - 0.5), 1, 1), image.cmap(norm(value))
        ink = INK if np.dot(colour[:3], (0.299, 0.587, 0.114)) > 0.5 else "white"
        top = value == best(ranked[i])
        if unguided[i][row, col]:
            axes.add_patch(
                Rectangle(*cell, fill=False, hatch=HATCH, edgecolor=ink, alpha=0.3, linewidth=0)
            )
        if top:
            line = THICK if value == best(ranked) else THIN
            axes.add_patch(
                Rectangle(*cell, fill=False, edgecolor=INK, linewidth=line, clip_on=False)
            )
        axes.text(
            col, row, f"{value:.{min(metric.digits(known.max()), 3)}f}", ha="center", va="center",
            color=ink, fontsize=8.5, fontweight="bold" if top else "normal",
            path_effects=[withStroke(linewidth=2.5, foreground=colour)],  # clears the hatching
        )  # fmt: skip
    return image
