"""Whether images show what their prompts ask for, by GenEval's rules (arXiv 2310.11513)."""

from collections.abc import Sequence

import numpy as np

from sg_jax.data import shapes_detector
from sg_jax.data.shapes_detector import Found
from sg_jax.data.shapes_outlines import SHAPES
from sg_jax.data.shapes_scenes import COLOURS, Thing
from sg_jax.errors import UserError, shown
from sg_jax.evaluation.prompts import Prompt, Wanted

NEAR = 0.1  # of the sum of two widths or heights: a smaller offset does not count
CLEAR = 0.5  # of a distance: a larger offset along one axis is a relation


def check(prompts: Sequence[Prompt]) -> None:
    """Raise unless the shapes detector can tell whether images show these prompts."""
    for prompt in prompts:
        wanted = (*prompt.include, *prompt.exclude)
        unknown = [w.kind for w in wanted if w.kind not in SHAPES]
        unknown += [w.colour for w in wanted if w.colour and w.colour not in COLOURS]
        if unknown or not prompt.include:
            what = shown(unknown[0]) if unknown else "what an image must show"
            raise UserError(
                f"The prompt {shown(prompt.text)} cannot be scored on the shapes, because "
                f"{what} is not {'known' if unknown else 'given'}: shapes are {', '.join(SHAPES)} "
                f"and colours {', '.join(COLOURS)}."
            )


def correct(images: np.ndarray, prompts: Sequence[Prompt]) -> np.ndarray:
    """Return whether each image [B, 32, 32, 3] shows its prompt, bool [B]."""
    scenes = shapes_detector.detect(images)
    return np.array([shows(found, p) for found, p in zip(scenes, prompts, strict=True)], bool)


def shows(found: Sequence[Found], prompt: Prompt) -> bool:
    """Return whether a scene, with the surest things first, has what a prompt asks for."""
    groups: list[list[Thing]] = []
    for wanted in prompt.include:
        things = _of_kind(found, wanted)[: wanted.count]
        if len(things) < wanted.count:
            return False
        if wanted.colour and any(thing.colour != wanted.colour for thing in things):
            return False
        if wanted.place:
            where, number = wanted.place
            others = groups[number]
            if not all(where in relations(a, b) for a in things for b in others):
                return False
        groups.append(things)
    return all(len(_of_kind(found, w)) < w.count for w in prompt.exclude)


def _of_kind(found: Sequence[Found], wanted: Wanted) -> list[Thing]:
    return [one.thing for one in found if one.thing.shape == wanted.kind]


def relations(first: Thing, second: Thing) -> set[str]:
    """Return where the first thing is, seen from the second: up to two relations.

    Along each axis, take the offset of the boxes' centres less a tenth of the boxes' sides.
    Divided by the distance of the centres, it must be above one half.
    """
    one, other = (np.reshape(thing.box, (2, 2)) for thing in (first, second))  # [corner, axis]
    offset = (one - other).mean(axis=0)
    sides = (one[1] - one[0]) + (other[1] - other[0])
    clear = np.sign(offset) * np.maximum(np.abs(offset) - NEAR * sides, 0.0)
    across, down = clear / max(float(np.linalg.norm(offset)), 1e-6)
    found = {
        "left of": across < -CLEAR,
        "right of": across > CLEAR,
        "above": down < -CLEAR,
        "below": down > CLEAR,
    }
    return {where for where, there in found.items() if there}


def shares(right: np.ndarray, prompts: Sequence[Prompt]) -> dict[tuple[str, bool], float]:
    """Return the share of right images, by task and by whether its prompts are held out.

    Args:
      right: whether each image shows its prompt, bool [prompts, images of each].
      prompts: in the order of the rows of `right`.
    """
    return {key: float(right[ids].mean()) for key, ids in groups(prompts).items()}


def groups(prompts: Sequence[Prompt]) -> dict[tuple[str, bool], list[int]]:
    """Return the numbers of each task's prompts, seen and held-out ones apart."""
    found: dict[tuple[str, bool], list[int]] = {}
    for i, prompt in enumerate(prompts):
        found.setdefault((prompt.task, prompt.unseen), []).append(i)
    return found
