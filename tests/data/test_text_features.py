"""Features of captions in a record, and what made them."""

import json

import numpy as np
import pytest

from sg_jax.data import text_features
from sg_jax.encoders.text import Described
from sg_jax.errors import UserError

MADE = Described("a/b", "0123", 3, "", False, 2)
TEXT = np.arange(12, dtype=np.float32).reshape(2, 3, 2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_padding_is_not_stored_and_each_caption_comes_back(dtype):
    record = text_features.packed(TEXT, np.array([1, 3]), dtype)
    assert record["text_features"].shape == (4, 2)
    first, second = text_features.unpacked(record, MADE)
    np.testing.assert_array_equal(first, TEXT[0, :1])
    np.testing.assert_array_equal(second, TEXT[1])
    assert first.dtype == {"float16": np.float16, "bfloat16": np.float32}[dtype]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_what_is_not_finite_is_neither_stored_nor_read(value):
    odd = TEXT.copy()
    odd[1, 0, 0] = value
    with pytest.raises(UserError, match="not finite in float16"):
        text_features.packed(odd, np.array([1, 3]), "float16")
    record = {"text_features": odd[1], "text_lengths": [3]}
    if np.isfinite(value):
        text_features.unpacked(record, MADE)
        return
    with pytest.raises(UserError, match="not finite"):
        text_features.unpacked(record, MADE)


@pytest.mark.parametrize("lengths", [[2], [4], [1, 1], [3, 0], [-1, 4]])
def test_lengths_that_do_not_fit_are_damage(lengths):
    with pytest.raises(UserError, match="do not fit lengths"):
        text_features.unpacked({"text_features": TEXT[0], "text_lengths": lengths}, MADE)


def test_what_made_them_lies_beside_them(tmp_path):
    features = text_features.declared(MADE, "float16")
    assert text_features.read(tmp_path, {}) is None
    with pytest.raises(UserError, match=r"text\.json cannot be read"):
        text_features.read(tmp_path, features)
    text_features.write(tmp_path, MADE)
    assert text_features.read(tmp_path, features) == MADE
    whole = json.loads((tmp_path / "text.json").read_text())
    for change in (dict(features=3), dict(length="3"), dict(length=0), dict(more=1)):
        (tmp_path / "text.json").write_text(json.dumps({**whole, **change}))
        with pytest.raises(UserError, match=r"text\.json cannot be read.*copy it again"):
            text_features.read(tmp_path, features)
