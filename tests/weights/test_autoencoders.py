"""Autoencoders from published weights: names, scales, files, folders, the hub, and what is refused.

What a file may hold, and damaged ones, are in test_weight_files.py.
"""

import json
import sys
import types

import jax
import numpy as np
import pytest
from published import GOLDEN, before, golden, latent_diffusion
from tensor_files import safetensors

import sg_jax
from sg_jax.errors import UserError
from sg_jax.weights import places
from sg_jax.weights.tensors import Budget, Storage, Tensor

SD = dict(scale=0.18215)


@pytest.fixture(scope="module")
def sd():
    """The weights of a small autoencoder as SD's."""
    return golden("vae_sd_tiny")[1]


@pytest.fixture(scope="module")
def flux():
    """The weights of a small autoencoder as FLUX.1's."""
    return golden("vae_flux_tiny")[1]


@pytest.fixture(scope="module")
def tiny():
    """The weights of a tiny autoencoder, under diffusers' names."""
    return golden("tae_tiny")[1]


def of_author(tiny):
    """Return the files of a tiny autoencoder: an encoder's and a decoder's, its clamp counted."""
    halves = {}
    for half, first in (("encoder", 0), ("decoder", 1)):
        names = {n: n.removeprefix(f"{half}.layers.").split(".", 1) for n in tiny if half in n}
        halves[half] = {f"{int(i) + first}.{rest}": tiny[n] for n, (i, rest) in names.items()}
    return halves


def leaves(autoencoder):
    return jax.tree.leaves((autoencoder.encoder, autoencoder.decoder))


def assert_same(ours, other):
    assert (ours.scale, ours.shift, ours.factor) == (other.scale, other.shift, other.factor)
    assert ours.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("weights", ["sd", "flux"])
def test_three_sets_of_names_are_one_network(weights, request):
    weights = request.getfixturevalue(weights)
    now = sg_jax.load_autoencoder(weights, **SD)
    assert (now.factor, now.channels) == (8, 16 if "quant_conv.weight" not in weights else 4)
    assert_same(sg_jax.load_autoencoder(before(weights), **SD), now)
    assert_same(sg_jax.load_autoencoder(latent_diffusion(weights), **SD), now)
    beside = {
        "loss.logvar": np.zeros(()),
        "loss.discriminator.main.3.num_batches_tracked": np.array(7),
        "first_stage_model.loss.logvar": np.zeros(()),
        "model_ema.decay": np.float32(0.9),
        "cond_stage_model.transformer.embeddings.position_ids": np.arange(77)[None],
    }
    inside = latent_diffusion(weights, prefix="first_stage_model.") | beside
    wrapped = {"state_dict": inside, "global_step": 3, "callbacks": {}}
    assert_same(sg_jax.load_autoencoder(wrapped, **SD), now)


def test_other_levels_and_blocks_follow_from_the_names(sd):
    shallow = {
        name: value
        for name, value in sd.items()
        if not any(part in name for part in ("down_blocks.3", "up_blocks.1", "attentions"))
        and "down_blocks.2.downsamplers" not in name
        and "down_blocks.1.resnets.1" not in name
    }
    renamed = {
        n.replace("up_blocks.2", "up_blocks.1").replace("up_blocks.3", "up_blocks.2"): v
        for n, v in shallow.items()
    }
    ours = sg_jax.load_autoencoder(renamed, **SD)
    assert ours.factor == 4 and ours.encoder.attention is None
    assert [len(level.blocks) for level in ours.encoder.levels] == [2, 1, 2]
    shapes = jax.eval_shape(
        lambda x: ours.encode(x), jax.ShapeDtypeStruct((1, 8, 12, 3), np.float32)
    )
    assert shapes[0].shape == (1, 2, 3, 4)


