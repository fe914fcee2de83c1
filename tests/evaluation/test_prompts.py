"""Prompts, what their images must show, and the files of other scorers."""

import json

import numpy as np
import pytest
from PIL import Image

from sg_jax.data.shapes_detector import Found
from sg_jax.data.shapes_scenes import Draws, Scene, Thing, draw, held_out, random_scene
from sg_jax.errors import UserError
from sg_jax.evaluation import composed, prompts
from sg_jax.evaluation.prompted import Kept
from sg_jax.evaluation.prompts import TASKS, Prompt, Wanted


def found(*things):
    """Return things as the detector does; each is shape, colour, x, y."""
    return [
        Found(Thing(s, c, 4.0, 0.8, x, y), 1 - 0.01 * i) for i, (s, c, x, y) in enumerate(things)
    ]


def prompt(text):
    return next(p for p in prompts.of_shapes() if p.text == text)


def test_every_task_has_seen_prompts_and_all_but_one_held_out_ones():
    every = prompts.of_shapes()
    assert len({p.text for p in every}) == len(every)
    tasks = dict.fromkeys(p.task for p in every)
    assert tuple(tasks) == TASKS
    assert {p.task for p in every if p.unseen} == {*TASKS[1:]}
    few = prompts.of_shapes(3)
    assert len(few) == 3 * (2 * 6 - 1) and {*few} <= {*every}
    composed.check(every)


@pytest.mark.parametrize("text", ["a red star", "a circle left of a square", "two squares"])
def test_prompts_that_are_held_out_are_marked(text):
    assert prompt(text).unseen


@pytest.mark.parametrize("text", ["a red circle", "a square left of a circle", "three squares"])
def test_prompts_that_are_seen_are_not_marked(text):
    assert not prompt(text).unseen


def test_a_scene_that_is_described_by_a_held_out_prompt_is_held_out():
    unseen = [p for p in prompts.of_shapes() if p.unseen]
    for i in range(150):
        scene = random_scene(Draws(i))
        things = [Found(thing, 1.0) for thing in scene.things]
        for p in unseen:
            if composed.shows(things, p) and len(scene.things) == sum(w.count for w in p.include):
                # GenEval's places are wider than those of the scenes, where none is doubtful.
                assert held_out(scene), (p.text, scene)


@pytest.mark.parametrize(
    "text, things, right",
    [
        ("a circle", [("circle", "red", 8, 8)], True),
        ("a circle", [("square", "red", 8, 8)], False),
        ("a circle", [("circle", "red", 8, 8), ("star", "red", 20, 8)], True),
        ("a circle and a star", [("circle", "red", 8, 8), ("star", "red", 20, 8)], True),
        ("a circle and a star", [("circle", "red", 8, 8), ("circle", "red", 20, 8)], False),
        ("two circles", [("circle", "red", 8, 8), ("circle", "blue", 20, 8)], True),
        ("two circles", [("circle", "red", 8, 8)], False),
        ("two circles", [("circle", "red", x, x) for x in (6, 16, 26)], False),
        ("a red circle", [("circle", "red", 8, 8)], True),
        ("a red circle", [("circle", "blue", 8, 8)], False),
        # As in GenEval, the colour of the surest one counts.
        ("a red circle", [("circle", "blue", 8, 8), ("circle", "red", 20, 8)], False),
        ("a circle left of a star", [("circle", "red", 8, 8), ("star", "red", 22, 8)], True),
        ("a circle left of a star", [("circle", "red", 22, 8), ("star", "red", 8, 8)], False),
        ("a circle above a star", [("circle", "red", 8, 8), ("star", "red", 8, 22)], True),
        ("a circle below a star", [("circle", "red", 8, 8), ("star", "red", 8, 22)], False),
        ("a circle right of a star", [("circle", "red", 8, 8)], False),
        (
            "a red circle and a blue star",
            [("circle", "red", 8, 8), ("star", "blue", 20, 8)],
            True,
        ),
        (
            "a red circle and a blue star",
            [("circle", "blue", 8, 8), ("star", "red", 20, 8)],
            False,
        ),
    ],
)
def test_scenes_are_judged_by_genevals_rules(text, things, right):
    assert composed.shows(found(*things), prompt(text)) == right


def test_relations_need_a_clear_offset():
    (a, b, c) = (one.thing for one in found(("circle", "red", 8, 8), ("circle", "red", 16.4, 8.0),
                                            ("circle", "red", 8.5, 8.2)))  # fmt: skip
    assert composed.relations(a, b) == {"left of"} and composed.relations(b, a) == {"right of"}
    # Sides of 8 make offsets below a tenth of 16 none.
    assert composed.relations(a, c) == set()
    # Of (12, 12) a tenth of 16 is taken off: 10.4 / 17 is above a half along both axes.
    d = Thing("circle", "red", 4.0, 0.8, 20.0, 20.0)
    assert composed.relations(a, d) == {"left of", "above"}


