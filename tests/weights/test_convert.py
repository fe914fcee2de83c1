"""Published weights in, the published outputs and the same weights out."""

import ast
import pathlib
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
import random_weights

from sg_jax.errors import UserError
from sg_jax.models.dit import DiT
from sg_jax.models.layers import position_table
from sg_jax.models.maskdit import MaskDiT
from sg_jax.weights.checkpoints import named
from sg_jax.weights.convert import default_heads, from_state_dict, to_state_dict

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
FILES = {"tread": "tread_dit_tiny", "sit": "sit_tiny", "maskdit": "maskdit_tiny"}
SMALL = dict(
    image_size=8, channels=3, num_classes=5, patch=2, width=32, depth=4, heads=4, mlp_ratio=3.0
)


def state_dict(golden):
    """The weights of a golden: stored, or following from the names."""
    if "state_dict_keys" not in golden:
        return {k.removeprefix("weights/"): v for k, v in golden.items() if "weights/" in k}
    weights = {}
    for entry in golden["state_dict_keys"].tolist():
        key, shape = entry.split(" ", 1)
        shape = ast.literal_eval(shape)
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        weights[key] = (rng.standard_normal(shape) * 0.04).astype(np.float32)
        if "pos_embed" in key:
            side = round(shape[1] ** 0.5)
            weights[key] = position_table(side, side, shape[2])[None]
    return weights


@pytest.fixture(scope="module", params=FILES)
def published(request):
    """(family, its golden, its weights, our network)."""
    golden = dict(np.load(GOLDEN / f"{FILES[request.param]}.npz"))
    options = {"routes": golden["routes"].tolist()} if "routes" in golden else {}
    weights = state_dict(golden)
    return request.param, golden, weights, from_state_dict(weights, request.param, **options)


@pytest.fixture(scope="module")
def sit():
    return state_dict(dict(np.load(GOLDEN / "sit_tiny.npz")))


def make(network, **sizes):
    """A network with random weights."""
    return random_weights.network(lambda rngs: network(**{**SMALL, **sizes}, rngs=rngs))


def assert_same_network(a, b):
    assert a.mlp_ratio == pytest.approx(b.mlp_ratio, abs=1 / a.width)  # what a shape can tell
    others = [name for name in vars(b) if isinstance(getattr(b, name), int | tuple | np.dtype)]
    assert "time_endpoint" in others
    assert {n: getattr(a, n) for n in others} == {n: getattr(b, n) for n in others}
    assert_same_weights(named(a), named(b))


def assert_same_weights(a, b):
    assert {k: (v.shape, v.dtype) for k, v in a.items()} == {
        k: (v.shape, v.dtype) for k, v in b.items()
    }
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_the_outputs_are_the_published_ones(published, forward):
    _, golden, _, network = published
    x, t, y = jnp.asarray(golden["x"].transpose(0, 2, 3, 1)), golden["t"], golden["y"]
    null = network.conditioning.null(y)
    cases = {"dense": (y,), "velocity": (y,), "dense_null": (null,), "velocity_null": (null,)}
    for gamma in ("0.5", "0.75", "0.9"):
        cases[f"routed_{gamma}"] = (y, [golden.get(f"keep_ids_{gamma}_0")])
        cases[f"masked_{gamma}"] = (y, golden.get(f"keep_ids_{gamma}"))
    compared = [name for name in cases if name in golden]
    assert len(compared) in (2, 4)
    for name in compared:
        out = forward(network, x, t, *cases[name])
        np.testing.assert_allclose(
            out, golden[name].transpose(0, 2, 3, 1), rtol=0, atol=2e-5, err_msg=name
        )


def test_published_weights_come_back_bit_for_bit(published):
    family, _, weights, network = published
    assert_same_weights(to_state_dict(network, family), weights)


def test_sizes_are_read_off_the_shapes(published):
    family, _, _, network = published
    assert (network.image_size, network.patch, network.channels) == (16, 2, 4)
    assert (network.width, network.conditioning.count, network.mlp_ratio) == (64, 10, 4.0)
    assert network.depth == {"tread": 6, "sit": 4, "maskdit": 4}[family]
    assert network.learn_sigma == (family == "sit")
    assert network.heads == 4


@pytest.mark.every(2)
@pytest.mark.parametrize(
    ("network", "family", "sizes"),
    [
        (DiT, "tread", dict(routes=((0, 0), (2, 3)), num_classes=1)),
        (DiT, "repa", dict(routes=((0, 1), (2, 2)), patch=4, channels=1)),
        (DiT, "diffusers_dit", dict(learn_sigma=True, time_endpoint=True, mlp_ratio=2.0)),
        (DiT, "tread", dict(learn_sigma=True, mlp_ratio=8 / 3)),
        (DiT, "dit", dict(learn_sigma=True, depth=1, patch=1, num_classes=1000)),
        (DiT, "sit", dict(learn_sigma=True, heads=8, width=48, routes=((1, 2),))),
        (MaskDiT, "maskdit", dict(decoder_width=16, decoder_depth=3, decoder_heads=2)),
        (MaskDiT, "maskdit", dict(decoder_width=64, decoder_depth=1, patch=4, learn_sigma=True)),
        # int(32 * 2.7) = 86 and int(80 * 2.7) = 216: only a ratio in [2.7, 2.7125) gives both
        (MaskDiT, "maskdit", dict(decoder_width=80, decoder_depth=1, mlp_ratio=2.7)),
    ],
)
def test_networks_come_back_bit_for_bit(network, family, sizes):
    model = make(network, **sizes)
    options = dict(heads=model.heads)
    options |= (
        dict(decoder_heads=model.decoder_heads)
        if family == "maskdit"
        else dict(routes=model.routes)
    )
    options |= dict(image_size=8) if family == "diffusers_dit" else {}
    back = from_state_dict(to_state_dict(model, family), family, **options)
    assert_same_network(back, model)


