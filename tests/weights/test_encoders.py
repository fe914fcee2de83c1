"""Inception and DINOv2 from published weights: names, files, folders, and what is refused."""

import json

import jax
import numpy as np
import pytest
from published import GOLDEN, dinov2_before, dinov2_hub, golden
from tensor_files import safetensors

import sg_jax
from sg_jax.encoders import dinov2, inception
from sg_jax.errors import UserError
from sg_jax.weights import encoder_names, encoders, filling
from sg_jax.weights.checkpoints import named

WIDTH, HIDDEN, DEPTH = 12, 16, 4


@pytest.fixture(scope="module")
def vit():
    """The weights of a small DINOv2, under the names of transformers now."""
    return golden("dinov2_tiny")[1]


def random_vit(gated=False, registers=0):
    """Return the weights of a tiny DINOv2 with 9 positions, under the names of transformers now."""
    rng = np.random.default_rng(0)
    shapes = {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.mask_token": (1, WIDTH),
        "embeddings.position_embeddings": (1, 10, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, 4, 4),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "layernorm.weight": (WIDTH,),
        "layernorm.bias": (WIDTH,),
    }
    if registers:
        shapes["embeddings.register_tokens"] = (1, registers, WIDTH)
    into = {"mlp.gate_proj": HIDDEN, "mlp.up_proj": HIDDEN} if gated else {"mlp.fc1": HIDDEN}
    linear = {f"attention.{p}_proj": (WIDTH, WIDTH) for p in "qkvo"}
    linear |= {name: (width, WIDTH) for name, width in into.items()}
    linear["mlp.down_proj" if gated else "mlp.fc2"] = (WIDTH, HIDDEN)
    for i in range(DEPTH):
        row = f"encoder.layer.{i}."
        for name, shape in linear.items():
            shapes |= {f"{row}{name}.weight": shape, f"{row}{name}.bias": shape[:1]}
        for name in ("norm1", "norm2"):
            shapes |= {f"{row}{name}.{end}": (WIDTH,) for end in ("weight", "bias")}
        shapes |= {f"{row}layer_scale{n}.lambda1": (WIDTH,) for n in (1, 2)}
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def load(weights, **options):
    return sg_jax.load_encoder("dinov2", weights, heads=3, **options)


def test_three_sets_of_names_are_one_network(vit):
    now = sg_jax.load_encoder("dinov2", vit, heads=4)
    head = {"classifier.weight": np.ones((3, 64)), "classifier.bias": np.ones(3)}
    others = [
        dinov2_before(vit),
        dinov2_hub(vit),
        dinov2_hub(vit, chunk=2),
        {f"dinov2.{name}": value for name, value in vit.items()} | head,
        {"teacher": {f"backbone.{n}": v for n, v in dinov2_hub(vit, chunk=1).items()} | {
            "dino_head.mlp.0.weight": np.ones((2, 2))}},
        {"state_dict": {f"module.{n}": v.astype(np.float16) for n, v in vit.items()}},
    ]  # fmt: skip
    found = [sg_jax.load_encoder("dinov2", other, heads=4) for other in others]
    assert {network.fingerprint() for network in found[:-1]} == {now.fingerprint()}
    np.testing.assert_allclose(found[-1].token[...], now.token[...], rtol=1e-3)


@pytest.mark.parametrize("registers", [0, 4])
def test_gated_ones_are_one_under_all_names(registers):
    weights = random_vit(gated=True, registers=registers)
    now = load(weights)
    assert now.blocks.gated and now.blocks.mlp_in.kernel.shape == (DEPTH, WIDTH, 2 * HIDDEN)
    for other in (dinov2_before(weights), dinov2_hub(weights), dinov2_hub(weights, chunk=2)):
        assert load(other).fingerprint() == now.fingerprint()
    tokens = jax.eval_shape(now.embed, jax.ShapeDtypeStruct((1, 4, 8, 3), np.float32))
    assert tokens.shape == (1, 1 + registers + 2, WIDTH)


def test_files_and_folders(tmp_path):
    weights = random_vit()
    now = load(weights).fingerprint()
    folder = tmp_path / "facebook"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors(weights))
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 3}))
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    from_folder = sg_jax.load_encoder("dinov2", folder)
    assert from_folder.fingerprint() == now and str(folder) in from_folder.name
    np.savez(tmp_path / "vit.npz", **weights)
    assert load(tmp_path / "vit.npz").fingerprint() == now
    assert load(weights, offset=0.1).fingerprint() != now
    assert load(weights, dtype="bfloat16").fingerprint() != now


def changed(**changes):
    return {n: v for n, v in (random_vit() | changes).items() if v is not None}


