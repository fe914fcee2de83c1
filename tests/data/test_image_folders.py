"""Folders and archives of image files as data sets: what is found, named, left out and refused."""

import dataclasses
import io
import os
import pathlib
import pickle
import threading

import numpy as np
import pytest
from image_files import KINDS, animals, picture, values, write
from PIL import Image

from sg_jax.data import containers, identity, pictures
from sg_jax.data.pipeline import seek, train_iterator
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError


@pytest.mark.parametrize("kind", KINDS)
def test_folders_are_classes_and_files_are_examples(tmp_path, kind):
    name = write(tmp_path / "animals", animals(), kind)
    source = open_source(name, "train", image_size=2)
    assert (len(source), source.num_classes, source.image_shape) == (20, 2, (2, 2, 3))
    assert source.class_names == ("cat", "dog") and source.name == name
    assert sorted(values(source)) == [*range(10), *range(100, 110)]
    place = source.file_of(values(source).index(103))
    assert place == (f"{name}/dog/3.png" if kind == "folder" else f"{name}: dog/3.png")
    with pytest.raises(IndexError):
        source[20]
    with pytest.raises(IndexError):
        source[-1]


def test_the_same_images_are_the_same_data_wherever_they_lie(tmp_path):
    names = [write(tmp_path / kind / "a", animals(), kind) for kind in KINDS]
    names += [
        write(tmp_path / "inside", {f"x/y/{path}": c for path, c in animals().items()}),
        write(tmp_path / "dotted", {f"./{path}": c for path, c in animals().items()}, "tar"),
        write(tmp_path / "split", {f"train/{path}": c for path, c in animals().items()}),
    ]
    found = [identity.of(open_source(name, "train", image_size=2)) for name in names]
    assert all(each == found[0] for each in found)


def test_slices_have_their_share_of_each_class_and_no_example_twice(tmp_path):
    name = write(tmp_path / "animals", animals(20))
    first, last = (open_source(name, part) for part in ("train[:90%]", "train[90%:]"))
    assert (len(first), len(last)) == (36, 4)
    assert sum(value < 100 for value in values(last)) == 2
    whole = values(open_source(name, "train"))
    assert values(first) + values(last) == whole and len(set(whole)) == 40
    assert values(open_source(name, "train[-3:]")) == whole[-3:]
    assert values(open_source(name, "train[2:4]+train[:1]")) == [*whole[2:4], whole[0]]
    for split, words in (
        ("train[:0]", "is empty. There are: train (40)"),
        ("test", "Unknown split 'test'.* There are: train (40), and slices such as"),
        ("trian", "Did you mean 'train'"),
        ("train[3", "Error parsing"),
        ("train[99:]", "incompatible with 40 examples"),
    ):
        with pytest.raises(UserError, match=words.replace("(", r"\(").replace(")", r"\)")):
            open_source(name, split)


def test_folders_with_names_of_splits_are_splits(tmp_path):
    contents = {
        f"{split}/{path}": c for split in ("train", "val") for path, c in animals(3).items()
    }
    contents |= {"val/ape/1.png": picture(1), "cover.png": picture(9), "train/loose.png": b"x"}
    name = write(tmp_path / "both", contents)
    train, val = (open_source(name, split) for split in ("train", "val"))
    assert (len(train), len(val), len(open_source(name, "train+val[:1]"))) == (6, 7, 7)
    assert train.class_names == val.class_names == ("ape", "cat", "dog")  # over all splits
    with pytest.raises(UserError, match=r"There are: train \(6\), val \(7\)"):
        open_source(name, "test")
    flat = {"train/a/1.png": picture(1), "test/1.png": picture(2)}  # as in competitions
    name = write(tmp_path / "flat", flat)
    assert len(open_source(name, "train")) == 1
    with pytest.raises(UserError, match=r"split='test' has no folders of classes in '.*flat'"):
        open_source(name, "test")


def test_folders_of_splits_beside_others_are_a_question(tmp_path):
    contents = {f"{top}/{i}.png": picture(i) for top in ("train", "val", "more") for i in range(2)}
    name = write(tmp_path / "mixed", contents)
    with pytest.raises(UserError, match=r"splits \(train, val\) beside others \(more\): move"):
        open_source(name, "train")
    vehicles = {f"{top}/1.png": picture(1) for top in ("bus", "car", "train")}
    source = open_source(write(tmp_path / "vehicles", vehicles), "train")
    assert source.class_names == ("bus", "car", "train")


