"""Files of weights: every format, and files that are damaged, hostile or of another kind."""

import collections
import io
import os
import pathlib
import pickle
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from tensor_files import safetensors

from sg_jax.errors import UserError
from sg_jax.weights import reading
from sg_jax.weights.pickles import LEGACY_START

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
FORMATS = ("torch_zip.pt", "torch_row.pt")  # both written by torch 2.14
MODEST = 10e6  # bytes that reading a small file may take


@pytest.mark.parametrize("name", FORMATS)
def test_files_of_torch_have_the_values_that_torch_reads(name):
    found, wanted = reading.read(GOLDEN / name), np.load(GOLDEN / "torch_values.npz")
    tensors = found["state_dict"]
    assert tensors.keys() == set(wanted.files)
    for key, tensor in tensors.items():
        array = tensor.numpy()
        assert array.shape == tensor.shape == wanted[key].shape
        np.testing.assert_array_equal(array.astype(np.float32), wanted[key])
    types = {key: tensor.dtype.name for key, tensor in tensors.items()}
    assert types["half"] == "float16" and types["bfloat16"] == "bfloat16"
    assert types["double"] == "float64" and types["int"] == "int64" and types["bool"] == "bool"
    assert tensors["transposed"].strides == (1, 6)
    shared = tensors["shared_a"].numpy(), tensors["shared_b"].numpy()
    assert np.shares_memory(*shared) and shared[0][1, 0] == shared[1][0]
    assert (found["epoch"], found["note"], found["size"]) == (7, "é", (2, 3))


def test_safetensors(tmp_path):
    arrays = {
        "a": np.arange(6.0, dtype=np.float32).reshape(2, 3),
        "b": np.arange(3).astype(ml_dtypes.bfloat16),
        "c": np.array(2.5, np.float16),
        "d": np.zeros((0, 4), np.float32),
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors(arrays))
    found = reading.read(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name].numpy(), array)


def test_npz_with_bfloat16_which_has_lost_its_name(tmp_path):
    array = np.arange(3).astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "x.npz", a=array, b=np.ones((2, 2)))
    found = reading.read(tmp_path / "x.npz")
    assert found["a"].dtype == array.dtype
    np.testing.assert_array_equal(found["a"], array)
    np.testing.assert_array_equal(found["b"], np.ones((2, 2)))


class Evil:
    """Writes a file when it is unpickled by pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def archive(content):
    """Return a file of torch.save with another pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("archive/data.pkl", content)
        written.writestr("archive/data/0", bytes(64))
    return file.getvalue()


def row(content):
    """Return a row of pickles of torch.save with another one for the weights."""
    return (
        LEGACY_START
        + pickle.dumps(1001, 2)
        + pickle.dumps({"little_endian": True}, 2)
        + content
        + pickle.dumps([], 2)
    )


def plain(value):
    """Return the operations that put a plain value on the stack of an unpickler."""
    return pickle.dumps(value, 0)[:-1].replace(b"p0\n", b"") if value != () else b")"


def tuple_of(*operations):
    return b"(" + b"".join(operations) + b"t"


