"""Values that change over a run of sampling steps, given as tuples.

A schedule is a number, or a tuple over the progress p from 0 (first step) to 1 (last step):

    ("linear", a, b)                     a + (b - a) p
    ("cosine", a, b)                     b + (a - b) (1 + cos(pi p)) / 2
    ("piecewise", (p0, v0), (p1, v1))    straight lines between the points, constant outside them
"""

from typing import Any

import numpy as np

from sg_jax.errors import FLOAT32, is_number, nearest

Schedule = float | tuple
KINDS = ("linear", "cosine", "piecewise")


def values(schedule: Schedule, steps: int) -> np.ndarray:
    """Return the value at each step, float64 [steps]."""
    p = np.linspace(0.0, 1.0, steps) if steps > 1 else np.zeros(1)
    if not isinstance(schedule, tuple):
        return np.full(steps, float(schedule))
    kind, *rest = schedule
    if kind == "piecewise":
        points, heights = zip(*rest, strict=True)
        return np.interp(p, points, heights)
    a, b = rest
    if kind == "linear":
        return a + (b - a) * p
    return b + (a - b) * (1 + np.cos(np.pi * p)) / 2


def broken(schedule: Schedule, low: float, high: float) -> str:
    """Return which rule a schedule in [low, high] breaks, as "must be ...", or ""."""
    number = isinstance(schedule, int | float) and not isinstance(schedule, bool)
    if not number and not isinstance(schedule, tuple):
        return "must be a number or a schedule, such as ('cosine', 0.6, 0.0)."
    heights: list[Any] = [schedule]
    if isinstance(schedule, tuple):
        kind, *rest = schedule or ("",)
        if not isinstance(kind, str) or kind not in KINDS:
            return f"must be a number, or begin with one of {KINDS}." + nearest(kind, KINDS)
        if kind == "piecewise":
            pairs = all(isinstance(r, tuple) and len(r) == 2 for r in rest) and bool(rest)
            points = [r[0] for r in rest] if pairs else []
            inside = all(is_number(p) and 0 <= p <= 1 for p in points)
            if not pairs or not inside or sorted(points) != points:
                return (
                    "must list points (progress, value), progress ascending from 0, the first "
                    "step, to 1, the last."
                )
            heights = [value for _, value in rest]
        elif len(rest) != 2:
            return f"must be ({kind!r}, first value, last value)."
        else:
            heights = rest
    for value in heights:
        if not is_number(value) or not low <= value <= high:
            if high == FLOAT32:
                return f"must be a finite number of at least {low:g} (1 is off)."
            return f"must lie in [{low:g}, {high:g}]: 0 computes every token, 1 none of them."
    return ""


def highest(schedule: Schedule) -> float:
    """Return the largest value that a schedule reaches."""
    if not isinstance(schedule, tuple):
        return float(schedule)
    kind, *rest = schedule
    return float(max(v for _, v in rest) if kind == "piecewise" else max(rest))


def text(schedule: Schedule) -> str:
    """Return a schedule in a few characters, such as "0.6→0 cosine"."""
    if not isinstance(schedule, tuple):
        return f"{schedule:g}"
    kind, *rest = schedule
    first, last = (rest[0][1], rest[-1][1]) if kind == "piecewise" else rest
    return f"{first:g}→{last:g} {kind}"
