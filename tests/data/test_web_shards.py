"""Tars of WebDataset: images with their captions, the score that they must have, and mixtures."""

import errno
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from image_files import picture, write

from sg_jax.data import archives, pool, skipping, web_shards
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError


def coyo(first, count, score=lambda i: float(i), size=(4, 4)):
    """Return the files of some images: image i has the value i, and its .txt says so."""
    files = {}
    for i in range(first, first + count):
        files[f"{i:09d}.png"] = picture(i, size=size)
        files[f"{i:09d}.txt"] = f"picture {i}".encode()
        about = {"caption": f"picture {i}", "width": 4, "aesthetic_score_laion_v2": score(i)}
        files[f"{i:09d}.json"] = json.dumps(about).encode()
    return files


@pytest.fixture
def shards(tmp_path):
    """A folder of two tars with the images 0 to 9, and one with the images 100 to 103."""
    for n in range(2):
        write(tmp_path / "coyo" / f"{n:05d}", coyo(5 * n, 5), "tar")
    journey = {
        f"00{n}/{i}.png": picture(i) for n, i in ((0, 100), (0, 101), (1, 102), (1, 103))
    } | {
        f"00{n}/{i}.json": json.dumps({"prompt": f"p{i}", "Task2": {"Caption": f"c{i}"}}).encode()
        for n, i in ((0, 100), (0, 101), (1, 102))
    }
    write(tmp_path / "journey" / "000", journey, "tar")
    return tmp_path


def values(source):
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


def test_tars_are_one_data_set_with_captions(shards):
    source = open_source(f"wds:{shards}/coyo", "train")
    assert values(source) == list(range(10)) and source.image_shape == (4, 4, 3)
    assert [source.captions[i] for i in (0, 7)] == [("picture 0",), ("picture 7",)]
    assert source.file_of(7).endswith("00001.tar") and "000000007.png" in source.place(7)
    assert source.identify(3) == pickle.loads(pickle.dumps(source)).identify(3)
    assert values(open_source(f"wds:{shards}/coyo/00001.tar", "train[20%:]")) == [6, 7, 8, 9]