@pytest.mark.parametrize("inside", ["", "train/", "some/where/"])
def test_images_without_folders_are_one_class(tmp_path, inside):
    name = write(tmp_path / "all", {f"{inside}{i}.png": picture(i) for i in range(3)})
    source = open_source(name, "train")
    assert (len(source), source.num_classes) == (3, 1)
    assert {source[i]["label"] for i in range(3)} == {0}


def test_what_is_no_image_is_left_out_and_counted(tmp_path, capsys):
    others = ["Thumbs.db", "cat/notes.txt", "a.zip", ".DS_Store", "cat/._1.png", "__MACOSX/1.png"]
    contents = animals(2) | dict.fromkeys(others, b"x") | {"readme.png": picture(1)}
    for kind in KINDS:
        source = open_source(write(tmp_path / kind, contents, kind), "train")
        assert len(source) == 4 and source.class_names == ("cat", "dog")
        said = capsys.readouterr().out
        assert "train 4; 2 classes; left out: " in said and "hidden files: 3 (" in said
        assert (
            "other files: 3 (" in said
            and "images beside the folders of classes or splits: 1" in said
        )


def test_links_that_lead_out_of_a_folder_are_not_followed(tmp_path, capsys):
    outside = tmp_path / "outside"
    write(outside, {"1.png": picture(200)})
    name = write(tmp_path / "animals", animals(2))
    root = pathlib.Path(name)
    (root / "cat" / "out.png").symlink_to(outside / "1.png")
    (root / "cat" / "broken.png").symlink_to(root / "nothing.png")
    (root / "cow").symlink_to(outside)
    (root / "dog" / "round").symlink_to(root)
    (root / "cat" / "again.png").symlink_to(root / "cat" / "1.png")
    source = open_source(name, "train")
    assert sorted(values(source)) == [0, 1, 1, 100, 101]
    assert "links to folders or elsewhere, not followed: 4 (" in capsys.readouterr().out
    alias = tmp_path / "alias"  # the folder itself may be a link
    alias.symlink_to(root)
    assert len(open_source(str(alias), "train")) == 5
    only = tmp_path / "only"
    only.mkdir()
    (only / "1.png").symlink_to(outside / "1.png")
    with pytest.raises(UserError, match=r"has no images .links .*: 1 .* replace links with copies"):
        open_source(str(only), "train")


def test_a_pipe_among_the_images_is_not_waited_for(tmp_path):
    name = write(tmp_path / "animals", animals(2))
    os.mkfifo(pathlib.Path(name) / "cat" / "pipe.png")
    assert len(open_source(name, "train")) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_image_is_named_by_its_own_path(tmp_path, kind):
    contents = animals(3) | {"dog/bad.jpg": picture(1, "JPEG", (64, 64))[:400]}
    name = write(tmp_path / "animals", contents, kind)
    source = open_source(name, "train", image_size=2)
    place = "/dog/bad.jpg" if kind == "folder" else ": dog/bad.jpg"
    with pytest.raises(UserError) as error:
        [source[i] for i in range(7)]
    message = str(error.value)
    assert f"{name}{place} cannot be read (The image in these 400 bytes cannot be" in message
    assert "leave out damaged examples with config.data.damaged='skip', with which a run" in message
    with pytest.raises(UserError, match=r"bad\.jpg cannot be read"):
        batches = train_iterator(source, batch_size=7, seed=0)
        next(batches)


def test_a_folder_of_damaged_images_alone_says_what_is_wrong_with_the_first(tmp_path):
    name = write(tmp_path / "pointers", {"a/0.png": b"version https://git-lfs.github.com/spec/v1"})
    for size in (None, 8):
        with pytest.raises(UserError, match=r"0\.png cannot be read .These 42 bytes are not an im"):
            open_source(name, "train", image_size=size)


def test_a_file_that_goes_is_named(tmp_path):
    name = write(tmp_path / "animals", animals(2))
    source = open_source(name, "train")
    (pathlib.Path(name) / "cat" / "0.png").unlink()
    with pytest.raises(UserError, match=r"cat/0\.png cannot be read \(FileNotFoundError"):
        [source[i] for i in range(4)]


