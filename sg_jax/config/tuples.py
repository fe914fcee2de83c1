"""Rules for settings that are tuples: each returns what is wrong with a value, or ""."""

from collections.abc import Callable
from typing import Any

from sg_jax.errors import FLOAT32, INT32, is_number, is_whole, nearest, shown

THEN = ("sample", "evaluate")  # modes that may follow training
ALL = "all"  # methods of guidance
OTHERS = "..."  # at the end of candidates: those of the method's table follow
METRICS = (  # of images, by name; `evaluation.metrics` says what they are
    "frechet", "fid", "sfid", "is", "fd_dinov2", "kid", "mind", "precision", "recall", "accuracy",
)  # fmt: skip


def numbers_in(low: float, high: float = FLOAT32) -> Callable[[Any], str]:
    """Return the rule that allows one or more different numbers in [low, high]."""

    def rule(values: Any) -> str:
        inside = isinstance(values, tuple) and all(
            is_number(v) and low <= v <= high for v in values
        )
        if inside and values and len({f"{v:g}" for v in values}) == len(values):
            return ""
        where = f"in [{low:g}, {high:g}]" if high < FLOAT32 else f"of at least {low:g}"
        return f"must be one or more different numbers {where} (to six digits), such as (0.0, 0.5)."

    return rule


def scales(values: Any) -> str:
    """Allow different omegas, all but 1, or none."""
    if isinstance(values, tuple) and 1 in values:
        return "must not contain 1, which means no guidance."
    return numbers_in(0)(values) if values != () else ""


def seeds(values: Any) -> str:
    """Allow seeds of a random generator, each only once."""
    if not isinstance(values, tuple) or not all(is_whole(v) and 0 <= v < 2**32 for v in values):
        return "must be a tuple of seeds that satisfy 0 <= seed < 2**32, such as (0, 1)."
    return "must not contain a seed twice." if len(set(values)) < len(values) else ""


def some_seeds(values: Any) -> str:
    """Allow one or more seeds of a random generator, each only once."""
    return seeds(values) or ("" if values else "must have at least one seed.")


def labels(values: Any) -> str:
    """Allow class numbers; how many classes there are is known only later."""
    whole = isinstance(values, tuple) and all(is_whole(v) and 0 <= v <= INT32 for v in values)
    return "" if whole else "must be numbers of classes, ints from 0, such as (0, 1)."


def decays(values: Any) -> str:
    """Allow decays of moving averages."""
    numeric = isinstance(values, tuple) and all(is_number(v) for v in values)
    if not numeric or not all(0.0 <= v < 1.0 for v in values):
        return "must lie in [0, 1)."
    if any(f"{v:g}" == "1" for v in values):
        return "must be at most 0.999999: larger decays print as 1, and each names its average."
    if len({f"{v:g}" for v in values}) < len(values):
        return "must not contain two decays that print the same, because each names its average."
    return ""


def gammas(pairs: Any) -> str:
    """Allow pairs (step, gamma) in the order of the steps."""
    for pair in pairs if isinstance(pairs, tuple) else ((),):
        numeric = isinstance(pair, tuple) and len(pair) == 2 and all(is_number(v) for v in pair)
        if not numeric or not 0 <= pair[1] <= 1 or not 0 <= pair[0] <= INT32 or pair[0] % 1:
            return "must be pairs (step, gamma) with a whole step and gamma in [0, 1]."
    steps = [step for step, _ in pairs]
    return "" if steps == sorted(set(steps)) else "must have ascending steps, each only once."


def names(values: Any) -> str:
    """Allow one or more names of guidance settings, each only once."""
    texts = isinstance(values, tuple) and all(isinstance(v, str) for v in values)
    if not texts or not values:
        return "must name at least one guidance setting."
    return f"must not name {twice!r} twice." if (twice := _twice(values)) else ""


def methods(values: Any) -> str:
    """Allow names of methods of guidance, each only once."""
    if not isinstance(values, tuple) or not all(isinstance(v, str) for v in values):
        return "must be names of methods, such as ('cfg', 'sg')."
    if ALL in values and len(values) > 1:
        return f"must be ({ALL!r},) alone, or names of methods."
    return f"must not name {twice!r} twice." if (twice := _twice(values)) else ""


def candidates(pairs: Any) -> str:
    """Allow pairs (method, names of settings); the last name may be `OTHERS`."""
    for pair in pairs if isinstance(pairs, tuple) else ((),):
        fits = isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)
        if not fits or not pair[0] or names(pair[1]) or OTHERS in pair[1][:-1]:
            return (
                "must be pairs of a method and the names of its guidance settings, each once, such "
                f"as (('sg', ('sg', 'sg_flops', {OTHERS!r})),), where {OTHERS!r} may be the last."
            )
    return "must not give a method twice." if _twice(tuple(m for m, _ in pairs)) else ""


def metrics(values: Any) -> str:
    """Allow names of metrics, each only once."""
    wrong = [v for v in values if v not in METRICS] if isinstance(values, tuple) else [values]
    if wrong:
        hint = nearest(wrong[0], METRICS)
        return f"may contain {', '.join(METRICS)}, not {shown(wrong[0])}.{hint}"
    return f"must not name {twice!r} twice." if (twice := _twice(values)) else ""


def then(values: Any) -> str:
    """Allow modes that may follow training, each only once."""
    wrong = [v for v in values if v not in THEN] if isinstance(values, tuple) else [values]
    if wrong:
        first = shown(wrong[0])
        return f"may contain 'sample' and 'evaluate', not {first}.{nearest(wrong[0], THEN)}"
    return f"must not name {twice!r} twice." if (twice := _twice(values)) else ""


def references(value: Any) -> str:
    """Allow a number of real images."""
    if is_whole(value) and (value == 0 or 4 <= value <= INT32):
        return ""
    return "must be at least 4, or 0 for all real images."


def _twice(values: tuple[str, ...]) -> str:
    """Return the first name that appears a second time, or ""."""
    return next((v for i, v in enumerate(values) if v in values[:i]), "")