def test_tiny_ones_are_one_under_all_names(tiny, tmp_path):
    ours, halves = sg_jax.load_autoencoder(tiny), of_author(tiny)
    assert_same(sg_jax.load_autoencoder(halves), ours)
    prefixed = {f"taesd_{h}.{n}": v for h, half in halves.items() for n, v in half.items()}
    assert_same(sg_jax.load_autoencoder(prefixed), ours)
    for half, weights in halves.items():
        np.savez(tmp_path / f"tae_{half}.npz", **weights)
    assert_same(sg_jax.load_autoencoder(tmp_path), ours)
    assert_same(sg_jax.load_autoencoder(str(tmp_path / "tae_decoder.npz")), ours)


def test_half_precision_is_read(tiny):
    half = {name: value.astype(np.float16) for name, value in tiny.items()}
    for ours, wanted in zip(
        leaves(sg_jax.load_autoencoder(half)), leaves(sg_jax.load_autoencoder(tiny)), strict=True
    ):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, wanted, rtol=1e-3, atol=1e-6)


def folder(path, weights, config=None, name="diffusion_pytorch_model.npz"):
    path.mkdir(parents=True, exist_ok=True)
    np.savez(path / name, **weights)
    if config is not None:
        (path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **config}))
    return path


def test_config_json_tells_scale_shift_and_groups(tmp_path, flux):
    config = dict(
        scaling_factor=0.3611, shift_factor=0.1159, norm_num_groups=16, latent_channels=16
    )
    path = folder(tmp_path / "pipe" / "vae", flux, config)
    ours = sg_jax.load_autoencoder(path)
    assert (ours.scale, ours.shift, ours.encoder.norm.groups) == (0.3611, 0.1159, 16)
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    assert_same(sg_jax.load_autoencoder(tmp_path / "pipe"), ours)
    assert_same(sg_jax.load_autoencoder(path / "diffusion_pytorch_model.npz"), ours)
    given = sg_jax.load_autoencoder(path, scale=np.float64(2), shift=1, groups=32, dtype="bfloat16")
    assert (given.scale, given.shift, given.encoder.norm.groups) == (2.0, 1.0, 32)
    assert given.encoder.first.kernel.dtype == "bfloat16"


def test_a_table_knows_published_names(tmp_path, sd, flux):
    for name, weights, scale, shift in (
        ("sd-vae-ft-ema", sd, 0.18215, 0),
        ("stable-diffusion-xl-base-1.0", sd, 0.13025, 0),
        ("stable-diffusion-3-medium", flux, 1.5305, 0.0609),
        ("FLUX.1-dev", flux, 0.3611, 0.1159),
    ):
        ours = sg_jax.load_autoencoder(folder(tmp_path / name / "vae", weights))
        assert (ours.scale, ours.shift) == (scale, shift), name
    for place in ("x", "sd15_vs_sdxl"):  # the file's own name counts before that of its folder
        ours = sg_jax.load_autoencoder(folder(tmp_path / place, sd, name="vae-ft-mse-840000.npz"))
        assert ours.scale == 0.18215
    ours = sg_jax.load_autoencoder(folder(tmp_path / "y", flux, name="ae.npz"))
    assert ours.scale == 0.3611
    for beside, scale in (("cond_stage_model.x", 0.18215), ("conditioner.embedders.0.x", 0.13025)):
        whole = latent_diffusion(sd, prefix="first_stage_model.") | {beside: np.zeros(1)}
        assert sg_jax.load_autoencoder(whole).scale == scale


def test_a_scale_that_nothing_tells_is_asked_for(tmp_path, sd):
    for source in (sd, folder(tmp_path / "mine", sd), folder(tmp_path / "flux.1", sd, {})):
        with pytest.raises(
            UserError, match=r"the scale of its latents.*is not known.*scale=.*0\.18215 of SD 1"
        ):
            sg_jax.load_autoencoder(source)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(scale=0), "scale=0 must be a number above 0"),
        (dict(scale=float("inf")), "scale=inf must be"),
        (dict(scale="1"), "scale='1' must be"),
        (dict(shift=float("nan")), "shift=nan must be"),
        (dict(groups=0), "groups=0 must be"),
        (dict(groups=24), "groups=24 must divide all numbers of channels, but one is 32"),
        (dict(dtype="float16"), "dtype='float16' must be one of float32, bfloat16"),
        (dict(dtype=[]), "dtype="),
        (dict(scal=1), "scal=1 is not an option.*Did you mean 'scale'"),
    ],
)
def test_wrong_options(sd, options, words):
    with pytest.raises(UserError, match=words):
        sg_jax.load_autoencoder(sd, **{**SD, **options})