def tensor_of(count, offset, shape, strides):
    """Return a pickle of {"w": a tensor} over a storage of `count` numbers."""
    kind = b"ctorch\nFloatStorage\n"
    storage = tuple_of(plain("storage"), kind, plain("0"), plain("cpu"), plain(count)) + b"Q"
    sizes = (tuple_of(*map(plain, each)) for each in (shape, strides))
    arguments = tuple_of(storage, plain(offset), *sizes, b"I00\n", b"}")
    return b"}" + plain("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def test_tensors_by_hand_are_read(tmp_path):
    (tmp_path / "x.pt").write_bytes(archive(tensor_of(16, 1, (3, 5), (5, 1))))
    assert not reading.read(tmp_path / "x.pt")["w"].numpy().any()


@pytest.mark.parametrize("wrap", [archive, row])
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_trainers_store_with_weights_is_passed_over(tmp_path, wrap, protocol):
    # OmegaConf stores types and tables with defaults, a schedule of torch a Counter.
    extra = [int, dict, {1}, 1j, pathlib.PurePosixPath("a"), collections.Counter("a")]
    extra += [collections.defaultdict(list, a=[1]), collections.deque([1]), range(3)]
    (tmp_path / "x.pt").write_bytes(wrap(pickle.dumps({"args": extra, "epoch": 3}, protocol)))
    assert reading.read(tmp_path / "x.pt")["epoch"] == 3


@pytest.mark.parametrize("wrap", [archive, row])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_named_and_not_run(tmp_path, wrap, protocol):
    mark, path = tmp_path / "mark", tmp_path / "x.pt"
    path.write_bytes(wrap(pickle.dumps({"w": Evil(mark)}, protocol)))
    with pytest.raises(UserError, match=r"x\.pt names '(posix|nt)\.system'.*nobody's code is run"):
        reading.read(path)
    assert not mark.exists()


OTHERS = {
    "eval": b"\x80\x02cbuiltins\neval\n(X\x01\x00\x00\x001tR.",
    "through an attribute": b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
    "importlib": b"\x80\x02cimportlib\nimport_module\n(X\x02\x00\x00\x00ostR.",
    "ours": b"\x80\x02csg_jax.weights.pickles\nUnpickler\n.",
    "an instance": b"(ios\nsystem\n.",
    "an extension": b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_else_is_called(tmp_path, name):
    (tmp_path / "x.pt").write_bytes(archive(OTHERS[name]))
    with pytest.raises(UserError, match=r"x\.pt names .*nobody's code is run"):
        reading.read(tmp_path / "x.pt")


def test_a_pickle_cannot_change_what_reads_it(tmp_path):
    # The state of an object would be set as attributes, here of the function for tensors.
    content = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x05\x00\x00\x00storeK\x01sb."
    (tmp_path / "x.pt").write_bytes(archive(content))
    with pytest.raises(UserError, match="a mapping of names to tensors is needed"):
        reading.read(tmp_path / "x.pt")


def copied(name, length=10**4, times=3000):
    """Return a pickle that calls a name with one long list, again and again."""
    pairs = b"]q\x00(" + length * b"K\x01K\x02\x86" + b"e0"
    return b"\x80\x02c" + name + b"\nq\x01" + pairs + b"(" + times * b"h\x01h\x00\x85R" + b"l."


HUGE = {  # and what is found
    "a table of memory": archive(b"\x80\x02K\x01r\xff\xff\xff\x7f."),
    "a text": archive(b"\x80\x04\x8d\xff\xff\xff\xff\xff\x00\x00\x00."),
    "bytes that change": archive(b"\x80\x05\x96\xff\xff\xff\xff\x0f\x00\x00\x00."),
    "a text in a row": row(b"\x80\x04\x8d\xff\xff\xff\xff\x0f\x00\x00\x00."),
    "a frame": row(b"\x80\x04\x95\xff\xff\xff\xff\x0f\x00\x00\x00."),
    "copies of a dictionary": archive(copied(b"collections\nOrderedDict")),
    "copies of a shape": archive(copied(b"torch\nSize")),
    "a storage": archive(tensor_of(2**60, 0, (2**60,), (1,))),
    "a repeated number": archive(tensor_of(16, 0, (2**15, 2**15), (0, 0))),
    "beyond its storage": archive(tensor_of(16, 8, (3, 3), (3, 1))),
    "before its storage": archive(tensor_of(16, -8, (2,), (1,))),
    "backwards": archive(tensor_of(16, 8, (2,), (-1,))),
    "a safetensors header": struct.pack("<Q", 2**62) + b"{" + b" " * 100,
    "a safetensors shape": safetensors(
        {"a": np.ones(2, np.float32)}, lambda d: d["a"].update(shape=[2**40])
    ),
    "safetensors that overlap": safetensors(
        {"a": np.ones(10**6, np.float32)},
        lambda d: d.update({str(i): d["a"] for i in range(100)}),
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_promises_more_than_it_has_is_refused_in_little_memory(tmp_path, name):
    path = tmp_path / "weights"
    path.write_bytes(HUGE[name])
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"weights (cannot be read|holds an? int)"):
            reading.read(path)
        assert tracemalloc.get_traced_memory()[1] < MODEST
    finally:
        tracemalloc.stop()


def content_of(name):
    if name in FORMATS:
        return (GOLDEN / name).read_bytes()
    return safetensors({"a": np.ones((3, 4), np.float32), "b": np.ones(5, np.float16)})


@pytest.mark.parametrize("name", [*FORMATS, "x.safetensors"])
def test_a_file_that_is_cut_short_is_named_wherever_it_ends(tmp_path, name):
    content, path = content_of(name), tmp_path / name
    for length in [*range(0, len(content) - 1, 61), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=rf"{name} cannot be read"):
            reading.read(path)


@pytest.mark.parametrize("name", [*FORMATS, "x.safetensors"])
def test_a_damaged_file_is_one_sentence_or_read(tmp_path, name):
    content, path = content_of(name), tmp_path / name
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 150):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            reading.read(path)
        except UserError as error:
            assert name in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (pickle.dumps({"a": 1}), "a pickle, but not one of torch.save"),
        (b"hello", "it begins with b'hello'"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path, content, words):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.safetensors cannot be read .*{words}.*Give weights"):
        reading.read(path)


def test_modules_programs_and_packed_files_say_what_to_store_instead(tmp_path):
    with pytest.raises(UserError, match=r"names 'torch\.nn\.modules.*state_dict\(\)"):
        reading.read(GOLDEN / "torch_module.pt")
    with pytest.raises(UserError, match=r"names 'a program of TorchScript'"):
        reading.read(GOLDEN / "torch_script.pt")
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(1000))
    with pytest.raises(UserError, match="a compressed file"):
        reading.read(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", a=np.array([Evil(tmp_path / "mark")], object))
    with pytest.raises(UserError, match="an array of Python objects"):
        reading.read(tmp_path / "y.npz")
    for path, words in ((tmp_path, "not a regular file"), (tmp_path / "z.pt", "does not exist")):
        with pytest.raises(UserError, match=words):
            reading.read(path)