def test_a_caption_that_is_missing_is_looked_for_once(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    reads, real = [], skipping.find
    monkeypatch.setattr(skipping, "find", lambda *a, **k: reads.append(1) or real(*a, **k))
    for _ in range(2):
        source = open_source(f"wds:{shards}/journey", "train", damaged="skip", captioned=True)
        assert values(source) == [100, 101, 102] and len(reads) == 2  # of images, and of captions


def test_tars_are_looked_at_once_however_many_splits_are_opened(shards, monkeypatch, capsys):
    looked, index = [], archives.index
    monkeypatch.setattr(archives, "index", lambda path, told: looked.append(1) or index(path, told))
    name = f"wds:{shards}/coyo,{shards}/journey@0.5"
    assert len(open_source(name, "train", aesthetics=3)) == 9
    assert len(open_source(name, "train[:4]", aesthetics=3)) == 4 and len(looked) == 3
    write(shards / "coyo" / "00001", coyo(5, 4), "tar")
    assert len(open_source(name, "train", aesthetics=3)) == 8 and len(looked) == 6


@pytest.mark.slow
def test_several_processes_find_what_one_finds(shards, monkeypatch):
    name = f"wds:{shards}/coyo,{shards}/journey@0.5"
    one = open_source(name, "train", aesthetics=3)
    web_shards._taken.cache_clear()
    monkeypatch.setattr(pool, "ALONE", 0.0)
    monkeypatch.setattr(pool, "WORTH", 0.0)
    monkeypatch.setattr(pool, "_cores", lambda: 2)
    several = open_source(name, "train", aesthetics=3)
    assert several.shards is not one.shards
    assert values(several) == values(one) and several.version() == one.version()
    write(shards / "journey" / "001", {"../out.png": picture(1)}, "tar")
    with pytest.raises(UserError, match="leads out of the folder"):
        open_source(name, "train", aesthetics=3)


FEW = 64  # files that a process may open
LIMIT = r"raise the limit of \d+ open files, .*`ulimit -n \d+`"
READ = """
import sys
from sg_jax.data.sources import open_source
source = open_source("wds:" + sys.argv[1], "train", damaged="skip")
print(len(source), sorted(int(source[i]["image"][0, 0, 0]) for i in range(len(source))))
"""


@pytest.mark.slow
def test_there_may_be_more_tars_than_a_process_may_open(tmp_path):
    for n in range(2 * FEW):
        write(tmp_path / "many" / f"{n:05d}", {"a.png": picture(n)}, "tar")
    found = subprocess.run(
        [
            *("sh", "-c", f'ulimit -n {FEW} && exec "$@"', "sh"),
            *(sys.executable, "-c", READ, str(tmp_path / "many")),
        ],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert found.stdout.splitlines()[-1:] == [f"{2 * FEW} {list(range(2 * FEW))}"], found.stderr


@pytest.mark.parametrize("damaged", ["stop", "skip"])
def test_too_many_open_files_are_no_damage(shards, tmp_path, monkeypatch, damaged):
    def full(path, *_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    def opened():
        return open_source(f"wds:{shards}/coyo", "train", image_size=4, damaged=damaged)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with monkeypatch.context() as now:
        now.setattr(archives, "_Opened", full)
        with pytest.raises(UserError, match=LIMIT):
            opened()
        with pytest.raises(UserError, match=LIMIT):
            open_source(f"wds:{shards}/coyo", "train", aesthetics=1.0)
    assert not (tmp_path / "cache").exists()
    source = opened()
    assert len(source) == 10
    with monkeypatch.context() as now:
        now.setattr(archives, "_opened", full)
        with pytest.raises(UserError, match=LIMIT):
            source.captions[0]


def test_journeydb_has_prompts_and_captions(shards):
    source = open_source(f"wds:{shards}/journey", "train")
    assert source.captions[0] == ("p100", "c100") and source.captions[3] == ()


def test_a_mixture_takes_images_as_often_as_it_says(shards):
    mixed = open_source(f"wds:{shards}/coyo@0.5,{shards}/journey@2", "train")
    found = values(mixed)
    assert sorted(found[5:]) == sorted([100, 101, 102, 103] * 2)
    assert len(set(found[:5])) == 5 and found[:5] == sorted(found[:5])
    assert found == values(open_source(f"wds:{shards}/coyo@0.5,{shards}/journey@2", "train"))
    assert mixed.captions[5] == ("p100", "c100")
    assert mixed.version() != open_source(f"wds:{shards}/coyo", "train").version()


def test_images_below_the_score_are_left_out(shards):
    assert values(open_source(f"wds:{shards}/coyo", "train", aesthetics=6.5)) == [7, 8, 9]
    with pytest.raises(UserError, match=r"no images with a score of config\.data\.aesthetics=50"):
        open_source(f"wds:{shards}/coyo", "train", aesthetics=50.0)
    with pytest.raises(UserError, match=r"no \.json of .* has one of aesthetic_score_laion_v2"):
        open_source(f"wds:{shards}/journey", "train", aesthetics=5.0)
    scores = ["4.5", "6.6", "none", None, 7]  # a table may hold numbers as texts
    write(shards / "texts" / "0", coyo(20, 5, lambda i: scores[i - 20]), "tar")
    assert values(open_source(f"wds:{shards}/texts", "train", aesthetics=6.5)) == [21, 24]
    both = open_source(f"wds:{shards}/coyo,{shards}/journey", "train", aesthetics=8.0)
    assert values(both) == [8, 9, 100, 101, 102, 103]  # JourneyDB has no scores
    with pytest.raises(UserError, match=r"aesthetics=5.0 has no effect"):
        open_source("digits", "train", aesthetics=5.0)


def test_images_are_cropped_to_their_middle(tmp_path):
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200
    from PIL import Image

    Image.fromarray(wide).save(tmp_path / "wide.png")
    write(tmp_path / "some" / "0", {"a.png": (tmp_path / "wide.png").read_bytes()}, "tar")
    source = open_source(f"wds:{tmp_path}/some", "train", image_size=4)
    assert (source[0]["image"] == 200).all()


@pytest.mark.parametrize("path", ["../../etc/x.png", "/etc/x.png", "a/../../x.txt"])
def test_a_tar_that_leads_out_of_its_folder_is_refused(tmp_path, path):
    write(tmp_path / "bad" / "0", coyo(0, 2) | {path: picture(1)}, "tar")
    with pytest.raises(UserError, match="leads out of the folder") as error:
        open_source(f"wds:{tmp_path}/bad", "train")
    assert "0.tar" in str(error.value) and path in str(error.value)


def test_bad_input_is_one_error(shards, tmp_path):
    for name, said in (
        ("wds:", "must be a path"),
        (f"wds:{shards}/coyo@0", "above 0"),
        (f"wds:{shards}/coyo@1000", "at most 100"),
        (f"wds:{shards}/none", "neither a .tar nor a folder of them"),
        (f"wds:{shards}", None),
    ):
        if said is None:
            assert len(open_source(name, "train")) == 14  # tars in folders are found too
            continue
        with pytest.raises(UserError, match=said):
            open_source(name, "train")
    broken = coyo(0, 2) | {"000000001.json": b"{"}
    source = open_source("wds:" + write(tmp_path / "broken" / "0", broken, "tar"), "train")
    with pytest.raises(UserError, match=r"captions of .*000000001.png cannot be read"):
        source.captions[1]
    write(tmp_path / "cut" / "0", coyo(0, 2), "tar")
    whole = (tmp_path / "cut" / "0.tar").read_bytes()
    (tmp_path / "cut" / "0.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged or cut short"):
        open_source(f"wds:{tmp_path}/cut", "train")
