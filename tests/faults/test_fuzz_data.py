"""Data that anyone may have written: it is read, or refused by a UserError, quickly and in little.

Image files and archives of them, .npy files, and the shards and descriptions of a prepared data
set, as random bytes and as good ones with a few changes. Each takes less than a second (on a busy
machine, ten), and all together less than 500 MB. `-m slow` runs thirty times as many.
"""

import io
import json
import pathlib
import resource
import shutil
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sg_jax.data import npy
from sg_jax.data.images import FORMATS, MOST_PIXELS, decode
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError

SECOND, MEGABYTES = 1000, 500  # ms for one example; growth of memory over all of them
MANY = pytest.param(30, marks=pytest.mark.slow, id="many")
FEW = 300
times = pytest.mark.parametrize("times", [pytest.param(1, id="few"), MANY])


def fuzz(count, check, *strategies):
    """Call `check` with `count` random values of the strategies."""
    # The first call may import a package, and this machine may do other work meanwhile.
    options = settings(
        max_examples=count,
        deadline=10 * SECOND,
        derandomize=count < FEW,  # the default tests are the same every time
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options(given(*strategies)(check))()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEGABYTES, f"{grown:.0f} MB"


def changed(good):
    """Return a strategy of good bytes with a few changes: cut, overwritten, repeated, inserted."""
    place = st.floats(0, 1)
    some = st.binary(min_size=1, max_size=8)
    ones = st.sampled_from([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4, b"\x80"])
    change = st.tuples(st.sampled_from(["cut", "write", "insert", "repeat"]), place, some | ones)

    def apply(content, changes):
        for kind, share, piece in changes:
            at = int(share * len(content))
            rest = {
                "cut": b"",
                "write": piece + content[at + len(piece) :],
                "insert": piece + content[at:],
                "repeat": content[max(0, at - 20) :],
            }[kind]
            content = content[:at] + rest
        return content

    return st.builds(apply, st.sampled_from(good), st.lists(change, min_size=1, max_size=4))


def _images():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    found = []
    for kind in FORMATS:
        for mode in ("RGB", "L", "P", "1", "RGBA", "CMYK", "I;16"):
            file = io.BytesIO()
            try:
                image = Image.fromarray(pixels)
                if mode == "I;16":
                    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
                else:
                    image = image.convert(mode)
                image.save(file, format=kind)
            except (OSError, ValueError):  # this format has no such images
                continue
            found.append(file.getvalue())
    return found


@times
def test_image_files(times):
    def check(encoded, channels, size):
        try:
            pixels = decode(encoded, channels, size)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
            return
        assert pixels.dtype == np.uint8 and pixels.size <= 4 * MOST_PIXELS
        assert pixels.shape == (size or pixels.shape[0], size or pixels.shape[1], channels)

    sizes = st.sampled_from([None, 1, 8, 256])
    fuzz(150 * times, check, changed(_images()), st.integers(1, 4), sizes)
    fuzz(50 * times, check, st.binary(max_size=200), st.integers(1, 4), sizes)


@times
def test_sizes_that_an_image_says_it_has(times):
    def check(width, height, zeros):
        header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
        body = zlib.compress(bytes(zeros))
        encoded = b"\x89PNG\r\n\x1a\n"
        for kind, part in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b"")):
            encoded += len(part).to_bytes(4, "big") + kind + part
            encoded += zlib.crc32(kind + part).to_bytes(4, "big")
        try:
            decode(encoded, 3, 64)
        except UserError:
            return
        assert width * height <= MOST_PIXELS

    side = st.integers(0, 300) | st.integers(0, 2**31 - 1)
    fuzz(40 * times, check, side, side, st.integers(0, 100_000))


