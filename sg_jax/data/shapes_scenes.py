"""Scenes of one to three things: what they may hold, how they are drawn, and which are held out.

A scene is one thing, two or three alike, or two of different shapes next to or above each other.
Things have one of three sizes and shades, and lie near fixed places, in steps of a patch, so that a
small network learns to draw them within minutes.

Some combinations of shape and colour, shape and count, shape and shape, and of shapes and their
places are held out: no training image has them. A network that draws them has combined what it
knows.
"""

import dataclasses
import random
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from sg_jax.data.shapes_outlines import REACH, SHAPES, SIDE, coverage

T = TypeVar("T")
COLOURS = {
    "red": (230, 25, 25),
    "yellow": (245, 215, 15),
    "green": (25, 180, 40),
    "cyan": (20, 205, 215),
    "blue": (25, 65, 240),
    "purple": (165, 25, 205),
}
SIZES = {"small": 3.6, "": 4.6, "large": 5.6}  # radii in pixels, by word
SHADES = {"dark": 0.55, "": 0.75, "bright": 1.0}  # times the colour
GREY = 225  # of the background
# Where one, two or three things are, before each is moved by one of STEPS along each axis.
PLACES = {
    1: (((16, 16),),),
    2: (((8, 16), (24, 16)), ((24, 16), (8, 16)), ((16, 8), (16, 24)), ((16, 24), (16, 8))),
    3: (((16, 8), (8, 24), (24, 24)), ((8, 8), (24, 8), (16, 24))),
}
STEPS = (-4, 0, 4)
# From the second thing to the first: to the right, and down.
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
GAP = 2.5  # least pixels between the boxes of two things
SLANT = 0.5  # most that things may be shifted across a relation, over their distance along it
KINDS = (("one", 0.3), ("alike", 0.15), ("two", 0.55))

UNSEEN_COLOURS = frozenset(
    {
        ("circle", "purple"),
        ("square", "yellow"),
        ("triangle", "blue"),
        ("star", "red"),
        ("cross", "green"),
    }
)
UNSEEN_COUNTS = frozenset(
    {("circle", 3), ("square", 2), ("triangle", 3), ("star", 2), ("cross", 3)}
)
UNSEEN_PAIRS = frozenset({frozenset({"circle", "cross"}), frozenset({"triangle", "star"})})
UNSEEN_PLACES = frozenset(  # the first one is left of, or above, the second
    {
        ("circle", "left of", "square"),
        ("star", "left of", "circle"),
        ("square", "left of", "triangle"),
        ("cross", "left of", "star"),
        ("square", "above", "circle"),
        ("triangle", "above", "cross"),
        ("star", "above", "square"),
        ("circle", "above", "triangle"),
    }
)