def test_images_are_scored_by_task():
    both = [prompt("a red circle"), prompt("a red star")]
    right = draw(Scene((Thing("circle", "red", 5.0, 0.8, 16.0, 16.0),)))
    images = np.stack([right, np.full_like(right, 220), right, right])
    shown = composed.correct(images, [both[0], both[0], both[1], both[1]])
    assert shown.tolist() == [True, False, False, False]
    scores = composed.shares(shown.reshape(2, 2), both)
    assert scores == {("colors", False): 0.5, ("colors", True): 0.0}


def test_metadata_is_genevals_and_is_read_again(tmp_path):
    every = prompts.of_shapes(2)
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("\n".join(p.metadata for p in every) + "\n\n")
    again = prompts.read(path)
    assert [(p.text, p.task, p.include, p.exclude) for p in again] == [
        (p.text, p.task, p.include, p.exclude) for p in every
    ]
    line = json.loads(prompt("a circle left of a star").metadata)
    assert line == {
        "tag": "position",
        "include": [
            {"class": "star", "count": 1},
            {"class": "circle", "count": 1, "position": ["left of", 0]},
        ],
        "prompt": "a circle left of a star",
    }
    assert json.loads(prompt("two circles").metadata)["exclude"] == [
        {"class": "circle", "count": 3}
    ]


def test_a_text_file_has_a_prompt_in_each_line(tmp_path):
    (tmp_path / "prompts.txt").write_text("ein Kreis\n\n  円  \n")
    assert [p.text for p in prompts.read(tmp_path / "prompts.txt")] == ["ein Kreis", "円"]


@pytest.mark.parametrize(
    "line, why",
    [
        ("[1, 2]", "is not a prompt"),
        ('{"tag": "counting"}', "'prompt'"),
        ('{"prompt": 3}', "prompt is 3"),
        ('{"prompt": "x", "include": [{"class": "dog", "count": 0}]}', "count is 0"),
        ('{"prompt": "x", "include": [{"class": "dog", "position": ["left of", 0]}]}', "earlier"),
        ('{"prompt": "x", "include": [{"class": "dog", "position": ["near", 0]}]}', "position is"),
        ("{", "JSONDecodeError"),
        ('{"prompt": "a \\ud83d"}', "surrogates"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, why):
    path = tmp_path / "some.jsonl"
    path.write_text(f'{{"prompt": "a dog", "include": [{{"class": "dog"}}]}}\n{line}\n')
    with pytest.raises(UserError, match="line 2 is not a prompt") as error:
        prompts.read(path)
    assert why in str(error.value)


@pytest.mark.parametrize("content", [None, b"\n \n", b"\xff\xfe"])
def test_a_file_without_prompts_is_refused(tmp_path, content):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.compose\.prompts="):
        prompts.read(path)


@pytest.mark.parametrize(
    "wrong, what",
    [
        (Prompt("a dog", include=(Wanted("dog"),)), "'dog'"),
        (Prompt("a pink star", include=(Wanted("star", colour="pink"),)), "'pink'"),
        (Prompt("anything"), "what an image must show"),
    ],
)
def test_what_the_detector_does_not_know_is_refused(wrong, what):
    with pytest.raises(UserError, match="cannot be scored on the shapes") as error:
        composed.check([wrong])
    assert what in str(error.value)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)


def test_images_are_kept_as_geneval_reads_them(tmp_path, images):
    two = [prompt("two circles"), prompt("a red star")]
    kept = Kept(tmp_path, "geneval", two, 2)
    kept.add(images[:3], 0)
    kept.add(images[3:], 3)
    kept.finish()
    assert json.loads((tmp_path / "00001/metadata.jsonl").read_text())["prompt"] == "a red star"
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")) == [
        "00000/samples/0000.png", "00000/samples/0001.png",
        "00001/samples/0000.png", "00001/samples/0001.png",
    ]  # fmt: skip
    np.testing.assert_array_equal(Image.open(tmp_path / "00001/samples/0000.png"), images[2])


def test_images_are_kept_as_hpsv3_reads_them(tmp_path, images):
    two = [Prompt("ein Kreis\tund 円"), prompt("a red star")]
    kept = Kept(tmp_path, "hpsv3", two, 2)
    kept.add(images, 0)
    kept.finish()
    for png in tmp_path.glob("*.png"):  # each has its prompt beside it
        assert png.with_suffix(".txt").read_text() == two[int(png.name[:5])].text
    rows = json.loads((tmp_path / "prompts.json").read_text())
    assert rows[2] == {"image": "00001_0000.png", "prompt": "a red star"}
    np.testing.assert_array_equal(Image.open(tmp_path / rows[2]["image"]), images[2])
