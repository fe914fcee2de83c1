"""Files of latents that anyone may have written: read, or named in one sentence."""

import io
import resource

import ml_dtypes
import numpy as np
import pytest

from sg_jax.data import npy
from sg_jax.data.npy import read_npy
from sg_jax.errors import UserError
from sg_jax.runs import progress

GOOD = np.ones((2, 4, 4), np.float32)


class Trap:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def _npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def _header(shape, descr="<f4", fill=b"\0" * 64):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, dict(shape=shape, fortran_order=False, descr=descr))
    return file.getvalue() + fill


def _npz(array):
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


def _folder(root, feature=None, label=None):
    for kind, good, given in (("features", GOOD, feature), ("labels", np.array([1]), label)):
        folder = root / f"x_{kind}"
        folder.mkdir(parents=True)
        for i in range(3):
            content = given if given is not None and i == 1 else _npy(good)
            (folder / f"{i}.npy").write_bytes(content)
    return str(root)


UNREADABLE = dict(
    empty=b"",
    text=b"hello",
    foreign=b"\x89PNG\r\n\x1a\n" + bytes(100),
    truncated=_npy(GOOD)[:-1],
    half_a_header=_npy(GOOD)[:40],
    longer=_npy(GOOD) + b"x",
    objects=_npy(np.array([Trap()], object), allow_pickle=True),
    pickle=b"\x80\x04}\x94.",
    archive=_npz(GOOD),
    huge=_header((10**6, 10**6, 10**3)),
    overflowing=_header((2**62, 2**62, 4)),
    negative=_header((-1, 4, 4)),
    nested=b"\x93NUMPY\x01\x00\xff\x0f" + b"(" * 0xFFF,
    not_a_header=b"\x93NUMPY\x01\x00\x10\x00" + b"{'descr': '<f4'}",
    other_version=b"\x93NUMPY\x09\x00" + bytes(100),
)
WRONG = dict(
    bfloat16=(_npy(GOOD.astype(ml_dtypes.bfloat16)), "which is how such files hold bfloat16"),
    complex=(_npy(GOOD.astype(np.complex64)), "type complex64: save float32"),
    strings=(_npy(np.full((2, 4, 4), "x")), "type <U1"),
    fields=(_npy(np.zeros((2, 4, 4), [("a", "f4")])), r"type \[\('a'"),
    flat=(_npy(np.ones(32, np.float32)), r"must be \[C, S, S\].*not \(32,\)"),
    scalar=(_npy(np.float32(1)), r"not \(\)"),
    infinite=(_npy(np.where(GOOD > 0, np.inf, 0)), "not finite in float32"),
    nan=(_npy(GOOD * np.nan), "not finite in float32"),
    large=(_npy(GOOD.astype(np.float64) * 1e300), "not finite in float32"),
)


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("kind", ["features", "labels"])
def test_a_damaged_file_is_named_within_its_own_memory(tmp_path, name, kind):
    folder = _folder(tmp_path, **{kind[:-1]: UNREADABLE[name]})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=rf"x_{kind}/1\.npy cannot be read as an array"):
        list(read_npy(folder, 1.0))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/full", "1.npy", ".", "missing"])
def test_a_device_or_a_loop_is_named(tmp_path, target):
    folder = _folder(tmp_path)
    (tmp_path / "x_features" / "1.npy").unlink()
    (tmp_path / "x_features" / "1.npy").symlink_to(target)
    with pytest.raises(UserError, match=r"x_features/1\.npy cannot be read as an array"):
        list(read_npy(folder, 1.0))


@pytest.mark.parametrize("name", WRONG)
def test_an_array_of_another_kind_is_named(tmp_path, name):
    content, message = WRONG[name]
    with pytest.raises(UserError, match=rf"x_features/1\.npy .*{message}"):
        list(read_npy(_folder(tmp_path, feature=content), 1.0))


@pytest.mark.parametrize(
    "label", [[1, 2], 1.5, np.nan, np.inf, "cat", np.complex64(1), np.array([], int)]
)
def test_a_label_is_one_whole_number(tmp_path, label):
    folder = _folder(tmp_path, label=_npy(np.asarray(label)))
    with pytest.raises(UserError, match=r"x_labels/1\.npy must hold one whole number"):
        list(read_npy(folder, 1.0))


@pytest.mark.parametrize("label", [1, np.uint8(1), 1.0, [[1]], True])
def test_a_whole_number_of_any_type_is_a_label(tmp_path, label):
    folder = _folder(tmp_path, label=_npy(np.asarray(label)))
    assert [label for _, label in read_npy(folder, 1.0)] == [1, 1, 1]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_is_a_factor(tmp_path, scale):
    with pytest.raises(UserError, match=r"--scale=.* must be above 0"):
        next(read_npy(_folder(tmp_path), scale))


def test_a_number_is_used_once_and_other_names_are_left(tmp_path):
    folder = _folder(tmp_path)
    (tmp_path / "x_features" / "notes.npy").touch()
    (tmp_path / "x_features" / "².npy").touch()
    assert len(list(read_npy(folder, 1.0))) == 3
    (tmp_path / "x_features" / "01.npy").touch()
    with pytest.raises(UserError, match="have the same number: rename one"):
        next(read_npy(folder, 1.0))


def test_long_reading_shows_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(npy, "AHEAD", 1)
    monkeypatch.setattr(progress, "OFTEN", 0.0)
    assert len(list(read_npy(_folder(tmp_path), 1.0))) == 3
    assert "example 2/3" in capsys.readouterr().out


def test_folders_are_as_in_a_shell(tmp_path, monkeypatch):
    _folder(tmp_path / "lr[3e-3]*")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(list(read_npy("~/lr[3e-3]*", 1.0))) == 3
    with pytest.raises(UserError, match=r"--from .*none cannot be read"):
        next(read_npy("~/none", 1.0))


@pytest.mark.parametrize("channels", [8, 32])
def test_channels_that_may_be_two_halves_are_asked_about(tmp_path, channels):
    folder = _folder(tmp_path, _npy(np.ones((channels, 4, 4), np.float32)))
    with pytest.raises(UserError, match=rf"{channels} channels, which may be.*--posterior none"):
        list(read_npy(folder, 1.0))
    (_, (array, _), _) = read_npy(folder, 1.0, "none", shift=0.5)
    assert array.shape == (4, 4, channels) and (array == 0.5).all()
    with pytest.raises(UserError, match=r"--shift=nan must be finite"):
        next(read_npy(folder, 1.0, "none", shift=float("nan")))
    (_, (array, _), _) = read_npy(folder, 1.0, "std")
    assert array.shape == (2, 4, 4, channels // 2)


def test_an_empty_array_is_named(tmp_path):
    folder = _folder(tmp_path, _npy(np.ones((4, 0, 0), np.float32)))
    with pytest.raises(UserError, match=r"1\.npy must be \[C, S, S\].*not \(4, 0, 0\)"):
        list(read_npy(folder, 1.0))
