"""Rules for settings that are tuples: each returns what is wrong with a value, or ""."""

import math
from collections.abc import Callable
from typing import Any

from sg_jax.errors import nearest

THEN = ("sample", "evaluate")  # modes that may follow training


def numbers_in(low: float, high: float = math.inf) -> Callable[[Any], str]:
    """Return the rule that allows one or more different numbers in [low, high]."""

    def rule(values: Any) -> str:
        fits = (
            isinstance(values, tuple)
            and values
            and all(
                isinstance(v, int | float) and low <= v <= high and math.isfinite(v) for v in values
            )
        )
        if fits and len(set(values)) == len(values):
            return ""
        where = f"in [{low:g}, {high:g}]" if high < math.inf else f"of at least {low:g}"
        return f"must be one or more different numbers {where}, such as (0.0, 0.5)."

    return rule


def seeds(values: Any) -> str:
    """Allow seeds of a random generator, each only once."""
    for seed in values if isinstance(values, tuple) else (values,):
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            return "must be seeds that satisfy 0 <= seed < 2**32."
    return "must not contain a seed twice." if len(set(values)) < len(values) else ""


def decays(values: Any) -> str:
    """Allow decays of moving averages."""
    numeric = isinstance(values, tuple) and all(isinstance(v, int | float) for v in values)
    if not numeric or not all(0.0 <= v < 1.0 for v in values):
        return "must lie in [0, 1)."
    if len({f"{v:g}" for v in values}) < len(values):
        return "must not contain two decays that print alike, because each names its average."
    return ""


def gammas(pairs: Any) -> str:
    """Allow pairs (step, gamma) in the order of the steps."""
    for pair in pairs if isinstance(pairs, tuple) else (pairs,):
        numeric = isinstance(pair, tuple) and all(isinstance(v, int | float) for v in pair)
        if not numeric or len(pair) != 2 or not 0 <= pair[1] <= 1 or pair[0] < 0:
            return "must be pairs (step, gamma) with gamma in [0, 1]."
    return "" if list(pairs) == sorted(pairs) else "must have ascending steps."


def names(values: Any) -> str:
    """Allow one or more names of guidance settings."""
    texts = isinstance(values, tuple) and all(isinstance(v, str) for v in values)
    return "" if texts and values else "must name at least one guidance setting."


def then(values: Any) -> str:
    """Allow modes that may follow training."""
    wrong = [v for v in values if v not in THEN] if isinstance(values, tuple) else [values]
    if not wrong:
        return ""
    return f"may contain 'sample' and 'evaluate', not {wrong[0]!r}.{nearest(wrong[0], THEN)}"


def references(value: Any) -> str:
    """Allow a number of real images."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and (value == 0 or value >= 4):
        return ""
    return "must be at least 4, or 0 for all real images."