def _archives(root):
    """Return a .zip and a .tar of three images, as bytes."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 8, 7)).save(picture, format="PNG")
    paths = [root / "photos" / name for name in ("a/1.png", "a/2.png", "b/1.png")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.getvalue())
    made = {
        kind: shutil.make_archive(root / kind, kind, root / "photos") for kind in ("zip", "tar")
    }
    return {kind: pathlib.Path(path).read_bytes() for kind, path in made.items()}


@times
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_of_images(times, kind, tmp_path):
    good = _archives(tmp_path)[kind]
    path = tmp_path / f"fuzzed.{kind}"

    def check(content):
        path.unlink(missing_ok=True)  # a new file, which no index is kept of
        path.write_bytes(content)
        try:
            source = open_source(str(path), "train", image_size=4, tried=False)
            for i in range(len(source)):
                assert source[i]["image"].shape == (4, 4, 3)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)

    fuzz(60 * times, check, changed([good]) | changed([good[:700]]) | st.binary(max_size=600))


def _arrays():
    found = []
    for array in (
        np.ones((4, 2, 2), np.float16),
        np.ones((1, 4, 2, 2), np.float32),
        np.asfortranarray(np.ones((2, 3, 3))),
        np.array([[{}]], object),
        np.zeros(3, [("a", "f4"), ("b", "i2")]),
        np.array("text"),
        np.array(3),
    ):
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False) if array.dtype != object else None
        found.append(
            file.getvalue() or b"\x93NUMPY\x01\x00v\x00{'descr': '|O'}" + b"\x80\x04]\x94."
        )
    return found


@times
def test_latents_in_npy_files(times, tmp_path):
    for kind in ("features", "labels"):
        (tmp_path / f"x_{kind}").mkdir()

    def check(feature, label, posterior):
        (tmp_path / "x_features" / "0.npy").write_bytes(feature)
        (tmp_path / "x_labels" / "0.npy").write_bytes(label)
        try:
            ((array, number),) = npy.read_npy(str(tmp_path), 1.0, posterior)
        except UserError as error:
            assert "\n" not in str(error) and "npy" in str(error)
            return
        assert array.dtype == np.float32 and np.isfinite(array).all() and type(number) is int

    good = _arrays()
    parts = st.sampled_from(good) | changed(good) | st.binary(max_size=100)
    fuzz(150 * times, check, parts, parts, st.sampled_from([None, "std", "logvar"]))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The digits in a folder of this file's own."""
    root = tmp_path_factory.mktemp("fuzz")
    open_source("digits", "train", str(root))
    return root


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


def _places(value, path=()):
    """Yield the paths of all values in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*path, key))


def _with(value, path, new):
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = _with(value[path[0]], path[1:], new)
    return copied


@times
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_descriptions_of_a_data_set(times, prepared, tmp_path, name):
    root = tmp_path / "data"
    shutil.copytree(prepared, root)
    path = root / "digits" / "1.0.0" / name
    good = path.read_bytes()
    parsed = json.loads(good)
    huge = st.sampled_from(["-1", "0", "3", "4097", str(10**9), str(10**30), "../x", "a.B"])
    values = st.builds(
        lambda where, new: json.dumps(_with(parsed, where, new)).encode(),
        st.sampled_from(list(_places(parsed))),
        json_values | huge,
    )

    def check(content):
        path.write_bytes(content)
        try:
            source = open_source("digits", "train", str(root))
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 2500
            return
        assert len(source) == 1501 and source.num_classes <= 1_000_000

    fuzz(60 * times, check, changed([good]) | values)


@times
def test_shards_of_a_data_set(times, prepared, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(prepared, root)
    (path,) = pathlib.Path(root).glob("digits/1.0.0/*test*")
    good = path.read_bytes()
    whole = list(open_source("digits", "test[:20]", str(root)))

    def check(content):
        path.write_bytes(content)
        try:
            found = list(open_source("digits", "test[:20]", str(root)))
        except UserError as error:
            assert str(path) in str(error)
            return
        for example, expected in zip(found, whole, strict=True):
            np.testing.assert_array_equal(example["image"], expected["image"])
            assert example["label"] == expected["label"]

    fuzz(30 * times, check, changed([good]) | changed([good[:9000]]))


@times
def test_names_and_splits_of_data(times, prepared):
    def check(name, split, size):
        try:
            source = open_source(name, split, str(prepared), size)
        except UserError as error:
            assert len(str(error)) < 2500
            return
        assert source.name == name and len(source)

    names = st.sampled_from(["digits", "digits:1.0.0", "~", "/", "..", "digits/", "a/b", "\0", "*"])
    splits = st.sampled_from(
        ["train", "test[:3]", "train[5%:6%]", "all", "train+test", "test[3", ""]
    )
    word = st.text(max_size=12)
    sizes = st.sampled_from([None, 0, 4, 8, 64, 4097, -1, 10**9])
    fuzz(40 * times, check, names | word, splits | word, sizes)
