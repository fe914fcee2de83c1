"""Texts as bytes, and the checks of conditions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sg_jax.config import geometry, parsing
from sg_jax.errors import UserError
from sg_jax.models.encoding import encode_bytes
from sg_jax.models.kinds import argument, reads
from sg_jax.models.text import Text


def text(length=4, features=0):
    """A conditioning's shapes."""
    numbers = jnp.dtype("float32")
    return jax.eval_shape(lambda: Text(length, features, 8, 2, 1, numbers, nnx.Rngs(0)))


def test_bytes_of_a_text():
    found, cut = encode_bytes(["ab", "", "a\n"], 3)
    np.testing.assert_array_equal(found["text"], [[98, 99, 0], [0, 0, 0], [98, 11, 0]])
    assert found["length"].tolist() == [2, 0, 2] and cut == 0
    assert {x.dtype for x in found.values()} == {np.dtype("int32")}


@pytest.mark.parametrize(
    "prompt, length, kept",
    [
        ("abcd", 3, "abc"),
        ("aü", 2, "a"),  # ü has two bytes
        ("🙂🙂", 7, "🙂"),
        ("日本語", 9, "日本語"),
        ("\ud800x", 4, "?x"),
        ("x" * 10_000, 5, "xxxxx"),
    ],
)
def test_texts_are_cut_between_characters(prompt, length, kept):
    found, cut = encode_bytes([prompt], length)
    size = int(found["length"][0])
    assert bytes((found["text"][0, :size] - 1).tolist()).decode() == kept
    assert not found["text"][0, size:].any()
    assert cut == (len(prompt.encode(errors="replace")) > length)


def test_null_is_zeros():
    condition = text().check(["ab", "cd"])
    null = text().null(condition)
    assert not any(np.any(x) for x in null.values())
    assert {k: v.shape for k, v in null.items()} == {k: v.shape for k, v in condition.items()}


def test_another_text_cannot_be_drawn():
    assert text().count is None
    with pytest.raises(UserError, match="texts cannot be counted"):
        text().another(text().check(["a"]), None)


FEATURES = np.ones((2, 4, 3), np.float32)


def with_nan():
    found = FEATURES.copy()
    found[1, 0, 0] = np.nan
    return found


@pytest.mark.parametrize(
    "features, given, named",
    [
        (0, "a red circle", ["put it into []"]),
        (0, 3, ["prompts=3 must be a list of texts"]),
        (0, None, ["prompts=None must be a list of texts"]),
        (0, ["a", 3], ["prompts[1]=3 must be a text"]),
        (3, ["a"], ["features of a frozen encoder", "text, 4 tokens of 3 features"]),
        (0, {"text": np.zeros((2, 4), int)}, ["'text'", "'length'"]),
        (0, {"text": np.zeros((2, 5), int), "length": [1, 1]}, ["[2, 5]", "[B, 4]"]),
        (0, {"text": np.full((2, 4), 257), "length": [1, 1]}, ["[0, 256]"]),
        (0, {"text": np.zeros((2, 4)), "length": [1, 1]}, ["float64", "ints in [0, 256]"]),
        (3, {"text": np.ones((2, 4, 3), int), "length": [1, 1]}, ["int64", "floats"]),
        (3, {"text": FEATURES[:, :, :2], "length": [1, 1]}, ["[2, 4, 2]", "[B, 4, 3]"]),
        (3, {"text": with_nan(), "length": [1, 1]}, ["['text'][1]", "NaN"]),
        (3, {"text": FEATURES, "length": [1]}, ["one int for each of the 2 texts"]),
        (3, {"text": FEATURES, "length": [1, 5]}, ["['length'][1]=5", "[0, 4]"]),
    ],
)
def test_what_is_no_condition_is_named(features, given, named):
    with pytest.raises(UserError) as error:
        text(features=features).check(given)
    for part in named:
        assert part in str(error.value)


def test_features_are_taken_as_they_are():
    found = text(features=3).check({"text": FEATURES, "length": [4, 0]})
    assert found["text"] is FEATURES and found["length"].dtype == np.int32


def test_the_size_of_the_published_network_fills_its_parts():
    config = parsing.merge(dict(model=dict(kind="text_dit", size="T2I-2B/2", image_size=64)))
    model = geometry.fill_geometry(config, channels=16).model
    assert (model.depth, model.width, model.heads, model.patch) == (34, 2048, 16, 2)
    assert (model.norm, model.mlp, model.positions) == ("rms", "swiglu", "rotary")
    assert (model.bias, model.modulation_rank, model.routes) == (False, 256, ((2, 30),))


def test_what_the_size_says_cannot_differ():
    config = parsing.merge(dict(model=dict(kind="text_dit", size="T2I-2B/2", depth=30)))
    with pytest.raises(UserError, match=r"depth 34, but config\.model\.depth=30"):
        geometry.fill_geometry(config, channels=16)


def test_a_kind_reads_what_it_has(tiny):
    assert "num_classes" not in reads("text_dit") and "text_length" not in reads("dit")
    assert "qk_norm" in reads("dit") and "qk_norm" not in reads("maskdit")
    assert "norm" not in reads("ssm")
    assert [argument(tiny, n) for n in ("norm", "bias", "width", "num_classes", "state")] == [
        "layer", True, 32, 5, None
    ]  # fmt: skip


def test_a_kind_refuses_what_it_does_not_read():
    for kind, key in (("maskdit", "qk_norm"), ("ssm", "bias"), ("dit", "text_features")):
        value = {"qk_norm": True, "bias": False, "text_features": 3}[key]
        with pytest.raises(UserError, match=rf"config\.model\.{key}.*kind='{kind}'"):
            geometry.complete(parsing.merge(dict(model={"kind": kind, key: value})), (8, 8, 1), 10)
