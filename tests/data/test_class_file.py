"""Names of classes from a file: their order, and what is wrong with one."""

import pytest

from sg_jax.data.class_file import ordered_classes
from sg_jax.errors import SettingError

FOLDERS = ["n01", "n02", "night owl"]


def _read(tmp_path, text, name="classes.txt", folders=FOLDERS):
    path = tmp_path / name
    path.write_text(text)
    return ordered_classes(str(path), folders, "photos")


def test_without_a_file_folders_are_names():
    assert ordered_classes("", FOLDERS, "photos") == (FOLDERS, tuple(FOLDERS))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "n02 tench, Tinca tinca\nn01\tgold fish\n\nnight owl\n"),
        ("a.txt", "\ufeffn02,tench, Tinca tinca\r\nn01,gold fish\r\nnight owl,\r\n"),
        ("a.json", '["n02 tench, Tinca tinca", "n01 gold fish", "night owl"]'),
        ("a.json", '{"n02": "tench, Tinca tinca", "n01": "gold fish", "night owl": ""}'),
        (
            "a.json",
            '{"1": ["n01", "gold fish"], "0": ["n02", "tench, Tinca tinca"], "2": ["night owl"]}',
        ),
    ],
)
def test_lines_give_the_order_and_the_names(tmp_path, name, text):
    order, names = _read(tmp_path, text, name)
    assert order == ["n02", "n01", "night owl"]
    assert names == ("tench, Tinca tinca", "gold fish", "night owl")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "gold fish\ntench\nowl"),
        ("a.json", '["gold fish", "tench", "owl"]'),
        ("a.json", '{"0": "gold fish", "1": "tench", "2": "owl"}'),
    ],
)
def test_names_alone_are_in_the_order_of_the_folders(tmp_path, name, text):
    assert _read(tmp_path, text, name) == (FOLDERS, ("gold fish", "tench", "owl"))


def test_a_class_may_have_no_images(tmp_path):
    order, names = _read(tmp_path, "n00 none\nn01 one\nn02\nnight owl\n")
    assert order.index("n01") == 1 and names[0] == "none"


def test_accents_of_folders_may_be_written_apart(tmp_path):
    folders = ["cat", "ka\u0308se"]
    assert _read(tmp_path, "k\u00e4se Cheese\ncat", folders=folders) == (
        folders[::-1],
        ("Cheese", "cat"),
    )
    both = ["ka\u0308se", "k\u00e4se"]  # on Linux these may be two folders
    assert _read(tmp_path, "one\ntwo", folders=both) == (both, ("one", "two"))


def test_a_file_in_the_folder_of_the_images_is_found(tmp_path):
    (tmp_path / "classes.txt").write_text("n02 b\nn01 a\n")
    _, names = ordered_classes("classes.txt", FOLDERS[:2], str(tmp_path))
    assert names == ("b", "a")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "", "names no classes"),
        ("a.txt", "n01\nn2\n", r"has 2 classes, but none for the folder 'n02', .* mean 'n2'"),
        ("a.txt", "n01\nn01 a\nn02\nnight owl", "lists 'n01' twice"),
        ("a.json", "{", "cannot be read"),
        ("a.json", "3", "names no classes"),
        ("a.json", "[3]", "has 3 where a class should be"),
        ("a.json", '{"a": ["b", "c", "d"]}', "where a class should be"),
    ],
)
def test_a_wrong_file_is_named_with_the_remedy(tmp_path, name, text, words):
    with pytest.raises(SettingError, match=rf"config\.data\.classes='.*{name}' .*{words}"):
        _read(tmp_path, text, name)


def test_a_missing_or_foreign_file_is_named(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none", tmp_path, tmp_path / "x"):
        with pytest.raises(SettingError, match="cannot be read"):
            ordered_classes(str(path), FOLDERS, "photos")
