"""Attribute control is measured by the detector: steady changes are told from none."""

import dataclasses

import numpy as np
import pytest

from sg_jax.data.shapes_scenes import Scene, Thing, draw, held_out
from sg_jax.evaluation import controlled

PAIRS = controlled.pairs(4)


def scene(pair, radius=4.5, shade=0.8, other=4.5):
    first = Thing(*pair.subject, radius, shade, 8.0, 9.0)
    return Scene((first, Thing(*pair.other, other, 0.8, 23.0, 22.0)))


def test_prompts_name_two_things_of_which_none_is_held_out():
    pairs = controlled.pairs(200)
    assert len(pairs) == 200 and pairs[:4] == PAIRS
    first = 0
    for pair in pairs:
        shape, colour = pair.subject
        assert f"{colour} {shape}" in pair.text and " ".join(pair.other[::-1]) in pair.text
        assert len({*pair.subject, *pair.other}) == 4
        first += pair.text.index(shape) < pair.text.index(pair.other[0])
        assert not held_out(dataclasses.replace(scene(pair), things=scene(pair).things[:1]))
    assert first == 100  # the subject is named first as often as second


@pytest.mark.parametrize("attribute, change", [("size", "radius"), ("brightness", "shade")])
def test_drawn_changes_are_found(attribute, change):
    steps = dict(radius=[3.5, 4.0, 4.5, 5.0, 5.5], shade=[0.5, 0.6, 0.7, 0.8, 0.95])[change]
    images = np.stack([[draw(scene(p, **{change: s})) for p in PAIRS] for s in steps])
    found = controlled.measure(images, PAIRS, attribute)
    assert found.rho[0] == 1.0 and abs(found.rho[1]) < 0.2
    assert found.pooled[0] > 0.9 and found.prompts == 4 and found.found == 1
    np.testing.assert_allclose(found.ends[:, 0], [steps[0], steps[-1]], rtol=0.05)
    back = controlled.measure(images[::-1], PAIRS, attribute)
    assert back.rho[0] == -1.0


def test_a_change_of_the_other_thing_counts_as_its_own():
    images = np.stack([[draw(scene(p, other=r)) for p in PAIRS] for r in (3.5, 4.5, 5.5)])
    found = controlled.measure(images, PAIRS, "size")
    assert abs(found.rho[0]) < 0.5 and found.rho[1] == 1.0


def test_what_is_not_found_does_not_count():
    nothing = np.full((5, 4, 32, 32, 3), 230, np.uint8)
    found = controlled.measure(nothing, PAIRS, "size")
    assert found.prompts == 0 and found.found == 0
    text = controlled.markdown([("learned", "cfg", "ω 2", found)], "size", (0, 1))
    assert "| learned | cfg: ω 2 | nan" in text


@pytest.mark.parametrize(
    "x, y, rho",
    [
        ([1, 2, 3, 4], [1, 4, 9, 16], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4], [2, 2, 2, 2], 0.0),
        ([1, 2, 3], [1, 3, 2], 0.5),  # 1 - 6 (0 + 1 + 1) / (3 (9 - 1))
        ([1, 2, 3], [1, 1, 2], np.sqrt(3) / 2),  # ranks 1.5, 1.5 and 3
    ],
)
def test_spearman(x, y, rho):
    assert controlled.spearman(np.array(x), np.array(y)) == pytest.approx(rho)
