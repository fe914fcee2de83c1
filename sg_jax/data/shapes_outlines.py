"""The outlines of the shapes: how much of each pixel one covers, and the room that it takes.

Only sums, products, comparisons and square roots are used, which IEEE arithmetic rounds in
one way, so that the same scene has the same pixels everywhere.
"""

import numpy as np

SIDE = 32  # pixels of an image
SHAPES = ("circle", "square", "triangle", "star", "cross")
SQUARE = 0.9  # half a side, over the radius r of a thing
TRIANGLE = 1.3  # from the centre to a tip
STAR = 1.35  # from the centre to a tip
CROSS, BAR = 1.1, 0.42  # half the length and half the width of a bar
# The directions of the sides of a triangle, and of the lines of a pentagram, as seen from within.
_SIDES = ((0.0, 1.0), (0.866025403784, -0.5), (-0.866025403784, -0.5))
_LINES = (
    (0.0, 1.0),
    (0.951056516295, 0.309016994375),
    (-0.951056516295, 0.309016994375),
    (0.587785252292, -0.809016994375),
    (-0.587785252292, -0.809016994375),
)
_NEAR = 0.309016994375  # cos 72 degrees: the distance to a line over that to a tip, from the centre
# How far a shape reaches to each side, up and down, over r.
REACH = {
    "circle": (1.0, 1.0, 1.0),
    "square": (SQUARE, SQUARE, SQUARE),
    "triangle": (0.866025403784 * TRIANGLE, TRIANGLE, 0.5 * TRIANGLE),
    "star": (0.951056516295 * STAR, STAR, 0.809016994375 * STAR),
    "cross": (CROSS, CROSS, CROSS),
}
# The area over r squared.
AREA = {
    "circle": 3.14159265359,
    "square": 4 * SQUARE**2,
    "triangle": 1.29903810568 * TRIANGLE**2,
    "star": 1.12256994145 * STAR**2,
    "cross": 8 * CROSS * BAR - 4 * BAR**2,
}


def distance(shape: str, x: np.ndarray, y: np.ndarray, r: np.ndarray | float) -> np.ndarray:
    """Return the signed distance to an outline, in pixels; it is negative inside.

    Args:
      shape: one of `SHAPES`.
      x, y: from the centre, to the right and down.
      r: the radius of the thing; it broadcasts with both.
    """
    if shape == "circle":
        return np.sqrt(x * x + y * y) - r
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - SQUARE * r
    if shape == "triangle":
        side = _lines(_SIDES, x, y).max(axis=0) - 0.5 * TRIANGLE * r
        return _with_tips(side, x, y, TRIANGLE * r)
    if shape == "star":  # what lies within four of the five lines
        line = np.partition(_lines(_LINES, x, y), 3, axis=0)[3] - _NEAR * STAR * r
        return _with_tips(line, x, y, STAR * r)
    wide = np.maximum(abs(x) - CROSS * r, abs(y) - BAR * r)
    high = np.maximum(abs(x) - BAR * r, abs(y) - CROSS * r)
    return np.minimum(wide, high)


def _lines(directions: tuple[tuple[float, float], ...], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([a * x + b * y for a, b in directions])


def _with_tips(
    inner: np.ndarray, x: np.ndarray, y: np.ndarray, tip: np.ndarray | float
) -> np.ndarray:
    """Return the distance to an outline with sharp tips, cut off beyond these."""
    return np.maximum(inner, np.sqrt(x * x + y * y) - tip)


def coverage(
    shape: str, x: np.ndarray | float, y: np.ndarray | float, r: np.ndarray | float
) -> np.ndarray:
    """Return how much of each pixel things of one shape cover, float64 [..., 32, 32] in [0, 1].

    Args:
      shape: one of `SHAPES`.
      x, y: centres [...], in pixels from the upper left corner.
      r: radii [...].
    """
    places = np.arange(SIDE) + 0.5
    across = places - np.asarray(x, np.float64)[..., None, None]  # [..., 1, W]
    down = places[:, None] - np.asarray(y, np.float64)[..., None, None]  # [..., H, 1]
    across, down = np.broadcast_arrays(across, down)  # [..., H, W]
    far = distance(shape, across, down, np.asarray(r)[..., None, None])
    return np.clip(0.5 - far, 0.0, 1.0)
