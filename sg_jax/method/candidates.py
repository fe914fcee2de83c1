"""The settings that tuning tries for each method of guidance, in one table.

Each row crosses lists of values. A list begins with the value that was best most often, in the
papers and on our networks (RESULTS.md), and goes on so that its first ones span its range. The
candidates of a row are ordered by how far down their lists their values are, all lists together.
So the first n of any row are those that one would try first, and n is the same for every method.

To add a method, add a row.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from sg_jax.method.guidance import Guidance

UNGUIDED = "unguided"
Values = Sequence[dict[str, Any]]  # what a list sets, value by value


def each(field: str, *values: Any) -> Values:
    """Return the list of one field's values."""
    return [{field: value} for value in values]


def rates(*pairs: tuple[Any, Any]) -> Values:
    """Return a list of pairs gamma_strong, gamma_weak."""
    return [dict(gamma_strong=strong, gamma_weak=weak) for strong, weak in pairs]


def crossed(*lists: Values, **fixed: Any) -> tuple[Guidance, ...]:
    """Return every combination of values, those first whose places in the lists add up to least.

    Args:
      lists: of equal rank; of two combinations with one sum, the first list decides.
      fixed: values that all have.
    """
    places = itertools.product(*(range(len(values)) for values in lists))
    found = []
    for place in sorted(places, key=lambda p: (sum(p), p)):
        parts = [values[i] for values, i in zip(lists, place, strict=True)]
        found.append(Guidance(**{k: v for part in parts for k, v in part.items()}, **fixed))
    return tuple(found)


# Small networks did best with a small omega, or with a larger one that acts on part of the run.
CFG_SCALES = each("scale", 1.5, 1.15, 2.0, 1.25, 1.05, 3.0, 1.1)
SCALES = each("scale", 1.5, 2.0, 1.25, 3.0, 1.1, 4.0, 1.75)
SG_SCALES = each("scale", 3.0, 2.0, 4.0, 1.5, 6.0)  # rates that differ less want less
TIMES = each("interval", (0.0, 1.0), (0.5, 1.0), (0.3, 0.8))
SG_RATES = rates((0.0, 0.9), (0.0, 0.75), (0.5, 0.9), (0.0, 0.5), (0.25, 0.75), (0.4, 0.7))
EARLY = each("weak_step", 0.33, 0.15, 0.6)

METHODS: dict[str, tuple[Guidance, ...]] = {
    UNGUIDED: (Guidance(),),  # its number of steps is all that there is to choose
    "cfg": crossed(CFG_SCALES, TIMES, weak_label="null"),
    "sg": crossed(SG_RATES, SG_SCALES, TIMES),
    "cfg_sg": crossed(
        SCALES,
        rates((0.0, 0.5), (0.2, 0.7), (0.0, 0.9), (0.5, 0.9)),
        TIMES,
        weak_label="null",
    ),
    "icg": crossed(CFG_SCALES, TIMES, weak_label="random"),
    "ag": crossed(SCALES, EARLY, TIMES),
    "ag_sg": crossed(
        SCALES,
        rates((0.0, 0.5), (0.0, 0.75), (0.5, 0.75), (("cosine", 0.0, 0.6), ("cosine", 0.6, 0.0))),
        EARLY,
        TIMES,
    ),
    "pdg": crossed(CFG_SCALES, TIMES, gamma_weak=1.0, weak_label="null"),
}