def test_sizes_that_differ_need_an_image_size(tmp_path):
    contents = {"a/1.png": picture(1, size=(4, 4)), "a/2.png": picture(1, size=(6, 5))}
    name = write(tmp_path / "sizes", contents)
    with pytest.raises(UserError, match=r"image_size=0 uses images as .* has 5x6.*: set it"):
        open_source(name, "train")
    assert open_source(name, "train", image_size=3)[1]["image"].shape == (3, 3, 3)


def test_a_size_that_differs_later_is_named_when_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("sg_jax.data.encoded.LOOKED_AT", 1)
    contents = {f"a/{i}.png": picture(1, size=(4, 4 + i // 3)) for i in range(4)}
    source = open_source(write(tmp_path / "sizes", contents), "train")
    with pytest.raises(UserError, match=r"/a/\d\.png has an image of shape .*\.image_s"):
        [source[i] for i in range(4)]


def test_grey_colour_and_background_are_chosen(tmp_path):
    file = io.BytesIO()
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(file, format="PNG")
    name = write(tmp_path / "clear", {"1.png": file.getvalue()})
    assert (open_source(name, "train")[0]["image"] == 255).all()
    red = open_source(name, "train", background="#f00")[0]["image"]
    assert red[0, 0].tolist() == [255, 0, 0]
    grey = open_source(name, "train", channels=1, background="black")
    assert grey.image_shape == (2, 2, 1) and (grey[0]["image"] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_other_processes_read_the_same(tmp_path, kind):
    source = open_source(write(tmp_path / "animals", animals(), kind), "train")
    expected = values(source)
    assert values(pickle.loads(pickle.dumps(source))) == expected
    fresh = pickle.loads(pickle.dumps(source))  # whose archive is not open yet
    found = [None] * 8

    def read(k):
        found[k] = values(fresh)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == [expected] * 8


def test_an_epoch_has_each_image_once_and_resumes_exactly(tmp_path):
    source = open_source(write(tmp_path / "animals", animals(), "zip"), "train")
    batches = train_iterator(source, batch_size=5, seed=3, flip=True)
    seen = [next(batches) for _ in range(8)]
    first = np.concatenate([batch["image"][:, 0, 0, 0] for batch in seen[:4]])
    assert sorted(np.rint((first + 1) * 127.5)) == sorted(values(source))
    again = train_iterator(source, batch_size=5, seed=3, flip=True)
    seek(again, 6)
    np.testing.assert_array_equal(next(again)["image"], seen[6]["image"])
    halves = [
        train_iterator(source, batch_size=10, seed=3, process_index=i, process_count=2)
        for i in range(2)
    ]
    one = train_iterator(source, batch_size=10, seed=3)
    joined = np.concatenate([next(half)["condition"] for half in halves])
    np.testing.assert_array_equal(joined, next(one)["condition"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_reader_processes_give_the_same_batches(tmp_path, kind):
    source = open_source(write(tmp_path / "animals", animals(), kind), "train")
    expected = train_iterator(source, batch_size=5, seed=3)
    found = train_iterator(source, batch_size=5, seed=3, workers=2)
    for _ in range(6):
        np.testing.assert_array_equal(next(found)["image"], next(expected)["image"])
    found.close()


def test_what_is_no_folder_of_images_says_what_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "snaps", animals(1))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.heic").write_bytes(b"x")
    for end in ("tar", "parquet"):
        (tmp_path / end / "data").mkdir(parents=True)
        (tmp_path / end / "data" / f"0.{end}").write_bytes(b"x")
    for name, words in {
        "./snap": "There is no such folder or archive: .* Did you mean 'snaps'?",
        "snps.zip": "There is no such folder or archive",
        "./snaps/cat/0.png": "That is a file: give a folder, .zip or .tar",
        "./tar": "has no images .*: 1 .data/0.tar..: give one of its .tar files, or wds:./tar if",
        "./parquet/": "has no images .*: give hf:./parquet/ if it is a data set of H",
        "./text": "has no images .other files: 1 .a.heic... Image files are recognised",
        "~nobody-here/x": "begins with a user that this machine does not have",
        "gs://bucket/photos": "is in a bucket: mount it|needs a package",
        "snaps": "There is a folder of that name: .* write ./snaps",
    }.items():
        with pytest.raises(UserError, match=words):
            open_source(name, "train", str(tmp_path / "data"))
    monkeypatch.setattr(containers, "MOST_OTHERS", 30)
    for i in range(40):
        (tmp_path / "text" / f"{i}.txt").touch()
    with pytest.raises(UserError, match="has more than 30 other files, and only 0 images"):
        open_source("./text", "train")


def test_folders_of_many_classes_are_no_other_files(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MOST_OTHERS", 30)
    name = write(tmp_path / "many", {f"class{n}/0.png": picture(n) for n in range(40)})
    assert open_source(name, "train").num_classes == 40


def test_a_folder_that_may_not_be_read_is_named_too(tmp_path, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied", path)

    name = write(tmp_path / "animals", animals(1))
    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(UserError, match=rf"{name}/? cannot be read \(Permission.* let this user"):
        containers.scan(pathlib.Path(name))


def test_a_folder_is_listed_again_only_after_a_change(tmp_path, monkeypatch):
    name, listed, scandir = write(tmp_path / "animals", animals()), [], os.scandir
    table = tmp_path / "animals" / "captions.jsonl"
    table.write_text('{"file_name": "cat/0.png", "caption": "one"}\n')
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))

    for path in (tmp_path / "animals", *(tmp_path / "animals").iterdir()):
        os.utime(path, (1e9, 1e9))  # not just now
    assert len(open_source(name, "train[:4]")) == 4 and len(open_source(name, "train")) == 20
    assert len(listed) == 3  # the folder, and its two
    containers._version.cache_clear()
    assert len({open_source(name, "train").version() for _ in range(2)}) == 1
    assert containers._version.cache_info().hits == 1
    lines = (f'{{"file_name": "cat/{i}.png", "caption": "{i}"}}\n' for i in range(9))
    table.write_text("".join(lines))
    source = open_source(name, "train")
    assert {source.captions[i] for i in range(20)} == {(), *((str(i),) for i in range(9))}
    assert len(listed) == 3
    (tmp_path / "animals" / "cat" / "new.png").write_bytes(picture(11))
    assert len(open_source(name, "train")) == 21 and len(listed) == 6


def test_names_of_any_bytes_are_read_and_shown(tmp_path):
    root = os.fsencode(tmp_path / "odd")
    os.makedirs(root + b"/caf\xe9")
    with open(root + b"/caf\xe9/\xff.png", "wb") as file:
        file.write(b"x")
    source = open_source(str(tmp_path / "odd"), "train", image_size=2, tried=False)
    assert source.class_names == ("caf\N{REPLACEMENT CHARACTER}",)
    with pytest.raises(UserError) as error:
        source[0]
    assert str(error.value).encode() and "/\N{REPLACEMENT CHARACTER}.png" in str(error.value)


def test_names_of_data_sets_of_tfds_stay_theirs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("cifar10", "cifar10:3.0.2", "imagenet_resized/64x64", "", "a b", "x" * 5000):
        assert not pictures.claims(name)
    (tmp_path / "mine" / "config" / "1.0.0").mkdir(parents=True)
    assert pictures.claims("mine/config")
    (tmp_path / "mine" / "config" / "1.0.0" / "features.json").touch()
    assert not pictures.claims("mine/config")
    for name in ("/x", "./x", "~/x", "x.ZIP", "x.tar", "x.tar.gz", "gs://b/x"):
        assert pictures.claims(name)


def test_options_that_a_kind_does_not_take_are_refused(digits_dir):
    with pytest.raises(UserError, match=r"config\.data\.classes='x' has no effect on .*'digits'"):
        open_source("digits", "train", str(digits_dir), classes="x")
    colours = open_source("digits", "train[:2]", str(digits_dir), channels=3)
    grey = open_source("digits", "train[:2]", str(digits_dir))
    assert colours.image_shape == (8, 8, 3)
    np.testing.assert_array_equal(colours[1]["image"][..., :1], grey[1]["image"])


def test_a_source_is_small_to_look_at(tmp_path):
    source = open_source(write(tmp_path / "animals", animals(1)), "train")
    assert len(repr(source)) < 500
    assert dataclasses.replace(source, name="x").name == "x"


@pytest.mark.slow
def test_a_folder_of_very_many_files_is_listed_quickly(tmp_path):
    import time

    for folder in range(20):
        (tmp_path / f"class{folder}").mkdir()
        for i in range(5000):
            (tmp_path / f"class{folder}" / f"{i}.png").touch()
    (tmp_path / "class0" / "0.png").write_bytes(picture(1))
    began = time.process_time()
    source = open_source(str(tmp_path), "train", image_size=2, tried=False)
    assert len(source) == 100_000 and time.process_time() - began < 3
