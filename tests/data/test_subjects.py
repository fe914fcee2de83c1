"""Where prompts name their subjects, contrastive prompts, and the file of a direction."""

import numpy as np
import pytest

from sg_jax.data import contrasts, directions, subjects
from sg_jax.data.directions import Direction
from sg_jax.errors import UserError


@pytest.mark.parametrize(
    "text, subject, place",
    [
        ("a circle left of a square", "circle", 2),
        ("Circles and a CIRCLE.", "circle", 14),
        ("a circle and a circle", "circle#2", 15),
        ("a circle", "circle#1", 2),
        ("a red  circle", "red circle", 2),
        ("ein großer Kreis", "kreis", 11),
        ("円 and circle", "円", 0),
        ("一只猫坐在红色的car旁边", "猫", 2),
        ("一只猫坐在红色的car旁边", "car", 8),
        ("แมวสีดำ", "สีดำ", 3),
    ],
)
def test_a_subject_is_found_as_a_whole_word(text, subject, place):
    found = subjects.find(text, subject)
    assert found.first == place
    words = subject.partition("#")[0]
    assert found.subject.lower().split() == words.split()


@pytest.mark.parametrize(
    "text, subject, named",
    [
        ("a square", "circle", ["prompt='a square'", "'circle'"]),
        ("two circles", "circle", ["'circle'"]),
        ("a circle and a circle", "circle", ["2 times", "'circle#1'"]),
        ("a circle and a circle", "circle#3", ["2 times", "'circle#3'"]),
        ("a circle", "circle#0", ["once", "'circle#0'"]),
        ("a circle", " ", ["' '"]),
    ],
)
def test_a_subject_that_is_not_clear_is_named(text, subject, named):
    with pytest.raises(UserError) as error:
        subjects.find(text, subject)
    for part in named:
        assert part in str(error.value)


@pytest.mark.parametrize("text", ["a circle", "a {circle} and a {star}", "a {}", "a {circle", "}{"])
def test_one_subject_is_marked(text):
    assert subjects.marked("a large {circle} here").subject == "circle"
    with pytest.raises(UserError, match="one subject in braces"):
        subjects.marked(text)


def test_contrasts_come_from_a_file_or_from_templates(tmp_path):
    (tmp_path / "pairs.txt").write_text(
        "a {circle} | a large {circle} | a small {circle}\n\na {star}|a large {star}|a small {star}"
    )
    found = contrasts.read(tmp_path / "pairs.txt")
    names = ("a {}",), ("a large {}",), ("a small {}",)
    assert found == contrasts.of_templates(*names, ("circle", "star"))
    assert [c.positive.text for c in found] == ["a large circle", "a large star"]
    assert contrasts.of_texts([c.texts for c in found]) == found


@pytest.mark.parametrize(
    "content, named",
    [
        ("a {circle} | a large {circle}", "line 1.*neutral | positive | negative"),
        ("\na {circle} | a large circle | a small {circle}", "line 2.*braces"),
        ("a {circle} | a {circle} | a {circle}", "line 1.*the same"),
        ("\n \n", "no prompts"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, content, named):
    (tmp_path / "pairs.txt").write_text(content)
    with pytest.raises(UserError, match=named):
        contrasts.read(tmp_path / "pairs.txt")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.txt"):
        contrasts.read(tmp_path / "nothing.txt")


@pytest.fixture
def direction():
    values = np.arange(3, dtype=np.float32)
    triples = (("a {circle}", "a large {circle}", "a small {circle}"),)
    return Direction(values, "size", "0123", "", "learned", triples)


def test_a_direction_comes_back_from_its_file(direction, tmp_path):
    found = directions.load(direction.save(tmp_path / "size.npz"))
    np.testing.assert_array_equal(found.values, direction.values)
    for name in ("attribute", "network", "encoder", "method", "prompts", "unit"):
        assert getattr(found, name) == getattr(direction, name)


def test_a_damaged_file_is_named(direction, tmp_path):
    path = direction.save(tmp_path / "size.npz")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"size.npz.*damaged"):
        directions.load(path)
    np.savez(tmp_path / "other.npz", text=np.zeros(3))
    with pytest.raises(UserError, match=r"other.npz.*has no .*direction"):
        directions.load(tmp_path / "other.npz")
    for wrong, why in ((tmp_path / "none.npz", "cannot be read"), (3, "must be a direction")):
        with pytest.raises(UserError, match=why):
            directions.load(wrong)
