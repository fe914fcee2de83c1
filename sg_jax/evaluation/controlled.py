"""Test the claim of arXiv 2403.17064, attribute control, on the shapes with their detector.

Prompts name two things. A direction acts on one of them, at several scales and from the same noise.
Its attribute should rise with the scale, and that of the other should stay the same. Spearman's
rho, the correlation of ranks, says how steadily: 1 if an attribute always rises.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from sg_jax.data import shapes_detector
from sg_jax.data.shapes_captions import named
from sg_jax.data.shapes_detector import Found
from sg_jax.data.shapes_outlines import AREA, SHAPES
from sg_jax.data.shapes_scenes import (
    COLOURS,
    RELATIONS,
    UNSEEN_COLOURS,
    UNSEEN_PAIRS,
    Draws,
    Thing,
    unseen_place,
)

LEAST = 0.0  # confidence that a thing needs to be measured: rough ones have little
FEWEST = 3  # scales at which both things must be found


def _size(thing: Thing, shape: str) -> float:
    """Return the radius in pixels that a shape of the thing's area has."""
    return thing.radius * float(np.sqrt(AREA[thing.shape] / AREA[shape]))


ATTRIBUTES: dict[str, Callable[[Thing, str], float]] = {
    "size": _size,
    "brightness": lambda thing, shape: thing.shade,
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """A prompt of two things.

    Attributes:
      text: the prompt.
      subject: shape and colour of the thing that is steered.
      other: those of the other thing.
    """

    text: str
    subject: tuple[str, str]
    other: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Steadiness:
    """What was measured on the images of some prompts; each pair is (subject, other).

    Attributes:
      rho: Spearman's rho over the scales, the mean over all prompts.
      error: its standard error.
      pooled: rho over all images together, of attributes minus their mean over a prompt.
      ends: the mean attribute at the lowest scale and at the highest: [2, 2], ends first.
      found: the share of images in which both things were found.
      prompts: how many of the prompts could be measured.
    """

    rho: tuple[float, float]
    error: tuple[float, float]
    pooled: tuple[float, float]
    ends: np.ndarray
    found: float
    prompts: int


def pairs(count: int, seed: int = 0) -> list[Pair]:
    """Return prompts of two things of different shapes and colours; none is held out."""
    draws, found = Draws(seed), list[Pair]()
    while len(found) < count:
        (a, b), where = [_thing(draws) for _ in range(2)], str(draws.one_of(tuple(RELATIONS)))
        if a[0] == b[0] or a[1] == b[1] or frozenset((a[0], b[0])) in UNSEEN_PAIRS:
            continue
        if {a, b} & UNSEEN_COLOURS or unseen_place(a[0], where, b[0]):
            continue
        text = f"{named(a[1], a[0])} {where} {named(b[1], b[0])}"
        found.append(Pair(text, *((a, b) if len(found) % 2 else (b, a))))
    return found


def _thing(draws: Draws) -> tuple[str, str]:
    return str(draws.one_of(SHAPES)), str(draws.one_of(tuple(COLOURS)))


def measure(images: np.ndarray, asked: Sequence[Pair], attribute: str) -> Steadiness:
    """Measure images of prompts at ascending scales.

    Args:
      images: uint8 [S, P, 32, 32, 3], S scales of P prompts.
      asked: the prompts.
      attribute: one of `ATTRIBUTES`.
    """
    value = ATTRIBUTES[attribute]
    values = np.full((len(images), len(asked), 2), np.nan)  # [S, P, (subject, other)]
    for row, of_scale in zip(values, images, strict=True):
        for cell, found, pair in zip(
            row, shapes_detector.detect(of_scale, LEAST), asked, strict=True
        ):
            for which, (shape, colour) in enumerate((pair.subject, pair.other)):
                if (thing := _the(found, shape, colour)) is not None:
                    cell[which] = value(thing, shape)
    return steadiness(values)


def _the(found: Sequence[Found], shape: str, colour: str) -> Thing | None:
    """Return the thing of a colour; among several, the one of the shape, or else the surest."""
    things = [one.thing for one in found if one.thing.colour == colour]
    return next((t for t in things if t.shape == shape), things[0] if things else None)


def steadiness(values: np.ndarray) -> Steadiness:
    """Return the correlations of attributes [S, P, (subject, other)] with ascending scales.

    Scales at which either thing was not found (NaN) do not count, nor do prompts with fewer than
    `FEWEST` scales left.
    """
    both = ~np.isnan(values).any(axis=2)  # [S, P]
    steps = np.arange(len(values), dtype=float)
    kept = [p for p in range(values.shape[1]) if both[:, p].sum() >= FEWEST]
    each = [
        [spearman(steps[both[:, p]], values[both[:, p], p, which]) for which in range(2)]
        for p in kept
    ]
    if not each:
        nothing = (float("nan"),) * 2
        ends = np.full((2, 2), np.nan)
        return Steadiness(nothing, nothing, nothing, ends, float(both.mean()), 0)
    rho, spread = np.mean(each, axis=0), np.std(each, axis=0) / np.sqrt(len(each))
    scales = np.broadcast_to(steps[:, None], both.shape)[both]
    masked = np.where(both[:, :, None], values, 0.0)
    centred = values - masked.sum(axis=0) / np.maximum(both.sum(axis=0), 1)[:, None]
    pooled = [spearman(scales, centred[both, which]) for which in range(2)]
    at_both = both[0] & both[-1]
    ends = values[[0, -1]][:, at_both].mean(axis=1) if at_both.any() else np.full((2, 2), np.nan)
    first, second = (tuple(map(float, numbers)) for numbers in (rho, spread))
    return Steadiness(
        (first[0], first[1]), (second[0], second[1]), (pooled[0], pooled[1]), ends,
        float(both.mean()), len(kept),
    )  # fmt: skip


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return the correlation of the ranks of x and y [n]; 0 if one of them is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(values) for values in (x, y)]
    a, b = (r - r.mean() for r in ranks)
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else 0.0


Row = tuple[str, str, str, Steadiness]  # method, setting, its description, what was measured


def markdown(rows: Sequence[Row], attribute: str, scales: Sequence[float]) -> str:
    """Return a table of what was measured."""
    shown = ", ".join(f"{s:g}" for s in scales)
    lines = [
        f"Spearman's rho of {attribute} and scale ({shown}), for the subject and for the other "
        'thing in the prompt. "Mean" is over the prompts, with its standard error; "pooled" is '
        'over all images. "From, to" is the mean attribute at the lowest and the highest scale.',
        "",
        "| direction | guidance | mean | of the other | pooled | of the other | from, to "
        "| of the other | both found | prompts |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method, name, described, found in rows:
        means = [f"{r:.3f} ± {e:.3f}" for r, e in zip(found.rho, found.error, strict=True)]
        pooled = [f"{r:.3f}" for r in found.pooled]
        ends = [f"{low:.2f}, {high:.2f}" for low, high in found.ends.T]
        cells = [method, f"{name}: {described}", *means, *pooled, *ends]
        lines.append(f"| {' | '.join(cells)} | {found.found:.0%} | {found.prompts} |")
    return "\n".join(lines) + "\n"