def test_what_belongs_to_another_network_is_named(sd, tiny):
    def without(name):
        return {n: v for n, v in sd.items() if n != name}

    name = "encoder.down_blocks.1.resnets.0.conv1.weight"
    for weights, words in (
        (without("encoder.conv_out.bias"), "has no 'encoder.conv_out.bias'"),
        (without(name), f"'{name}' is missing"),
        (sd | {"encoder.down_blocks.0.attentions.0.to_q.weight": sd[name]}, "does not use"),
        (sd | {name: sd[name][:, :3]}, rf"'{name}' has the shape \(64, 3, 3, 3\).*\(64, 32, 3, 3"),
        (sd | {name: np.where(sd[name] > 0.1, np.nan, sd[name])}, "NaN or infinite"),
        (sd | {name: sd[name].astype(int)}, "not an array of floats"),
        (sd | {"decoder.conv_in.weight": np.zeros((64, 16, 3, 3))}, "do not belong together"),
        (sd | {"decoder.up_blocks.9.resnets.0.conv1.weight": sd[name]}, "no complete row"),
        (sd | {"encoder.down_blocks.999999999.resnets.0.x": sd[name]}, "no complete row"),
        (sd | {"bn.running_mean": np.zeros(128)}, "FLUX.2's autoencoder"),
        ({"a.encoder.conv_in.weight": 0, "b.encoder.conv_in.weight": 0}, "several autoencoders"),
        (
            tiny | {"x.layers.0.weight": tiny["encoder.layers.0.weight"]},
            "'x.layers.0' does not fit",
        ),
        (tiny | {"decoder.layers.3.weight": np.zeros((8, 8, 3, 3))}, "does not use|does not fit"),
        ({"blocks.0.attn.qkv.weight": np.zeros((4, 4))}, "no weights of an AutoencoderKL"),
        ({}, "no weights of an AutoencoderKL"),
        ({"encoder": 1, "decoder": 2}, "must map names to arrays"),
        ({1: 2, None: 3}, "no weights of an AutoencoderKL"),
    ):
        with pytest.raises(UserError, match=words):
            sg_jax.load_autoencoder(weights, **SD)


@pytest.mark.parametrize("source", [None, 3, b"x", ["a"], "a\0b", "", "no/such/file.pt", "./none"])
def test_sources_that_are_none(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        sg_jax.load_autoencoder(source)


def test_folders_that_mean_no_or_several_files(tmp_path, tiny):
    with pytest.raises(UserError, match=r"has no file of weights \(\.safetensors"):
        sg_jax.load_autoencoder(tmp_path)
    for name in ("a.npz", "b.npz"):
        folder(tmp_path, tiny, name=name)
    with pytest.raises(UserError, match=r"several files of weights, a\.npz, b\.npz: give the one"):
        sg_jax.load_autoencoder(tmp_path)


def test_of_several_formats_one_is_chosen():
    choose = places.choose
    repository = ["config.json", "taesd_encoder.pth", "taesd_decoder.pth", "a/b.bin"]
    assert choose(repository, "x") == ["taesd_decoder.pth", "taesd_encoder.pth"]
    both = [*repository, "taesd_encoder.safetensors", "taesd_decoder.safetensors"]
    assert choose(both, "x") == ["taesd_decoder.safetensors", "taesd_encoder.safetensors"]
    assert choose(["model.PT", "model.SafeTensors"], "x") == ["model.SafeTensors"]
    diffusers = ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"]
    assert choose([*both, *diffusers], "x") == ["diffusion_pytorch_model.safetensors"]
    pipeline = ["model_index.json", "sd_xl_base.safetensors", "unet/diffusion_pytorch_model.bin"]
    assert choose([*pipeline, *(f"vae/{n}" for n in diffusers)], "x") == [f"vae/{diffusers[1]}"]
    half = ["diffusion_pytorch_model.fp16.safetensors", diffusers[1]]
    assert choose(half, "x") == [diffusers[1]]
    with pytest.raises(UserError, match="weights in 2 parts: store them in one file"):
        choose([f"model-0000{i}-of-00002.safetensors" for i in (1, 2)], "x")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "config.json cannot be read as JSON"),
        (dict(scaling_factor="x"), "scaling_factor of config.json: scale='x' must be"),
        (dict(scaling_factor=1, shift_factor=[]), "shift_factor of config.json"),
        (dict(scaling_factor=1, norm_num_groups=-1), "norm_num_groups of config.json"),
        (dict(scaling_factor=1, latent_channels=16), "latents of 4 channels, but its config.json"),
        (dict(_class_name="AutoencoderDC"), "is a 'AutoencoderDC', says config.json"),
        (dict(scaling_factor=1, latents_mean=[0.0]), "normalises each channel"),
        (dict(scaling_factor=1, act_fn="gelu"), "has act_fn='gelu', .* only .* with 'silu' can be"),
    ],
)
def test_configs_of_others(tmp_path, sd, config, words):
    folder(tmp_path, sd, config if isinstance(config, dict) else {})
    if isinstance(config, str):
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=words):
        sg_jax.load_autoencoder(tmp_path)


