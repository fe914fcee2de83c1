import io
import pathlib
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from sg_jax.data.digits import Digits
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError
from sg_jax.runs import files

ROOT = pathlib.Path(__file__).parents[2]


def test_preparing_leaves_no_temporary_files(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    open_source("digits", "test", str(tmp_path / "data"))
    assert not list(temporary.iterdir())
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["digits"]


def test_digits_are_prepared_once(tmp_path):
    source = open_source("digits", "test", str(tmp_path))
    assert (source.name, source.split, len(source)) == ("digits", "test", 296)
    assert (source.image_shape, source.num_classes) == ((8, 8, 1), 10)
    assert source.class_names == tuple("0123456789")
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    open_source("digits", "train", str(tmp_path))
    assert files == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_digits_are_prepared_by_two_processes_at_once(tmp_path):
    script = (
        "import sys, sg_jax.data.digits; from sg_jax.data.sources import open_source;"
        "print('ready', flush=True); sys.stdin.readline();"
        f"print(len(open_source('digits', 'train', {str(tmp_path)!r})))"
    )
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = [sys.executable, "-c", script]
    processes = [subprocess.Popen(run, cwd=ROOT, **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for out, err in [process.communicate() for process in processes]:
        assert out.split()[-1:] == ["1501"], err
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_digits_are_prepared_while_another_process_does(tmp_path, monkeypatch):
    real = Digits._split_generators

    def overtaken(builder, dl_manager):
        monkeypatch.setattr(Digits, "_split_generators", real)
        open_source("digits", "train", str(tmp_path))  # the other one, faster
        return real(builder, dl_manager)

    monkeypatch.setattr(Digits, "_split_generators", overtaken)
    assert len(open_source("digits", "train", str(tmp_path))) == 1501
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


@pytest.mark.slow
def test_digits_whose_preparation_was_killed_are_prepared_anew(tmp_path):
    script = (
        "import os, sys; from sg_jax.data.digits import Digits; from sg_jax.data import sources\n"
        "Digits._generate_examples = lambda builder, test: os._exit(1)\n"
        f"sources.open_source('digits', 'train', {str(tmp_path)!r})"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 1
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".digits.") and left.name.endswith(".partial")
    assert len(open_source("digits", "train", str(tmp_path))) == 1501
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_tfds_data_dir_is_the_default(digits_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(digits_dir))
    assert str(digits_dir) in open_source("digits", "train", "").files[0]


def test_a_slice_is_a_part(digits_dir):
    part, whole = (open_source("digits", s, str(digits_dir)) for s in ("train[5:8]", "train"))
    assert len(part) == 3
    for i in range(3):
        np.testing.assert_array_equal(part[i]["image"], whole[5 + i]["image"])
    with pytest.raises(IndexError):
        part[3]
    with pytest.raises(IndexError):
        part[-1]


def test_a_pickled_source_reads_the_same(digits_dir):
    source = open_source("digits", "test", str(digits_dir))
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[295]["image"], source[295]["image"])


def test_a_folder_given_as_a_name_is_no_misspelt_name(digits_dir, tmp_path, monkeypatch):
    def said(name):
        with pytest.raises(UserError, match=r"config\.data\.name=.* is neither") as error:
            open_source(name, "train", str(tmp_path / "data"))
        assert "Did you mean" not in str(error.value)
        return str(error.value)

    def empty(name):
        with pytest.raises(UserError) as error:
            open_source(name, "train", str(tmp_path / "data"))
        return str(error.value)

    given = f"--config.data.data_dir={digits_dir} --config.data.name=digits."
    for name in (digits_dir, digits_dir / "digits", digits_dir / "digits" / "1.0.0"):
        assert said(str(name)).endswith(given)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "images" / "cat").mkdir(parents=True)
    assert "write ./images" in said("images")
    assert "has no images. Image files are recognised by their endings" in empty("images/cat")
    (tmp_path / "npy" / "x_features").mkdir(parents=True)
    assert f"--mode latents --from {tmp_path}/npy" in said("npy")
    assert "There is no such folder" in said("./nothing")
    (tmp_path / "photo.png").touch()
    assert "That is a file" in said("./photo.png")


@pytest.mark.parametrize(
    "name", ["huggingface:mnist", "kubric:x", "digits/data_dir=/tmp", "digits/..", "d" * 5000]
)
def test_a_name_is_no_code_and_no_argument(digits_dir, name):
    with pytest.raises(UserError, match=r"^config\.data\.name=.{0,420} is neither a data set"):
        open_source(name, "train", str(digits_dir))


def test_an_unknown_name_gets_the_nearest(digits_dir, tmp_path):
    for name, nearest in {"digts": "digits", "cifar-10": "cifar10", "Digit": "digits"}.items():
        with pytest.raises(UserError, match=rf"config\.data\.name='{name}'.*mean '{nearest}'"):
            open_source(name, "train", str(digits_dir))
    with pytest.raises(UserError, match="no such folder"):
        open_source("digts", "train", str(tmp_path / "absent"))


def test_the_key_that_gave_a_split_is_named(digits_dir):
    for split in ("tset", "test[:0]", "test[900:]"):
        with pytest.raises(UserError, match=r"^config\.data\.test_split='te?s"):
            open_source("digits", split, str(digits_dir), key="test_split")


def test_an_unknown_split_gets_the_list(digits_dir):
    with pytest.raises(UserError, match=r"config\.data\.split='trian'.*train \(1501\), test"):
        open_source("digits", "trian", str(digits_dir))
    with pytest.raises(UserError, match="is empty"):
        open_source("digits", "train[:0]", str(digits_dir))
    with pytest.raises(UserError, match="1501 examples"):
        open_source("digits", "train[2000:]", str(digits_dir))


def test_what_cannot_be_prepared_says_how(tmp_path, digits_dir):
    for name, cause in {
        "unreachable": "ConnectionError",
        "broken_code": "OSError: no disk",
    }.items():
        with pytest.raises(UserError) as error:
            open_source(name, "train", str(digits_dir))
        message = str(error.value)
        assert f"config.data.name='{name}'" in message
        assert f"config.data.data_dir={str(digits_dir)!r} (holds: digits)" in message
        assert cause in message
        assert f"tfds.builder('{name}', data_dir='{digits_dir}').download_and_prepare(" in message
        assert "\n" not in message
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="folder that can be written"):
        open_source("digits", "train", str(tmp_path / "file"))


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def forbidden(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(files, "children", forbidden)
    with pytest.raises(UserError, match=r"config\.data\.data_dir=.* cannot be read \(Permission"):
        open_source("digits", "train", str(tmp_path))


def test_a_tfrecord_data_set_says_how_to_convert_it(copied):
    folder, _ = copied
    info = folder / "digits/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"as tfrecord.*tfds convert_format --dataset_version_dir="):
        open_source("digits", "train", str(folder))


def test_an_incomplete_folder_is_named(copied):
    folder, _ = copied
    place = folder / "digits" / "1.0.0"
    (place / "features.json").unlink()
    with pytest.raises(UserError, match=r"1\.0\.0/features\.json is missing: delete"):
        open_source("digits", "train", str(folder))
    (place / "dataset_info.json").unlink()
    with pytest.raises(UserError, match=r"digits/1\.0\.0 exists but is incomplete"):
        open_source("digits", "train", str(folder))


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize(
    "content, words",
    [
        ("{", "is damaged"),
        ("[1]", "is another file"),
        ("[" * 9999, "is damaged"),
        ("", "is damaged"),
    ],
)
@pytest.mark.parametrize("name", ["digits", "digits:1.0.0"])
def test_a_damaged_description_is_named(copied, file, content, words, name):
    folder, _ = copied
    (folder / "digits" / "1.0.0" / file).write_text(content)
    with pytest.raises(UserError, match=f"{re.escape(file)} {words}.*delete its folder"):
        open_source(name, "train", str(folder))


def test_a_description_of_something_else_is_named_by_its_folder(copied):
    folder, _ = copied
    info = folder / "digits" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"1.0.0"', '"1.p.0"'))
    with pytest.raises(UserError, match=r"digits/1\.0\.0 has a data set that cannot be opened"):
        open_source("digits", "train", str(folder))


def test_another_version_may_be_damaged(copied):
    folder, _ = copied
    shutil.copytree(folder / "digits" / "1.0.0", folder / "digits" / "0.9.0")
    (folder / "digits" / "0.9.0" / "features.json").write_text("{")
    assert len(open_source("digits:1.0.0", "train", str(folder))) == 1501


@pytest.mark.parametrize("length", [0, 100_000, -1, None])
def test_a_file_cut_short_is_named_when_opened(copied, length):
    folder, shard = copied
    data = shard.read_bytes()
    shard.unlink()
    if length is not None:
        shard.write_bytes(data[:length])
    with pytest.raises(UserError, match=rf"cannot be read from {shard}"):
        open_source("digits", "train[:3]", str(folder))
    assert len(open_source("digits", "test", str(folder))) == 296


def test_a_damaged_record_is_named_when_read(copied):
    folder, shard = copied
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 255
    shard.write_bytes(data)
    source = open_source("digits", "train", str(folder))
    with pytest.raises(UserError, match=rf"example \d+ of split 'train' .* {shard}.*hash mismatch"):
        list(source)


def test_images_of_varying_size_are_resized_and_cropped(tmp_path):
    _write(Photos, tmp_path)
    with pytest.raises(UserError, match=r"config\.data\.image_size=0 .* 'photos' differ in size"):
        open_source("photos", "train", str(tmp_path))
    source = open_source("photos", "train", str(tmp_path), image_size=4)
    assert (source.image_shape, source.class_names) == ((4, 4, 3), ("cat", "dog"))
    assert [example["label"] for example in source] == [0, 1]
    for example, colour in zip(source, Photos.COLOURS, strict=True):
        np.testing.assert_array_equal(example["image"], np.full((4, 4, 3), colour, np.uint8))


def test_images_of_one_size_are_resized_too(digits_dir):
    stored = open_source("digits", "train", str(digits_dir))[0]["image"]
    halved = open_source("digits", "train", str(digits_dir), image_size=4)
    assert halved.image_shape == halved[0]["image"].shape == (4, 4, 1)
    means = stored.reshape(4, 2, 4, 2, 1).mean((1, 3))
    assert abs(halved[0]["image"] - means).max() < 1  # rounded along x, then along y
    same = open_source("digits", "train", str(digits_dir), image_size=8)
    np.testing.assert_array_equal(same[0]["image"], stored)
    for size in (-1, 4097, 1_000_000):  # the last would take terabytes
        with pytest.raises(UserError, match=rf"config\.data\.image_size={size} must be positive"):
            open_source("digits", "train", str(digits_dir), image_size=size)


def test_data_without_labels_lists_its_features(tmp_path):
    _write(Unlabelled, tmp_path)
    with pytest.raises(UserError, match=r"one class label.*image \(Image\), number \(Scalar\)"):
        open_source("unlabelled", "train", str(tmp_path))
    _write(Imageless, tmp_path)
    with pytest.raises(UserError, match=r"one still image in uint8.*label \(ClassLabel\)"):
        open_source("imageless", "train", str(tmp_path))
    _write(Hidden, tmp_path)
    with pytest.raises(UserError, match=r"label -1 at example 0; labels must be 0 to 1"):
        open_source("hidden", "train", str(tmp_path))


def _write(builder, folder):
    builder(data_dir=folder).download_and_prepare(file_format="array_record")


def _png(size, colour):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format="PNG")
    file.seek(0)
    return file


