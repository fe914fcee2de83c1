"""The style of all figures: sizes, colours, axes, and how to write a figure.

Pyplot is not used, so there is no global state or display. matplotlib is imported inside the
functions, because sampling does not need it.
"""

import io
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from sg_jax.evaluation.pictures import FAINT_INK, INK
from sg_jax.runs.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which can be told apart with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*X"
TEXT: dict[str, Any] = dict(frameon=False, fontsize=8.5, labelcolor=INK)
BESIDE: dict[str, Any] = dict(loc="upper left", bbox_to_anchor=(1.01, 1.02), **TEXT)
LOG_ABOVE = 4  # a scale is logarithmic if the largest value is this many times the smallest


def shades(names: Sequence[str]) -> dict[str, Any]:
    """Return a colour for each of several ordered names, from dark to bright."""
    from matplotlib import colormaps

    found = colormaps["viridis"](np.linspace(0.1, 0.92, max(len(names), 1)))
    return dict(zip(names, found, strict=False))


def hues(names: Sequence[str]) -> dict[str, Any]:
    """Return a colour for each of several names without an order."""
    from matplotlib import colormaps

    return dict(zip(names, colormaps["tab20"](np.arange(len(names)) % 20), strict=True))


def new_figure(size: tuple[float, float]) -> "Figure":
    """Return an empty figure with a size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: "Figure", path: str | os.PathLike) -> epath.Path:
    """Write a figure as PNG, completely or not at all, and return `path` as a path."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if "$" in text.get_text():  # in the name of a run, which is not TeX
            text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return write_atomically(path, buffer.getvalue())


def is_wide(values: np.ndarray | Iterable[float]) -> bool:
    """Return whether values differ so much that a scale should be logarithmic."""
    found = np.asarray(values)
    return bool(0 < LOG_ABOVE * np.nanmin(found) < np.nanmax(found))


def log_ticks() -> Any:
    """Return the tick positions on a logarithmic scale."""
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1, 1.5, 2, 3, 5, 7))


def logarithmic_if_wide(axes: "Axes", values: np.ndarray) -> None:
    """Make the vertical axis logarithmic, with plain numbers, if values differ much."""
    if is_wide(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(log_ticks())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()


def plain(axes: "Axes") -> None:
    """Give axes the style of all figures: a faint grid, no box."""
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT_INK)
    axes.spines[["top", "right"]].set_visible(False)