@pytest.mark.parametrize("family", ["dit", "sit"])
def test_without_sigma_its_rows_are_zeros(family, forward, inputs):
    model = make(DiT)
    weights = to_state_dict(model, family)
    rows = weights["final_layer.linear.weight"].reshape(2, 2, 6, 32)  # row, column, 2 C, D
    assert np.abs(rows[:, :, :3]).min() > 0 and not rows[:, :, 3:].any()
    np.testing.assert_allclose(
        forward(from_state_dict(weights, family), *inputs), forward(model, *inputs), rtol=1e-4
    )
    assert_same_network(from_state_dict(weights, family, learn_sigma=False), model)
    assert to_state_dict(model, "tread")["final_layer.linear.weight"].shape == (12, 32)


def test_a_layout_one_can_check_by_hand():
    model = make(DiT, num_classes=5)
    weights = to_state_dict(model, "tread")
    conv = weights["x_embedder.proj.weight"]  # [D, C, row, column]
    kernel = np.asarray(model.patch_embedding.kernel[...])  # [row column C, D]
    assert conv[7, 2, 1, 0] == kernel[(1 * 2 + 0) * 3 + 2, 7]
    qkv = weights["blocks.3.attn.qkv.weight"]  # [3 heads head, D]
    key = np.asarray(model.blocks.stacks[0].attention.key.kernel[...])  # [depth, D, heads head]
    assert qkv[(1 * 4 + 2) * 8 + 5, 9] == key[3, 9, 2 * 8 + 5]
    assert weights["y_embedder.embedding_table.weight"].shape == (6, 32)


class Tensor:
    """As much of a torch tensor as matters: NumPy gets at it only after detach and cpu."""

    def __init__(self, array, steps=()):
        self.array, self.steps = array, steps

    def detach(self):
        return Tensor(self.array, (*self.steps, "detach"))

    def cpu(self):
        return Tensor(self.array, (*self.steps, "cpu"))

    def numpy(self):
        assert self.steps == ("detach", "cpu")
        return self.array


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {f"module.{k}": v for k, v in w.items()},
        lambda w: {f"_orig_mod.module.model.{k}": v for k, v in w.items()},
        lambda w: {"model": {"x": 1}, "ema": w, "opt": {}, "step": 3},
        lambda w: {"ema": None, "model": w},
        lambda w: {"model_state_dict": {"x": 1}, "ema_state_dict": w},
        lambda w: {"state_dict": {"model": w}},
        lambda w: {"ema": {"module": w}, "model": {"module": {"x": np.ones(3)}}},
        lambda w: {"ema": {"decay": 0.99, "params": {f"net.{k}": v for k, v in w.items()}}},
        lambda w: {"ema": {"decay": 0.99, "updates": 3}, "model": w},
        lambda w: {"params": {"x": np.ones(3)}, "params_ema": w},
        lambda w: {f"net.{k}": v for k, v in w.items()},
        lambda w: {f"_fsdp_wrapped_module.{k}": v for k, v in w.items()},
        lambda w: {
            k.replace(".", "._fsdp_wrapped_module.", 1) if "blocks" in k else k: v
            for k, v in w.items()
        },
        lambda w: {f"module.ema_model.net.{k}": v for k, v in w.items()},
        lambda w: {"state_dict": {f"model.diffusion_model.{k}": v for k, v in w.items()}},
        lambda w: {"online_model": {"x": np.ones(3)}, "ema_model": {"module": w}},
        lambda w: {
            **{f"ema_model.{k}": v for k, v in w.items()},
            **{f"online_model.{k}": v + 1 for k, v in w.items()},
            "initted": np.bool_(True),
            "step": np.asarray(7),
        },
        lambda w: {
            "state_dict": {
                **{f"model.{k}": v + 1 for k, v in w.items()},
                **{f"model_ema.{k}": v for k, v in w.items()},
            }
        },
        lambda w: {"n_averaged": np.asarray(7), **{f"module.{k}": v for k, v in w.items()}},
        lambda w: {k: Tensor(v) for k, v in w.items()},
        lambda w: {k: jnp.asarray(v) for k, v in w.items()},
        lambda w: {k: v.astype(np.float64) for k, v in w.items()},
    ],
)
def test_wrapped_weights_are_the_same_weights(sit, wrap):
    assert_same_weights(to_state_dict(from_state_dict(wrap(sit), "sit"), "sit"), sit)