class _Toy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    FEATURES = {}  # noqa: RUF012
    url_infos = None

    def _info(self):
        features = tfds.features.FeaturesDict(self.FEATURES)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        raise OSError("no disk")


class Photos(_Toy):
    FEATURES = {  # noqa: RUF012
        "image": tfds.features.Image(shape=(None, None, 3)),
        "mask": tfds.features.Image(shape=(None, None, 1)),
        "kind": tfds.features.ClassLabel(names=["cat", "dog"]),
    }
    COLOURS = ((1, 2, 3), (200, 100, 0))

    def _generate_examples(self):
        for i, size in enumerate([(5, 9), (30, 17)]):
            image = _png(size, self.COLOURS[i])
            yield i, {"image": image, "mask": _png((1, 1), 0), "kind": i}


class Unlabelled(_Toy):
    FEATURES = {"image": tfds.features.Image(), "number": tfds.features.Scalar(np.int64)}  # noqa: RUF012

    def _generate_examples(self):
        yield 0, {"image": _png((2, 2), 0), "number": 3}


class Imageless(_Toy):
    FEATURES = {"label": tfds.features.ClassLabel(num_classes=2)}  # noqa: RUF012

    def _generate_examples(self):
        yield 0, {"label": 1}


class Hidden(_Toy):
    FEATURES = {  # noqa: RUF012
        "image": tfds.features.Image(shape=(2, 2, 3)),
        "label": tfds.features.ClassLabel(num_classes=2),
    }

    def _generate_examples(self):
        yield 0, {"image": _png((2, 2), 0), "label": -1}


class BrokenCode(_Toy):
    FEATURES = {"label": tfds.features.ClassLabel(num_classes=2)}  # noqa: RUF012


class Unreachable(_Toy):
    FEATURES = BrokenCode.FEATURES
    url_infos = {"http://127.0.0.1:9/data.tgz": None}  # noqa: RUF012  (nothing listens on port 9)
