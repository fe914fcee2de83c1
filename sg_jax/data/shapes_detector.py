"""From an image back to its scene: the things in it, each with a confidence.

Grey has no chroma (a colour less its mean over red, green and blue). So a pixel that a thing partly
covers has part of its chroma, whatever the shade of the background. Touching pixels of one colour
form a thing. Its size follows from the sum of what they cover, and its shape is the one that comes
closest when it is drawn there. This recovers what `shapes_scenes.draw` has drawn.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from sg_jax.data.shapes_outlines import AREA, SHAPES, SIDE, coverage
from sg_jax.data.shapes_scenes import COLOURS, Thing
from sg_jax.errors import UserError

FAINT = 32.0  # chroma of a pixel below which it is background
DIM = 0.25  # least shade of a thing
LEAST = 8.0  # pixels of the smallest thing
WIDEST = 9.0  # radius of the largest
SURE = 0.75  # least confidence of a thing
SCALES = (0.94, 1.0, 1.06)  # of the radius; the one that fits best is taken
TOP = 4  # brightest pixels of a thing, which it covers completely
AT_ONCE = 256  # images


@dataclasses.dataclass(frozen=True)
class Found:
    """A thing that was found.

    Attributes:
      thing: what it is and where.
      confidence: 1 minus the share of its pixels' squares that the drawn thing does not explain.
    """

    thing: Thing
    confidence: float


def _chroma(colours: np.ndarray) -> np.ndarray:
    return colours - colours.mean(axis=-1, keepdims=True)


NAMES = tuple(COLOURS)
_CHROMA = _chroma(np.array(list(COLOURS.values()), np.float64))  # [colours, 3]
_FULL = np.linalg.norm(_CHROMA, axis=1)
_DIRECTIONS = _CHROMA / _FULL[:, None]


def detect(images: np.ndarray, least: float = SURE) -> list[list[Found]]:
    """Return the things in each image, the surest first.

    Args:
      images: uint8 [B, 32, 32, 3].
      least: the confidence below which nothing is reported.

    Raises:
      UserError: the images have the wrong type or shape.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (SIDE, SIDE, 3):
        raise UserError(
            f"images is {images.dtype} {list(images.shape)}; shapes are found in uint8 "
            f"[B, {SIDE}, {SIDE}, 3]."
        )
    found: list[list[Found]] = []
    for begin in range(0, len(images), AT_ONCE):
        found += _detect(images[begin : begin + AT_ONCE].astype(np.float64), least)
    return found


def _detect(images: np.ndarray, least: float) -> list[list[Found]]:
    from scipy import ndimage

    chroma = _chroma(images)  # [B, H, W, 3]
    along = chroma @ _DIRECTIONS.T  # [B, H, W, colours]
    nearest = along.argmax(axis=-1)
    strong = np.linalg.norm(chroma, axis=-1) > FAINT
    planes = strong[:, None] & (nearest[:, None] == np.arange(len(NAMES))[:, None, None])
    labels, count = ndimage.label(planes.reshape(-1, SIDE, SIDE), _within_planes(3))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    places = [
        (number, *divmod(plane.start, len(NAMES)))
        for number, (plane, _, _) in enumerate(ndimage.find_objects(labels), start=1)
        if sizes[number] >= LEAST / 2
    ]
    result: list[list[Found]] = [[] for _ in images]
    if not places:
        return result
    numbers, images_of, colours = np.array(places).T
    here = labels[images_of * len(NAMES) + colours]  # [P, H, W]
    own = here == numbers[:, None, None]
    around = ndimage.binary_dilation(own, _within_planes(1)) & ~(strong[images_of] & ~own)
    parts = np.where(own | around, along[images_of, :, :, colours], 0.0)
    for image, found in zip(images_of, _things(np.maximum(parts, 0.0), colours), strict=True):
        if found is not None and found.confidence >= least:
            result[image].append(found)
    for each in result:
        each.sort(key=lambda found: -found.confidence)
    return result


def _within_planes(depth: int) -> np.ndarray:
    """Return which pixels touch, even at corners, but not across planes: [depth, 3, 3]."""
    touching = np.zeros((depth, 3, 3), bool)
    touching[depth // 2] = True
    return touching


def _things(parts: np.ndarray, colours: np.ndarray) -> Iterator[Found | None]:
    """Yield what each part of an image is, from its chroma [P, H, W] along its colour [P]."""
    full = np.sort(parts.reshape(len(parts), -1), axis=1)[:, -TOP:].mean(axis=1)
    covered = np.clip(parts / full[:, None, None], 0.0, 1.0)
    mass = covered.sum(axis=(1, 2))
    middle = np.arange(SIDE) + 0.5
    x = (covered.sum(axis=1) @ middle) / mass
    y = (covered.sum(axis=2) @ middle) / mass
    squares = (covered**2).sum(axis=(1, 2))
    rest, radii = [], []
    for shape in SHAPES:
        for scale in SCALES:
            radius = scale * np.sqrt(mass / AREA[shape])
            rest.append(((covered - coverage(shape, x, y, radius)) ** 2).sum(axis=(1, 2)) / squares)
            radii.append(radius)
    best = np.argmin(rest, axis=0)
    for p, colour in enumerate(colours):
        shade = full[p] / _FULL[colour]
        shape, radius = SHAPES[best[p] // len(SCALES)], radii[best[p]][p]
        if mass[p] < LEAST or shade < DIM or radius > WIDEST:
            yield None
            continue
        numbers = (round(float(v), 3) for v in (radius, shade, x[p], y[p]))
        yield Found(Thing(shape, NAMES[colour], *numbers), 1.0 - float(rest[best[p]][p]))