@pytest.mark.parametrize("weights, said", [
    (changed(**{"layernorm.bias": None}), "has no 'layernorm.bias', and 0 others"),
    (changed(**{"layernorm.bias": None, "layernorm.bia": np.ones(12)}),
     "Did you mean 'layernorm.bia'"),
    (changed(extra=np.ones(3)), "has 'extra', which DINOv2 does not use"),
    (changed(**{"encoder.layer.1.norm1.weight": None}), "no complete row of blocks"),
    (changed(**{"encoder.layer.2.norm1.bias": np.ones(5, np.float32)}), r"shape \(5,\)"),
    (changed(**{"layernorm.bias": np.full(12, np.nan, np.float32)}), "12 numbers of 12"),
    (changed(**{"layernorm.bias": np.ones(12, int)}), "not an array of floats"),
    (changed(**{"embeddings.position_embeddings": np.ones((1, 9, 12), np.float32)}), "shape"),
    ({"conv.weight": np.ones(3)}, "must have the weights of one DINOv2"),
    ({}, "but has only nothing"),
    ({n: {"inner": 1} for n in "ab"}, "must have the weights"),
])  # fmt: skip
def test_wrong_weights_are_named(weights, said):
    with pytest.raises(UserError, match=said):
        load(weights)


@pytest.mark.parametrize("kind, source, options, said", [
    ("incepton", {}, {}, "Did you mean 'inception'"),
    ("dinov2", 7, {}, "must be a file or folder"),
    ("dinov2", "nowhere.pth", {}, "does not exist"),
    ("dinov2", {}, dict(dtype="float16"), "must be one of 'float32', 'bfloat16'"),
    ("dinov2", {}, dict(heads=0), "heads=0 must be"),
    ("dinov2", {}, dict(offset=float("nan")), "offset=nan must be"),
    ("dinov2", random_vit(), {}, "tokens of 12 numbers, but the published"),
    ("dinov2", random_vit(), dict(heads=5), "must divide 12"),
    ("inception", {}, dict(heads=4), "is an option of dinov2"),
])  # fmt: skip
def test_wrong_arguments_are_named(kind, source, options, said):
    with pytest.raises(UserError, match=said):
        sg_jax.load_encoder(kind, source, **options)


def test_inceptions_names_are_checked():
    weights = {"Conv2d_1a_3x3.conv.weight": np.ones((32, 3, 3, 3), np.float32)}
    with pytest.raises(UserError, match="and 470 others are missing"):
        sg_jax.load_encoder("inception", weights)


def test_norms_are_folded_into_convolutions():
    """(w x - mean) / sqrt(var + 0.001) * scale + bias, of one channel."""
    network = inception.of_shapes("shapes", np.dtype("float32"))
    recipes = encoder_names.inception_recipes(network, named(network))
    names = {name for recipe in recipes.values() for name in recipe.names}
    assert names == set(golden_names())
    kernel = np.full((32, 3, 3, 3), 2.0, np.float32)
    norm = [np.full(32, value, np.float32) for value in (3.0, 5.0, 7.0, 3.999)]
    made = recipes["stem/0/conv/kernel"].make(kernel, *norm)
    assert made.shape == (3, 3, 3, 32) and np.allclose(made, 2 * 3 / 2)
    assert np.allclose(recipes["stem/0/conv/bias"].make(kernel, *norm), 5 - 7 * 3 / 2)
    norm[3] = -norm[3]
    with pytest.raises(UserError, match=r"Conv2d_1a_3x3.bn.running_var' has a variance below 0"):
        recipes["stem/0/conv/bias"].make(kernel, *norm)


def golden_names():
    return [line.split(" ")[0] for line in np.load(GOLDEN / "inception_fid.npz")["state_dict_keys"]]


def test_weights_are_found_where_they_usually_are(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    assert encoders.where("dinov2", "facebook/dinov2-large") == "facebook/dinov2-large"
    for kind, file in (
        ("inception", "pt_inception-2015-12-05-6726825d.pth"),
        ("dinov2", "dinov2_vitl14_pretrain.pth"),
    ):
        with pytest.raises(UserError) as raised:
            encoders.where(kind)
        for said in (file, "github.com/", str(tmp_path / "cache" / "sg_jax" / "weights")):
            assert said in str(raised.value)
    torch = tmp_path / "cache" / "torch" / "hub" / "checkpoints"
    torch.mkdir(parents=True)
    other = torch / "weights-inception-2015-12-05-6726825d.pth"
    other.touch()
    assert encoders.where("inception") == str(other)
    ours = tmp_path / "cache" / "sg_jax" / "weights" / "pt_inception-2015-12-05-6726825d.pth"
    ours.parent.mkdir(parents=True)
    ours.touch()
    assert encoders.where("inception") == str(ours)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "elsewhere"))
    ours.unlink()
    with pytest.raises(UserError, match="inception are not here"):
        encoders.where("inception")


def test_sizes_follow_from_shapes():
    weights = dinov2_hub(random_vit(registers=2))
    shapes = {name: filling.described(value) for name, value in weights.items()}
    rows = encoder_names.dinov2_rows(weights, "here")
    assert encoder_names.dinov2_sizes(shapes, rows, 3, "here") == dinov2.Sizes(
        width=12, depth=4, heads=3, hidden=16, gated=False, patch=4, table=3, registers=2
    )