@dataclasses.dataclass(frozen=True)
class Thing:
    """One thing in a scene.

    Attributes:
      shape: one of `SHAPES`.
      colour: one of `COLOURS`.
      radius: its size in pixels; see `SIZES`.
      shade: its brightness, times the colour; see `SHADES`.
      x, y: its centre, in pixels from the upper left corner.
    """

    shape: str
    colour: str
    radius: float
    shade: float
    x: float = 0.0
    y: float = 0.0

    @property
    def size(self) -> str:
        """The word for its size, "" for none."""
        return _word(SIZES, self.radius)

    @property
    def brightness(self) -> str:
        """The word for its shade, "" for none."""
        return _word(SHADES, self.shade)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom."""
        side, up, down = (reach * self.radius for reach in REACH[self.shape])
        return self.x - side, self.y - up, self.x + side, self.y + down


@dataclasses.dataclass(frozen=True)
class Scene:
    """Things on grey; a training caption names them in this order."""

    things: tuple[Thing, ...]


def _word(values: dict[str, float], value: float) -> str:
    """Return the word of the nearest value."""
    return min(values, key=lambda word: abs(values[word] - value))


def relation(first: Thing, second: Thing) -> str:
    """Return where the first thing is, seen from the second; "" if that is not clear."""
    across, down = first.x - second.x, first.y - second.y
    if abs(down) <= SLANT * abs(across):
        return "left of" if across < 0 else "right of"
    if abs(across) <= SLANT * abs(down):
        return "above" if down < 0 else "below"
    return ""


def unseen_place(first: str, where: str, second: str) -> bool:
    """Return whether two shapes are never placed like this in training, in either order."""
    if where in ("right of", "below"):
        first, second = second, first
        where = {"right of": "left of", "below": "above"}[where]
    return (first, where, second) in UNSEEN_PLACES


def held_out(scene: Scene) -> bool:
    """Return whether a scene has any combination that is not in the training images."""
    things = scene.things
    shapes = [thing.shape for thing in things]
    if any((thing.shape, thing.colour) in UNSEEN_COLOURS for thing in things):
        return True
    if len(set(shapes)) == 1:
        return (shapes[0], len(shapes)) in UNSEEN_COUNTS
    return frozenset(shapes) in UNSEEN_PAIRS or unseen_place(
        shapes[0], relation(*things), shapes[1]
    )


class Draws:
    """Random choices that are the same in every version of Python: only `random()` is used."""

    def __init__(self, seed: int):
        self._next = random.Random(seed).random

    def between(self, low: float, high: float) -> float:
        """Return a number in [low, high), a whole number of 64ths if both bounds are."""
        return low + int((high - low) * self._next() * 64) / 64

    def one_of(self, options: Sequence[T]) -> T:
        """Return one of some options."""
        return options[int(self._next() * len(options))]

    def kind(self) -> str:
        """Return one of `KINDS`, with the frequency given there."""
        left = self._next()
        for name, share in KINDS:
            left -= share
            if left < 0:
                return name
        return KINDS[-1][0]


def random_scene(draws: Draws, unseen: bool = False) -> Scene:
    """Return a scene of a random kind that is held out if `unseen`, and is not otherwise."""
    kind = draws.kind()
    while True:
        things = _things(kind, draws)
        placed = _placed(things, draws)
        if placed is None:
            continue
        scene = Scene(placed)
        if held_out(scene) == unseen:
            return scene


def _things(kind: str, draws: Draws) -> list[Thing]:
    first = _thing(draws)
    if kind == "one":
        return [first]
    if kind == "two":
        second = _thing(draws)
        while second.shape == first.shape:
            second = _thing(draws)
        return [first, second]
    count = int(draws.between(2, 4))
    if count == 3:  # there is no room for three larger ones
        first = dataclasses.replace(first, radius=SIZES["small"])
    return [first] * count


def _thing(draws: Draws) -> Thing:
    shape, colour = draws.one_of(SHAPES), draws.one_of(tuple(COLOURS))
    sizes, shades = tuple(SIZES.values()), tuple(SHADES.values())
    return Thing(shape, colour, draws.one_of(sizes), draws.one_of(shades))


def _placed(things: list[Thing], draws: Draws, tries: int = 40) -> tuple[Thing, ...] | None:
    """Return things at random places, apart and clearly related; None if none are found."""
    for _ in range(tries):
        placed = []
        for thing, place in zip(things, draws.one_of(PLACES[len(things)]), strict=True):
            x, y = (float(middle + draws.one_of(STEPS)) for middle in place)
            placed.append(dataclasses.replace(thing, x=x, y=y))
        within = all(min(t.box[:2]) >= 0 and max(t.box[2:]) <= SIDE for t in placed)
        pairs = [(a, b) for i, a in enumerate(placed) for b in placed[:i]]
        related = len({thing.shape for thing in things}) == 1 or relation(placed[0], placed[1])
        if within and related and all(_apart(*pair) for pair in pairs):
            return tuple(placed)
    return None


def _apart(a: Thing, b: Thing) -> bool:
    (left, top, right, bottom), (l2, t2, r2, b2) = a.box, b.box
    return max(left - r2, l2 - right, top - b2, t2 - bottom) >= GAP


def draw(scene: Scene) -> np.ndarray:
    """Return the image of a scene, uint8 [32, 32, 3], with smooth edges."""
    image = np.full((SIDE, SIDE, 3), float(GREY))
    for thing in scene.things:
        covered = coverage(thing.shape, thing.x, thing.y, thing.radius)[..., None]
        image += covered * (np.array(COLOURS[thing.colour]) * thing.shade - image)
    return np.floor(image + 0.5).astype(np.uint8)
