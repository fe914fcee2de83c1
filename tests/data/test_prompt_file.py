"""Files of prompts: odd characters, line ends and marks; and files of features."""

import numpy as np
import pytest

from sg_jax.data import prompt_file
from sg_jax.errors import UserError


@pytest.fixture
def read(tmp_path):
    """Bytes of a file -> its prompts."""

    def run(content, name="prompts.txt"):
        (tmp_path / name).write_bytes(content)
        return prompt_file.read(str(tmp_path / name))

    return run


@pytest.mark.parametrize(
    "content",
    [
        "a dog\nein ω\n".encode(),
        "a dog\nein ω".encode(),
        "a dog\r\nein ω\r\n".encode(),
        "a dog\rein ω".encode(),
        "\ufeff a dog \nein ω".encode(),
        "\ufeffa dog\nein ω".encode("utf-16-le"),
        "\ufeffa dog\r\nein ω".encode("utf-16-be"),
    ],
)
def test_line_ends_and_marks(read, content, capsys):
    found = read(content)
    assert found.texts == ["a dog", "ein ω"] and found.lines == [1, 2]
    assert found.features is None and capsys.readouterr().out == ""


def test_empty_lines_are_left_out_with_a_sentence(read, capsys):
    found = read(b"a\n\n \t \nb\n\n")
    assert found.texts == ["a", "b"] and found.lines == [1, 4]
    assert "3 empty lines are left out, the first of which is line 2." in capsys.readouterr().out


def test_other_scripts_long_lines_and_odd_characters_stay(read):
    lines = ["字" * 10_000, "مرحبا", "🙂 \u200d x", "a\u2028b\x0bc\x00d", "x" * 10_000]
    assert read("\n".join(lines).encode()).texts == lines


def test_ten_thousand_prompts(read):
    found = read("\n".join(f"number {i}" for i in range(10_000)).encode())
    assert len(found.texts) == 10_000 and found.texts[-1] == "number 9999"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no prompt"),
        (b"\n \n", "has no prompt"),
        (b"good\nb\xffd\n", "is not in UTF-8, at line 2"),
        (b"\xff\xfea\0\n\0\x00\xd8b\0", "is not in UTF-16, at line 2"),
        (b"\x89PNG\r\n\x1a\n\x00\xfe", "is not in UTF-8"),
    ],
)
def test_what_is_no_file_of_prompts(read, content, said):
    with pytest.raises(UserError, match=f"--prompts='.*prompts.txt' {said}"):
        read(content)


def test_objects(read):
    """Such as those that `sample` writes next to its images, and GenEval's."""
    lines = b'{"file_name": "0.png", "prompt": "a dog"}\n\n{"tag": "x", "caption": ["ein \\u03c9"]}'
    found = read(lines, "prompts.jsonl")
    assert found.texts == ["a dog", "ein ω"] and found.lines == [1, 3]
    for wrong in (b"a dog", b"[]", b"1", b'{"text": 1}', b'{"prompt": ""}', b'{"prompt": null}'):
        with pytest.raises(UserError, match=r"JSONL', line 2 is not a prompt .*must be like \{"):
            read(b'{"prompt": "a"}\n' + wrong, "prompts.JSONL")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="does not exist: give a file with one prompt per line"):
        prompt_file.read(str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match="is a folder"):
        prompt_file.read(str(tmp_path))
    with pytest.raises(UserError, match=r"cannot be read|does not exist"):
        prompt_file.read("a\0b")


def test_features(tmp_path):
    path = str(tmp_path / "features.npz")
    text, length = np.ones((2, 3, 4), np.float32), np.array([1, 3])
    np.savez(path, text=text, length=length, prompts=["a", "b"], fingerprint="01")
    found = prompt_file.read(path)
    assert found.texts == ["a", "b"] and found.fingerprint == "01"
    np.testing.assert_array_equal(found.features["text"], text)
    np.savez(path, text=text, length=length)
    assert prompt_file.read(path).texts == ["", ""] and prompt_file.read(path).fingerprint == ""
    for wrong in (
        dict(text=text), dict(text=text, length=length[:1]), dict(text=text, length=np.int32(2)),
        dict(text=text, length=length, prompts=["a"]), dict(text=text[:0], length=length[:0]),
    ):  # fmt: skip
        np.savez(path, **wrong)
        with pytest.raises(UserError, match="cannot be read as features"):
            prompt_file.read(path)