@pytest.fixture
def hub(tmp_path, monkeypatch, sd):
    """A hub with one repository, from which files are copied."""
    folder(tmp_path / "cache" / "vae", sd, {})
    there = ["model_index.json", "vae/config.json", "vae/diffusion_pytorch_model.npz", "big.bin"]
    asked = []

    def download(identifier, name):
        asked.append((identifier, name))
        return str(tmp_path / "cache" / name)

    stub = types.SimpleNamespace(list_repo_files=lambda _: there, hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stub)
    monkeypatch.chdir(tmp_path)
    return asked


def test_a_hub_id_downloads_only_the_autoencoder_and_says_so(hub, capsys):
    ours = sg_jax.load_autoencoder("stabilityai/stable-diffusion-xl-base-1.0")
    assert ours.scale == 0.13025 and ours.name == "stabilityai/stable-diffusion-xl-base-1.0"
    named = {name for _, name in hub}
    assert named == {"vae/config.json", "vae/diffusion_pytorch_model.npz"}
    assert "Downloading vae/diffusion_pytorch_model.npz" in capsys.readouterr().out
    assert_same(sg_jax.load_autoencoder("stabilityai/stable-diffusion-xl-base-1.0/vae"), ours)


def test_the_hub_may_be_out_of_reach(hub, monkeypatch):
    def fails(_):
        raise OSError("no network")

    monkeypatch.setattr(sys.modules["huggingface_hub"], "list_repo_files", fails)
    with pytest.raises(UserError, match=r"'a/b' is not a file or folder here.*OSError: no network"):
        sg_jax.load_autoencoder("a/b")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"`pip install huggingface_hub`"):
        sg_jax.load_autoencoder("a/b")


def test_damage_that_only_reading_finds_names_the_file(tmp_path, tiny):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors(tiny))
    assert_same(sg_jax.load_autoencoder(path), sg_jax.load_autoencoder(tiny))
    path.write_bytes(safetensors(tiny | {"encoder.layers.0.bias": np.full(8, np.nan, np.float32)}))
    with pytest.raises(
        UserError, match=r"x\.safetensors: 'encoder\.layers\.0\.bias' has 8 numbers"
    ):
        sg_jax.load_autoencoder(path)
    short = Tensor(Storage(np.dtype("f4"), 8, lambda: b"1234"), 0, (8,), (1,), Budget(32))
    with pytest.raises(UserError, match=r"'encoder\.layers\.0\.bias' cannot be read \(Value"):
        sg_jax.load_autoencoder(tiny | {"encoder.layers.0.bias": short})
    path = tmp_path / "x.pt"
    path.write_bytes((GOLDEN / "torch_zip.pt").read_bytes())
    with pytest.raises(UserError, match=r"x\.pt has no weights of an AutoencoderKL"):
        sg_jax.load_autoencoder(path)
