"""The figure of one run's training: its loss, the held-out loss, and its small evaluations."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sg_jax.config.training import EVAL, HELDOUT
from sg_jax.evaluation import figures
from sg_jax.evaluation.figures import Line
from sg_jax.evaluation.metrics import METRICS, drawable, quality

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def of_run(records: Sequence[Mapping[str, Any]]) -> "Figure | None":
    """Draw what a run has measured over its steps; None without a loss that can be drawn.

    Args:
      records: the records of its metrics.jsonl.
    """
    losses = _line(records, "loss")
    if losses is None:
        return None
    heldout = _line(records, HELDOUT, "held-out, moving average")
    measured = [
        (metric, line)
        for metric in METRICS.values()
        if metric.of_images and (line := _line(records, EVAL + metric.name, "in training"))
    ]
    metric = quality([{metric.name: line.y[-1] for metric, line in measured}])
    # Preferably the metric that settings are ranked by, otherwise the first one.
    measured.sort(key=lambda pair: pair[0] != metric)
    metric, lines = (measured[0][0], [measured[0][1]]) if measured else (metric, [])
    return figures.training([losses], lines, metric, heldout=[heldout] if heldout else [])


def caption(records: Sequence[Mapping[str, Any]]) -> str:
    """Return what that figure shows, in a sentence."""
    shown = ["Training loss"]
    if any(HELDOUT in record for record in records):
        shown.append("the loss of held-out images by the moving average")
    if any(name.startswith(EVAL) for record in records for name in record):
        shown.append("small evaluations of the moving average while it trained")
    return f"{', '.join(shown[:-1])} and {shown[-1]}." if shown[1:] else f"{shown[0]}."


def _line(records: Sequence[Mapping[str, Any]], name: str, text: str = "") -> Line | None:
    found = [(r["step"], r[name]) for r in records if name in r]
    if not found or not drawable(np.array([value for _, value in found])).any():
        return None
    return Line("", [step for step, _ in found], [value for _, value in found], text)
