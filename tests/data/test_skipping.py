"""Damaged images are named all at once, or left out and counted."""

import pathlib
import pickle

import numpy as np
import PIL
import pytest
from image_files import animals, picture, values, write

from sg_jax.data import containers, identity, skipping
from sg_jax.data.pipeline import train_iterator
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError
from sg_jax.main import main

BAD = {"cat/bad.png": b"hello", "dog/cut.jpg": picture(1, "JPEG", (64, 64))[:300]}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_damaged_images_are_skipped_and_counted(tmp_path, kind, capsys):
    name = write(tmp_path / "animals", animals() | BAD, kind)
    source = open_source(name, "train", image_size=2, damaged="skip")
    said = capsys.readouterr().out
    assert "Skipped 2 of the 22 examples of split 'train'" in said
    assert "cat/bad.png" in said and "dog/cut.jpg" in said
    assert sorted(values(source)) == [*range(10), *range(100, 110)]
    assert values(pickle.loads(pickle.dumps(source))) == values(source)
    assert identity.of(source)["examples"] == 20
    batch = next(train_iterator(source, batch_size=20, seed=0))
    assert sorted(np.rint((batch["image"][:, 0, 0, 0] + 1) * 127.5)) == sorted(values(source))
    assert source.file_of(0) and not hasattr(source, "anything")


def test_a_slice_is_taken_before_anything_is_skipped(tmp_path):
    name = write(tmp_path / "animals", animals() | BAD)
    parts = [
        open_source(name, part, image_size=2, damaged="skip")
        for part in ("train[:50%]", "train[50%:]")
    ]
    assert sorted(values(parts[0]) + values(parts[1])) == [*range(10), *range(100, 110)]


def test_what_was_found_is_kept_for_files_that_have_not_changed(tmp_path, monkeypatch, cache):
    name = write(tmp_path / "animals", animals() | BAD)
    reads = []
    real = skipping.find
    monkeypatch.setattr(skipping, "find", lambda *a, **k: reads.append(1) or real(*a, **k))

    def count(**options):
        return len(open_source(name, "train", damaged="skip", **options))

    assert [count(image_size=2), count(image_size=2)] == [20, 20] and len(reads) == 1
    pathlib.Path(name, "cat", "bad.png").write_bytes(picture(50))
    assert count(image_size=2) == 21 and len(reads) == 2
    assert count(image_size=3) == 21 and len(reads) == 3
    for file in cache.rglob("*.json"):
        file.write_text("[99]")
    assert count(image_size=2) == 21 and len(reads) == 4
    cache.chmod(0o500)
    assert count(image_size=4) == 21


def test_what_the_system_failed_to_read_is_tried_again(tmp_path, monkeypatch, cache):
    name = write(tmp_path / "animals", animals() | BAD)
    real = containers.read_file

    def failing(path):
        if path.endswith("cat/1.png"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(containers, "read_file", failing)
    assert len(open_source(name, "train", image_size=2, damaged="skip")) == 19
    read = []
    monkeypatch.setattr(containers, "read_file", lambda path: read.append(path) or failing(path))
    assert len(open_source(name, "train", image_size=2, damaged="skip", tried=False)) == 19
    assert [pathlib.Path(path).name for path in read] == ["1.png"]  # the others are known
    monkeypatch.setattr(containers, "read_file", real)
    assert len(open_source(name, "train", image_size=2, damaged="skip")) == 20
    assert len(list(cache.rglob("*.json"))) == 1


def test_another_pillow_tries_again(tmp_path, monkeypatch, cache):
    name = write(tmp_path / "animals", animals() | BAD)
    for version in ("1.0", "2.0", "2.0"):
        monkeypatch.setattr(PIL, "__version__", version)
        assert len(open_source(name, "train", image_size=2, damaged="skip")) == 20
    assert len(list(cache.rglob("*.json"))) == 2


def test_nothing_left_is_an_error(tmp_path):
    name = write(tmp_path / "animals", BAD)
    with pytest.raises(UserError, match=r"leaves nothing of split .* all of its 2 examples cannot"):
        open_source(name, "train", image_size=2, damaged="skip")


def test_sources_of_any_kind_can_skip_and_read_all_once(copied, monkeypatch):
    folder, shard = copied
    whole = shard.read_bytes()
    data = bytearray(whole)
    data[len(data) // 3] ^= 255
    shard.write_bytes(data)
    before = open_source("digits", "train", str(folder), tried=False).version()
    reads, real = [], skipping.find
    monkeypatch.setattr(skipping, "find", lambda *a, **k: reads.append(1) or real(*a, **k))
    for _ in range(2):
        source = open_source("digits", "train", str(folder), damaged="skip")
        assert 0 < 1501 - len(source) < 20 and source.image_shape == (8, 8, 1)
        assert len(reads) == 1
    assert all(source[i] for i in range(len(source)))
    shard.write_bytes(whole)
    assert open_source("digits", "train", str(folder)).version() != before


def test_checking_names_every_damaged_image(tmp_path, capsys):
    """Also the first example, which other commands stop at."""
    many = animals() | {f"cat/x{i}.png": b"hello" for i in range(7)}
    name = write(tmp_path / "animals", many)
    command = [
        *("main", "--config", "configs/digits.py", "--mode", "data", "--check", "train"),
        *(f"--config.data.name={name}", "--config.data.image_size=8"),
    ]
    with pytest.raises(UserError, match=r"7 of the 27 examples .* and 2 more\. The first: "):
        main(command)
    said = capsys.readouterr().out
    assert all(f"{name}/cat/x{i}.png cannot be read" in said for i in range(7))
    main([*command, "--config.data.damaged=skip"])
    assert "7 of the 27 examples" in capsys.readouterr().out
    main([*command[:6], "train[:1]", "train[1:2]", *command[7:], "--config.data.damaged=skip"])
    with pytest.raises(UserError, match=r"--check test is not a split of '.*animals'"):
        main([*command[:6], "test", *command[7:]])


def test_images_without_a_caption_are_skipped_where_captions_are_needed(tmp_path, capsys):
    texts = {"cat/1.txt": b"one", "cat/2.txt": b" ", "cat/3.txt": b"\xff"}
    images = {f"cat/{i}.png": picture(i) for i in range(5)}
    for kind in ("folder", "tar"):
        name = write(tmp_path / kind, images | texts, kind)
        name = f"wds:{name}" if kind == "tar" else name
        source = open_source(name, "train", damaged="skip", captioned=True)
        assert values(source) == [1] and source.captions[0] == ("one",)
        said = capsys.readouterr().out
        assert "Skipped 4 of the 5 examples" in said and "have no caption" in said
        assert said.count(".png") == 3 and "cat/1.png" not in said
        assert len(open_source(name, "train", damaged="skip")) == 5
    none = write(tmp_path / "none", images | {"cat/0.txt": b"\n"}, "folder")
    with pytest.raises(UserError, match=r"leaves nothing .* all of its 5 examples have no caption"):
        open_source(none, "train", damaged="skip", captioned=True)