@pytest.mark.parametrize(
    ("family", "prediction"),
    [
        ("dit", "noise"),
        ("sit", "velocity"),
        ("tread", "edm"),
        ("maskdit", "edm"),
        ("repa", "reversed"),
    ],
)
def test_networks_say_what_they_were_trained_to_predict(family, prediction):
    model = make(MaskDiT, decoder_width=16, decoder_depth=1) if family == "maskdit" else make(DiT)
    state = to_state_dict(model, family)
    assert from_state_dict(state, family).prediction == prediction
    assert from_state_dict(state, family, prediction="velocity").prediction == "velocity"


def test_heads_are_the_published_ones():
    widths = {384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 64: 4, 512: 8, 2048: 32, 96: 4, 448: 7}
    assert {width: default_heads(width) for width in widths} == widths
    assert default_heads(456) == 6  # 7 does not divide it


def test_another_image_size_has_another_table(sit):
    network = from_state_dict(sit, "sit", image_size=32, dtype="bfloat16", remat="selective")
    assert network.tokens == 256 and network.dtype == jnp.bfloat16
    assert network.final.kernel[...].dtype == jnp.float32
    weights = to_state_dict(network, "sit")
    np.testing.assert_array_equal(weights["pos_embed"], position_table(16, 16, 64)[None])


def without(weights, name):
    return {k: v for k, v in weights.items() if k != name}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda w: without(w, "blocks.2.mlp.fc1.weight"),
         r"missing 'blocks.2.mlp.fc1.weight' \[256, 64\]"),
        (lambda w: without(w, "pos_embed"), r"missing 'pos_embed' \[1, tokens, 64\]"),
        (lambda w: w | {"blocks.2.atn.qkv.bias": np.zeros(192)},
         r"unknown name 'blocks.2.atn.qkv.bias' \[192\].*Did you mean 'blocks.2.attn.qkv.bias'"),
        (lambda w: w | {"cls_token": np.zeros((1, 1, 64))}, "unknown name 'cls_token'"),
        (lambda w: w | {"blocks.1.mlp.fc2.bias": np.zeros(63)},
         r"'blocks.1.mlp.fc2.bias' has the shape \[63\].*\[64\]"),
        (lambda w: w | {"final_layer.linear.weight": np.zeros((24, 64))},
         r"'final_layer.linear.weight' has the shape \[24, 64\].*\[16, 64\]"),
        (lambda w: w | {"x_embedder.proj.weight": np.zeros((64, 16))},
         r"'x_embedder.proj.weight' has the shape \[64, 16\].*\[64, channels, row, column\]"),
        (lambda w: w | {"x_embedder.proj.weight": np.zeros((64, 4, 2, 4))},
         r"'x_embedder.proj.weight' has the shape \[64, 4, 2, 4\].*\[64, 4, 2, 2\]"),
        (lambda w: w | {"pos_embed": w["pos_embed"] + 2e-4}, "'pos_embed' differs by up to 0.0002"),
        (lambda w: w | {"pos_embed": np.full((1, 64, 64), np.nan)}, "4,096 .* are NaN"),
        (lambda w: w | {"pos_embed": np.zeros((1, 65, 64))}, "65 tokens"),
        (lambda w: w | {"module.pos_embed": w["pos_embed"]}, "'pos_embed' appears twice"),
        (lambda w: w | {"pos_embed": "table"}, "'pos_embed' is a str"),
        (lambda w: list(w), "this is a list"),
        (lambda w: {}, "missing 'x_embedder.proj.weight'"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_named(sit, change, text):
    with pytest.raises(UserError, match=text):
        from_state_dict(change(sit), "sit")


@pytest.mark.parametrize(
    ("family", "options", "text"),
    [
        ("sitt", {}, "family='sitt'.*Did you mean 'sit'"),
        ("maskdit", {}, "family='maskdit'.*missing 'mask_token'"),
        ("sit", dict(head=4), "head=4 is not an option.*Did you mean 'heads'"),
        ("maskdit", dict(routes=[(1, 2)]), r"routes=\[\(1, 2\)\] is not an option of family="),
        ("sit", dict(heads=5), "heads=5"),
        ("sit", dict(routes=[(2, 4)]), r"route=\(2, 4\)"),
        ("sit", dict(image_size=15), "15"),
    ],
)
def test_a_wrong_option_says_why(sit, family, options, text):
    with pytest.raises(UserError, match=text):
        from_state_dict(sit, family, **options)


def test_an_inner_head_has_no_published_name():
    with pytest.raises(UserError, match=r"family='sit' has no inner head.*after block 2"):
        to_state_dict(make(DiT, inner=2), "sit")


def test_a_network_of_another_kind_is_not_written():
    model = make(MaskDiT, decoder_width=16, decoder_depth=1)
    with pytest.raises(UserError, match=r"family='sit' has the weights of a DiT.*a MaskDiT"):
        to_state_dict(model, "sit")
    with pytest.raises(UserError, match="family='dot'"):
        to_state_dict(model, "dot")
