"""Arrays of files that anyone may have written."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from sg_jax.runs import arrays

KINDS = (
    np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(12.0).reshape(3, 4)), np.array("ω"),
    np.float64(3.0), np.zeros((0, 5)), np.array([True]), np.zeros(2, ">f4"),
)  # fmt: skip


def npy(array, allow_pickle=False):
    file = io.BytesIO()
    np.save(file, array, allow_pickle)
    return file.getvalue()


def headed(header, data=b""):
    """A .npy file with any header."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize("array", KINDS, ids=str)
def test_what_numpy_writes_reads_back(array):
    found = arrays.from_npy(npy(array))
    assert found.dtype == np.asarray(array).dtype and found.flags.writeable
    np.testing.assert_array_equal(found, array)


def test_named_arrays_read_back():
    file = io.BytesIO()
    np.savez(file, **{"real/mean": np.arange(3), "about": np.array("{}")})
    found = arrays.from_npz(file.getvalue())
    assert list(found) == ["real/mean", "about"] and str(found["about"]) == "{}"
    np.testing.assert_array_equal(found["real/mean"], np.arange(3))


class Opened:
    """Unpickling it opens a file to write, as harmless a deed as any."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_no_pickle_is_read(tmp_path):
    path = str(tmp_path / "executed")
    content = npy(np.array([Opened(path)], object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        arrays.from_npy(content)
    with pytest.raises(ValueError):
        arrays.from_npy(pickle.dumps(Opened(path)))
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    "content",
    [
        headed("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}", b"12345678"),
        headed("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}", b"12345678"),
        headed("{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000,)}"),
        headed("{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}", b"12345678"),
        headed("__import__('os')"),
        npy(np.arange(4))[:-1],
        b"",
        b"not an array",
    ],
)
def test_a_header_promises_no_more_than_the_file_holds(content):
    with pytest.raises(ValueError):
        arrays.from_npy(content)


def test_what_would_unpack_to_more_is_not_read():
    file = io.BytesIO()
    np.savez_compressed(file, x=np.zeros(10**6))
    with pytest.raises(ValueError, match="compressed"):
        arrays.from_npz(file.getvalue())
    # Two names for the same bytes of a file, which is how small ones unpack to anything.
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("x.npy", npy(np.zeros(1000)))
        written.filelist.append(written.filelist[0])
        written.filelist.append(written.filelist[0])
    with pytest.raises(ValueError):
        arrays.from_npz(file.getvalue())


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no such device")
def test_a_link_to_a_device_is_no_file(tmp_path):
    (tmp_path / "endless.npy").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="is not a regular file"):
        arrays.read_bytes(tmp_path / "endless.npy")
    with pytest.raises(FileNotFoundError):
        arrays.read_bytes(tmp_path / "none.npy")
