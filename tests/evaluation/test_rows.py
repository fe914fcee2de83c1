"""Features in parts and in files: the same blocks however they are divided, and what is refused."""

import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.evaluation import rows
from sg_jax.evaluation.distances import Rows


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)


def test_blocks_do_not_depend_on_the_parts(x, tmp_path):
    np.save(tmp_path / "a.npy", x[:20])
    np.save(tmp_path / "b.npy", x[33:])
    whole, parts = Rows([x]), Rows([tmp_path / "a.npy", x[20:33], str(tmp_path / "b.npy")])
    assert (len(parts), parts.width, parts.dtype) == (50, 3, np.float32)
    for size in (1, 7, 20, 64):
        found = list(parts.blocks(size))
        assert [len(block) for block in found] == [len(block) for block in whole.blocks(size)]
        np.testing.assert_array_equal(np.concatenate(found), x)
    ids = np.array([49, 0, 21, 20, 0])
    np.testing.assert_array_equal(parts.take(ids), x[ids])
    np.testing.assert_allclose(parts.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-14)


def test_types_are_read_as_they_are(x, tmp_path):
    for dtype in (np.float16, np.float32, np.float64, ">f4"):
        np.save(tmp_path / "x.npy", x.astype(dtype))
        found = Rows([tmp_path / "x.npy"])
        np.testing.assert_array_equal(next(found.blocks(50)), x.astype(dtype))
    mixed = Rows([x.astype(np.float16), x.astype(np.float64)])
    assert mixed.dtype == np.float64
    assert all(block.dtype == np.float64 for block in mixed.blocks(30))
    assert Rows([[[1, 2], [3, 4]]]).dtype == np.float64


def test_a_file_is_read_block_by_block(x, tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.tile(x, (20, 1)))
    monkeypatch.setattr(rows, "BLOCK", 10)
    sizes = []
    read = np.frombuffer
    monkeypatch.setattr(np, "frombuffer", lambda b, *a: sizes.append(len(b)) or read(b, *a))
    list(Rows([tmp_path / "x.npy"]).blocks(16))
    assert max(sizes) == 16 * 3 * 4


def test_what_is_no_set_of_features_is_refused(x):
    broken = x.copy()
    broken[2, 1] = np.nan
    with pytest.raises(UserError, match=r"real\[1\] has NaN or infinity in 1 of 50"):
        Rows([x, broken], "real")
    with pytest.raises(UserError, match="NaN or infinity in 1 of 1"):
        Rows([np.array([[1e300]])])
    with pytest.raises(UserError, match=r"real\[1\] has 2 features per sample and real\[0\] has 3"):
        Rows([x, x[:, :2]], "real")
    with pytest.raises(UserError, match=r"features has shape \[50\].*\[N, F\]"):
        Rows([x[:, 0]])
    with pytest.raises(UserError, match=r"shape \[5, 0\]"):
        Rows([np.zeros((5, 0))])
    with pytest.raises(UserError, match="type complex64: give float16"):
        Rows([x.astype(np.complex64)])
    with pytest.raises(UserError, match="has no parts"):
        Rows([])
    with pytest.raises(UserError, match="must be a list of files"):
        Rows("x.npy")
    with pytest.raises(UserError, match="fake has 0 samples; at least 1"):
        Rows.of(x[:0], "fake")


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"0"),
    "no header": lambda path: path.write_bytes(b"text"),
    "missing": lambda path: path.unlink(),
    "objects": lambda path: np.save(path, np.array([{}]), allow_pickle=True),
    "columns first": lambda path: np.save(path, np.asfortranarray(np.ones((4, 3)))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(x, tmp_path, damage):
    path = tmp_path / "real.npy"
    np.save(path, x)
    DAMAGES[damage](path)
    with pytest.raises(UserError, match=r"real\.npy cannot be read .*numpy\.save"):
        Rows([path])
    np.save(path, x[None])
    with pytest.raises(UserError, match=r"real\.npy has shape \[1, 50, 3\]"):
        Rows([path])


def test_a_file_that_shrinks_meanwhile_is_named(x, tmp_path):
    path = tmp_path / "real.npy"
    np.save(path, x)
    found = Rows([path])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"real\.npy cannot be read"):
        list(found.blocks(50))
