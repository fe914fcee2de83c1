"""What published files differ in: half precision, labels without "no class", diffusers, REPA."""

import ast
import pathlib
import re
import zlib

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import random_weights

from sg_jax.errors import UserError
from sg_jax.method import prediction
from sg_jax.models.dit import DiT
from sg_jax.models.layers import position_table
from sg_jax.weights.convert import from_state_dict, to_state_dict

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
SMALL = dict(image_size=8, channels=3, num_classes=5, patch=2, width=32, depth=2, heads=4)


def make(**sizes):
    """A network with random weights."""
    return random_weights.network(lambda rngs: DiT(**{**SMALL, **sizes}, rngs=rngs))


@pytest.fixture(scope="module")
def sit():
    return to_state_dict(make(), "sit")


@pytest.fixture(scope="module")
def diffusers():
    """The golden of diffusers' DiT, and its weights, which follow from their names."""
    golden = dict(np.load(GOLDEN / "diffusers_dit_tiny.npz"))
    weights = {}
    for entry in golden["state_dict_keys"].tolist():
        key, shape = entry.split(" ", 1)
        shape = ast.literal_eval(shape)
        name = re.sub(r"\.\d+\.norm1\.emb", ".0.norm1.emb", key)
        n = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        one = 1 + 0.1 * n if key.endswith("weight") else 0.1 * n
        weights[key] = np.float32(one if len(shape) == 1 else n / np.sqrt(np.prod(shape[1:])))
    return golden, weights


def test_the_outputs_are_those_of_diffusers(diffusers, forward):
    golden, weights = diffusers
    network = from_state_dict(weights, "diffusers_dit", image_size=16, heads=int(golden["heads"]))
    out = forward(network, golden["x"], golden["t"].astype(np.float32), golden["y"])
    np.testing.assert_allclose(out, golden["output"][..., :4], rtol=0, atol=2e-4)
    stored = to_state_dict(network, "diffusers_dit")
    assert stored.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(stored[name], array)


def test_a_stored_table_tells_the_size(diffusers):
    table = {"pos_embed.pos_embed": position_table(8, 8, 64)[None]}
    assert from_state_dict(diffusers[1] | table, "diffusers_dit").image_size == 16


def changed(weights, name):
    return weights | {name: weights[name] + 1e-3}


@pytest.mark.parametrize(
    ("change", "options", "text"),
    [
        (dict, {}, "give image_size"),
        (dict, dict(image_size=15), "image_size=15 must be a multiple of the patch, 2"),
        (lambda w: changed(w, "transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.bias"),
         dict(image_size=16), "linear_1.bias' differs from that of block 0"),
    ],
)  # fmt: skip
def test_weights_of_diffusers_that_do_not_fit_say_why(diffusers, change, options, text):
    with pytest.raises(UserError, match=text):
        from_state_dict(change(diffusers[1]), "diffusers_dit", **options)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("back", [False, True])
def test_half_precision_is_read(sit, dtype, back):
    half = {name: array.astype(dtype) for name, array in sit.items()}
    assert np.abs(half["pos_embed"].astype(np.float32) - sit["pos_embed"]).max() > 1e-4
    given = {n: a.astype(np.float32) for n, a in half.items()} if back else half
    found = to_state_dict(from_state_dict(given, "sit"), "sit")
    for name, array in half.items():
        wanted = sit[name] if name == "pos_embed" else array.astype(np.float32)
        np.testing.assert_array_equal(found[name], wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_another_table_is_refused_in_any_precision(sit, dtype):
    """A learned table is not what our network adds, however it is stored."""
    learned = (sit["pos_embed"] + 5e-3).astype(dtype)
    with pytest.raises(UserError, match="'pos_embed' differs by up to"):
        from_state_dict(sit | {"pos_embed": learned}, "sit")


NAME = "y_embedder.embedding_table.weight"


def test_a_label_table_without_a_null_row_keeps_its_last_class(sit, capsys):
    rows = np.random.default_rng(1).standard_normal((10, 32)).astype(np.float32)
    with pytest.raises(UserError, match=r"10 rows.*num_classes=10 or num_classes=9"):
        from_state_dict(sit | {NAME: rows}, "sit")
    network = from_state_dict(sit | {NAME: rows}, "sit", num_classes=10)
    assert network.conditioning.count == 10
    np.testing.assert_array_equal(to_state_dict(network, "sit")[NAME][:10], rows)
    assert not to_state_dict(network, "sit")[NAME][10].any()
    assert "no row for no class" in capsys.readouterr().out
    assert from_state_dict(sit | {NAME: rows}, "sit", num_classes=9).conditioning.count == 9


@pytest.mark.parametrize("number", [4, 7, True, "5"])
def test_a_number_of_classes_that_does_not_fit_says_why(sit, number):
    with pytest.raises(UserError, match=r"does not fit the 6 rows.*must be 5"):
        from_state_dict(sit, "sit", num_classes=number)


@pytest.mark.slow
def test_repa_runs_the_other_way_and_its_projectors_are_dropped(capsys, forward):
    model = make()
    weights = to_state_dict(make(prediction="reversed"), "repa")
    extra = {f"projectors.0.{i}.weight": np.ones((8, 8), np.float32) for i in (0, 2, 4)}
    with pytest.raises(UserError, match=r"projectors.0.0.weight.*names are those of family repa"):
        from_state_dict(weights | extra, "tread")
    network = from_state_dict(weights | extra, "repa")
    assert "only training uses them: projectors.0 (3 arrays)" in capsys.readouterr().out
    x, t, y = jnp.ones((2, 8, 8, 3)), jnp.array([0.0, 0.75]), jnp.array([1, 2])
    v = prediction.velocity(network, x, t, y)
    np.testing.assert_allclose(v, -forward(model, x, 1 - t, y), rtol=1e-5, atol=1e-6)
