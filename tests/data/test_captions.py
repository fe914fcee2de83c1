"""Captions: found beside images or in a column, and named when they are wrong."""

import json
import pickle

import image_files
import numpy as np
import pytest

from sg_jax.data import captions
from sg_jax.data.skipping import Without
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError

IMAGES = {f"{name}.png": image_files.picture(value) for value, name in enumerate("abcd")}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def found(source):
    """Return the captions of each image of `IMAGES`, whose value tells its letter."""
    values = [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]
    return {"abcd"[value]: source.captions[i] for i, value in enumerate(values)}


@pytest.mark.parametrize("kind", image_files.KINDS)
def test_a_text_beside_each_image(tmp_path, kind, capsys):
    texts = {"a.txt": b"a cat\n\n two cats \n", "b.txt": "ein Hündchen".encode()}
    name = image_files.write(tmp_path / "x", {**IMAGES, **texts, "notes.txt": b"!"}, kind)
    source = open_source(name, "train")
    wanted = {"a": ("a cat", "two cats"), "b": ("ein Hündchen",), "c": (), "d": ()}
    assert found(source) == found(pickle.loads(pickle.dumps(source))) == wanted
    assert "captions of 2; left out: other files: 1 (notes.txt)" in capsys.readouterr().out
    part = Without(source, np.array([2, 0]))
    assert [part.captions[i] for i in (0, 1)] == [source.captions[i] for i in (2, 0)]


@pytest.mark.parametrize("kind", image_files.KINDS)
@pytest.mark.parametrize("table", captions.TABLES)
def test_a_table_of_captions_goes_before_texts(tmp_path, kind, table):
    rows = lines(
        {"file_name": "a.png", "caption": "one"},
        {"file": "./b.png", "captions": ["two", "", "three"]},
        {"image": "gone.png", "text": "of no image"},
        {"file_name": "d.png", "label": 3},
    )
    contents = {f"in/{path}": data for path, data in {**IMAGES, table: rows, "c.txt": b"4"}.items()}
    source = open_source(image_files.write(tmp_path / "x", contents, kind), "train")
    assert found(source) == {"a": ("one",), "b": ("two", "three"), "c": (), "d": ()}


def test_a_table_about_something_else_is_no_captions(tmp_path):
    table = {"metadata.jsonl": lines({"file_name": "a.png", "size": 3})}
    assert open_source(image_files.write(tmp_path, {**IMAGES, **table}), "train").captions is None
    assert open_source(image_files.write(tmp_path / "y", IMAGES), "train").captions is None


@pytest.mark.parametrize(
    "table, words",
    [
        (
            b'{"file_name": "a.png"',
            r"captions\.jsonl cannot be read \(line 1: JSONDecodeError: Expecting",
        ),
        (b"\n[1]", "line 2: it is not an object"),
        (b'{"caption": "x"}', "line 1: it has no 'file_name'"),
        (
            b'{"file_name": "a.png", "caption": "\\ud83d"}',
            "line 1: a caption has half a character",
        ),
        (b'{"file_name": "a.png", "caption": 3}', "its captions are 3, which is neither text"),
        (b'{"file_name": "a.png", "caption": [3]}', "a caption is 3, which is not text"),
        (b'{"file_name": "a.png", "caption": "%s"}' % (b"x" * 100_001), "100,001 characters"),
        (b'{"file_name": "q/a.png", "caption": "x"}', "for none of the images, such as 'a.png'"),
        (b"\xff\xfe", "line 1: "),
        (b"[" * 100_000, "line 1: "),
    ],
)
def test_what_is_no_table_of_captions(tmp_path, table, words):
    name = image_files.write(tmp_path, {**IMAGES, "captions.jsonl": table})
    with pytest.raises(UserError, match=words):
        open_source(name, "train")


def test_several_lines_about_an_image_are_its_captions(tmp_path):
    rows = [("a.png", "x"), ("a.png", ["y", "x"]), ("./a.png", "z")]
    table = lines(*({"file_name": n, "caption": c} for n, c in rows))
    name = image_files.write(tmp_path, {**IMAGES, "captions.jsonl": table})
    assert found(open_source(name, "train"))["a"] == ("x", "y", "z")


def test_letters_and_their_accents_may_be_written_together_or_apart(tmp_path):
    apart, together = "e\u0301.png", "\u00e9.png"
    for name, other in ((apart, together), (together, apart)):
        table = lines({"file_name": other, "caption": "x"})
        files = {name: image_files.picture(1), "b.png": image_files.picture(2)}
        path = image_files.write(tmp_path / name, {**files, "captions.jsonl": table})
        source = open_source(path, "train")
        assert sorted(source.captions[i] for i in range(2)) == [(), ("x",)]


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path):
    name = image_files.write(tmp_path, {**IMAGES, "a.txt": b"\xef\xbb\xbfa dog\na cat\n"})
    assert found(open_source(name, "train"))["a"] == ("a dog", "a cat")


def test_a_text_that_cannot_be_read_is_named(tmp_path):
    name = image_files.write(tmp_path, {**IMAGES, "a.txt": b"\xff\xfe"})
    source = open_source(name, "train")
    with pytest.raises(UserError, match=r"captions in a\.txt cannot be read .* not in UTF-8"):
        found(source)


@pytest.mark.parametrize(
    "value, wanted",
    [
        (None, ()), ("", ()), (b"x", ("x",)), (["a", b"b"], ("a", "b")),
        (np.array(["a"], object), ("a",)), ({"id": [1, 2], "text": [b"a", b"b"]}, ("a", "b")),
        ([{"id": 1, "text": "a"}], ("a",)),
    ],
)  # fmt: skip
def test_texts_of_columns(value, wanted):
    assert captions.texts(value) == wanted


def test_a_column_of_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    images = [Image.new("RGB", (4, 4), (i,) * 3) for i in range(4)]
    table = datasets.Dataset.from_dict(
        {"image": images, "captions": [["a"], [], ["c", "d"], None], "label": [0, 1, 0, 1]}
    )
    table.save_to_disk(tmp_path / "saved")
    source = open_source(f"hf:{tmp_path}/saved", "train[1:]")
    source = pickle.loads(pickle.dumps(source))
    assert [source.captions[i] for i in range(3)] == [(), ("c", "d"), ()]
