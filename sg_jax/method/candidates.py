"""The settings that tuning tries for each guidance method, in one table.

Each row crosses lists of values. A list begins with a value that is usual in the papers or for our
networks (RESULTS.md), and its first few values span what worked best in either. The candidates of a
row are ordered by the sum of their values' places in the lists. So the first n of any row are the
ones to try first, and n is the same for every method.

To add a method, add a row.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from sg_jax.method.guidance import Guidance
from sg_jax.method.weak import RAW

UNGUIDED = "unguided"
USUAL = (UNGUIDED, "cfg", "sg", "cfg_sg", "icg", "ag", "pdg", "ig")  # tried unless others are named
Values = Sequence[dict[str, Any]]  # the fields that a list sets, value by value


def each(field: str, *values: Any) -> Values:
    """Return the list of one field's values."""
    return [{field: value} for value in values]


def rates(*pairs: tuple[Any, Any]) -> Values:
    """Return a list of pairs gamma_strong, gamma_weak."""
    return [dict(gamma_strong=strong, gamma_weak=weak) for strong, weak in pairs]


def crossed(*lists: Values, **fixed: Any) -> tuple[Guidance, ...]:
    """Return every combination of values, ordered by the sum of their places in the lists.

    Args:
      lists: all count alike; between combinations with equal sums, the first list decides.
      fixed: values that all combinations share.
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
SG_SCALES = each("scale", 2.0, 3.0, 1.5, 4.0, 1.25, 6.0)  # closer rates bear more
TIMES = each("interval", (0.0, 1.0), (0.5, 1.0), (0.3, 0.8))
NOISY = each("interval", (0.0, 1.0), (0.0, 0.7), (0.0, 0.4))  # of t: where the inner head helps
SG_RATES = rates((0.0, 0.9), (0.5, 0.9), (0.0, 0.75), (0.0, 0.5), (0.25, 0.75), (0.4, 0.7))
RISES = (1.0, 4.0), (4.0, 1.0), (1.0, 3.0), (3.0, 1.0), (1.0, 6.0), (6.0, 1.0), (2.0, 4.0)
EARLY = each("weak_step", 0.33, 0.15, 0.6)
SUMMED = [  # of differences; after many steps the sum is scaled by (omega - 1) / (1 - beta)
    dict(scale=scale, momentum=beta)
    for scale, beta in (
        (1.15, 0.9), (1.25, 0.75), (1.2, 0.9), (1.1, 0.9), (1.5, 0.5), (1.5, 0.75), (1.1, 0.95),
    )
]  # fmt: skip

METHODS: dict[str, tuple[Guidance, ...]] = {
    UNGUIDED: (Guidance(),),  # only its number of steps can be chosen
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
    "slg": crossed(
        each("skip_scale", 1.5, 2.0, 1.25, 3.0),
        each("skip", (2,), (3,), (1,), (4,), (5,), (2, 3)),
        TIMES,
    ),
    "s2": crossed(
        each("skip_scale", 1.25, 1.5, 1.1),
        CFG_SCALES,
        each("skip", 1, 2),
        TIMES,
        weak_label="null",
    ),
    "tsg": crossed(
        SCALES, each("time_noise", 1.0, 0.5, 2.0), each("time_power", 1.0, 0.0, 2.0), TIMES
    ),
    "ig": crossed(each("inner_scale", 1.5, 1.25, 2.0, 3.0, 1.1, 4.0, 1.75), NOISY),
    "ig_sg": crossed(each("inner_scale", 1.25, 1.5, 1.1, 2.0), SG_RATES[:3], SG_SCALES[:3], NOISY),
    "ig_cfg": crossed(each("inner_scale", 1.25, 1.5, 1.1), CFG_SCALES, TIMES, weak_label="null"),
    "apg": crossed(
        CFG_SCALES,
        each("parallel", 0.0, 0.5),
        each("momentum", 0.0, -0.5),
        TIMES,
        weak_label="null",
    ),
    "apg_sg": crossed(
        SG_RATES[:3], SG_SCALES, each("parallel", 0.0, 0.5), each("momentum", 0.0, -0.5)
    ),
    "cfg_momentum": crossed(SUMMED, TIMES, weak_label="null"),
    "sg_momentum": crossed(SUMMED, SG_RATES[:3], TIMES),
    "ag_momentum": crossed(SUMMED, EARLY, TIMES),
    "ag_sg_momentum": crossed(SUMMED, rates((0.0, 0.5), (0.0, 0.75), (0.0, 0.9)), EARLY, TIMES),
    "cfg_zero": crossed(
        CFG_SCALES, each("zero_steps", 1, 0), TIMES, weak_label="null", rescale=True
    ),
    "sg_zero": crossed(SG_RATES[:3], SG_SCALES, each("zero_steps", 1, 0), rescale=True),
    "sg_refresh": crossed(SG_RATES[:3], each("refresh", 2, 3), SG_SCALES, TIMES),
    "sg_borrowed": crossed(SG_RATES, SG_SCALES, TIMES, ids="borrowed"),
    "sg_rising": crossed(
        SG_RATES[:3],
        each("scale", *[("linear", a, b) for a, b in RISES]),
    ),
    "ema": crossed(SCALES, each("weak_weights", RAW), TIMES),
}

TITLES = {  # what figures call the methods; any others appear in capitals
    UNGUIDED: "no guidance",
    "cfg_sg": "CFG+SG",
    "ag_sg": "AG+SG",
    "s2": "S²",
    "ig_sg": "IG+SG",
    "ig_cfg": "IG+CFG",
    "apg": "APG on CFG",
    "apg_sg": "APG on SG",
    "cfg_momentum": "CFG, differences summed",
    "sg_momentum": "SG, differences summed",
    "ag_momentum": "AG, differences summed",
    "ag_sg_momentum": "AG+SG, differences summed",
    "cfg_zero": "CFG-Zero*",
    "sg_zero": "Zero* on SG",
    "sg_refresh": "SG, weak prediction reused",
    "sg_borrowed": "SG, borrowed tokens",
    "sg_rising": "SG, ω falls or rises",
    "ema": "raw weights as the weak ones",
}


def title(method: str) -> str:
    """Return a method's name in figures; a method that a config defines keeps its name."""
    return TITLES.get(method, method.upper() if method in METHODS else method)
