"""What --mode export makes, and what `sg_jax.load` reads back."""

import importlib.machinery
import json
import os
import shutil
import sys
import types

import jax
import ml_dtypes
import numpy as np
import pytest
from sit_networks import same

import sg_jax
from sg_jax.config import geometry, parsing, record, tree
from sg_jax.data.origin import Maker
from sg_jax.errors import UserError
from sg_jax.method.guidance import Guidance
from sg_jax.modes import export, import_, train
from sg_jax.modes.base import Job
from sg_jax.runs import arrays
from sg_jax.runs.tracking import Track
from sg_jax.weights import checkpoints, convert, described, exports
from sg_jax.weights.checkpoints import named


def exported(imported, name, **options):
    given = {"family": "", "dtype": "float32", "step": 0, "weights": "ema", "push": "", **options}
    target = imported.parent.parent / f"{imported.parent.name}_{name}"
    export.run(Job(str(imported), options={"to": str(target), **given}))
    return target


@pytest.mark.every(4)
@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("a", ""),
        ("a.npz", ""),
        ("b.safetensors", "sit"),
        ("a.safetensors", ""),
        ("c", "diffusers_dit"),
        ("b.npz", "tread"),
    ],
)
def test_what_is_exported_comes_back_bit_for_bit(imported, name, family):
    target, network = exported(imported, name, family=family), checkpoints.load(imported)
    back = sg_jax.load(target)
    same(back, network)
    for attribute in ("routes", "prediction", "heads", "time_endpoint", "learn_sigma", "depth"):
        assert getattr(back, attribute) == getattr(network, attribute)
    assert back.named.settings["own"] == Guidance(2.0, 0.0, 0.75)
    with pytest.raises(UserError, match="already exists"):
        exported(imported, name, family=family)


def test_exported_files_are_read_by_others(imported):
    weights = convert.to_state_dict(checkpoints.load(imported), "sit")
    plain = dict(np.load(exported(imported, "d.npz", family="sit")))
    about = json.loads(bytes(plain.pop("sg_jax")))
    assert plain.keys() == weights.keys() and about["family"] == "sit" and about["version"]
    safetensors = pytest.importorskip("safetensors.numpy")
    found = safetensors.load_file(exported(imported, "d.safetensors", family="sit"))
    assert found.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(plain[name], array)
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.every(3)
@pytest.mark.parametrize("name", ["e", "e.safetensors", "e.npz"])
def test_bfloat16_is_half_as_large_and_read_as_float32(imported, name):
    back = sg_jax.load(exported(imported, name, dtype="bfloat16"))
    for key, array in named(checkpoints.load(imported)).items():
        rounded = np.asarray(array).astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(named(back)[key], rounded)


def test_the_folder_for_diffusers_has_its_config(imported):
    target = exported(imported, "f", family="diffusers_dit")
    config = json.loads((target / "config.json").read_text())
    assert config["_class_name"] == "DiTTransformer2DModel" and config["sample_size"] == 8
    assert (config["num_attention_heads"], config["attention_head_dim"]) == (4, 8)
    file = target / "diffusion_pytorch_model.safetensors"
    weights, _ = described.read(file)
    described.write(file, weights, {})  # as diffusers would have written it
    back = sg_jax.load(target)
    assert (back.prediction, back.time_endpoint, back.heads) == ("noise", True, 4)
    same(back, convert.from_state_dict(weights, "diffusers_dit", image_size=8))
    (target / "config.json").write_text(json.dumps(config | {"num_attention_heads": 2}))
    assert sg_jax.load(file).heads == 2  # as the config next to it says
    variant = file.rename(target / "diffusion_pytorch_model.fp16.safetensors")
    assert sg_jax.load(target).heads == sg_jax.load(variant).heads == 2
    (target / "config.json").write_text(json.dumps(config | {"_class_name": "FluxTransformer"}))
    with pytest.raises(UserError, match=r"'FluxTransformer'.*only DiT can be read"):
        sg_jax.load(target)


@pytest.mark.parametrize("name", ["g.safetensors", "g.npz"])
def test_a_damaged_file_is_named(imported, name):
    """Of the numbers every bit counts; a cut anywhere does too."""
    file = exported(imported, name)
    whole = file.read_bytes()
    for at in (len(whole) // 3, len(whole) // 2):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UserError, match=name):
            sg_jax.load(file)
    for size in (0, 5, len(whole) // 2, len(whole) - 9):
        file.write_bytes(whole[:size])
        with pytest.raises(UserError, match=name):
            sg_jax.load(file)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(name="h.pt"), r"files end with .safetensors or .npz, which need no pickle"),
        (dict(name="h", family="sit"), "--family=sit names the arrays of a file"),
        (dict(name="h.npz", family="sitt"), "--family=sitt must be one of .*Did you mean 'sit'"),
        (dict(name="h.npz", family="maskdit"), "has the weights of a MaskDiT"),
        (dict(name="h.npz", dtype="float8"), "dtype='float8'"),
        (dict(name="h", step=7), "step=7 is not a checkpoint"),
        (dict(name="h", step=-1), "no best checkpoint"),
        (dict(name="h", weights="best"), "weights='best' must be one of"),
    ],
)
def test_a_wrong_export_says_why_and_writes_nothing(imported, options, text):
    before = sorted(imported.parent.parent.iterdir())
    with pytest.raises(UserError, match=text):
        exported(imported, **options)
    assert sorted(imported.parent.parent.iterdir()) == before


class Hub:
    """What huggingface_hub has of the hub."""

    def __init__(self, calls, fails):
        self.calls, self.fails = calls, fails

    def create_repo(self, identifier, exist_ok):
        self.calls.append((identifier, exist_ok))
        if self.fails:
            raise OSError("no network")

    def upload_folder(self, repo_id, folder_path):
        self.calls.append((repo_id, sorted(os.listdir(folder_path))))

    def upload_file(self, path_or_fileobj, path_in_repo, repo_id):
        self.calls.append((repo_id, path_in_repo, os.path.exists(path_or_fileobj)))


@pytest.fixture
def hub(monkeypatch):
    calls, fails = [], []
    module = types.SimpleNamespace(
        HfApi=lambda: Hub(calls, fails), __spec__=importlib.machinery.ModuleSpec("hub", None)
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return calls, fails


def test_it_is_uploaded_to_the_hub(imported, hub):
    calls, fails = hub
    file = exported(imported, "k.npz", push="me/network")
    assert calls == [("me/network", True), ("me/network", file.name, True)]
    exported(imported, "k", push="me/network")
    assert calls[3] == ("me/network", ["README.md", "checkpoints", "config.json"])
    fails.append(1)
    with pytest.raises(UserError, match=r"--push=me/network failed .*no network.*k2 is whole"):
        exported(imported, "k2", push="me/network")
    with pytest.raises(UserError, match="--push='network' must be a hub id"):
        exported(imported, "k3", push="network")


def test_without_the_package_nothing_is_exported(imported, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        exported(imported, "l", push="me/network")
    assert not (imported.parent.parent / f"{imported.parent.name}_l").exists()


def test_float16_does_not_overflow_in_silence():
    with pytest.raises(UserError, match=r"float16 cannot hold 'w', with numbers up to 1e\+05"):
        described.cast({"w": np.array([1e5], np.float32)}, "float16")


def test_numbers_of_the_wanted_type_are_not_copied():
    """They take 10 GB for the largest network."""
    weights = {"w": np.ones(3, np.float32)}
    assert described.cast(weights, "float32")["w"] is weights["w"]


def test_an_exported_folder_is_not_continued(imported, tmp_path):
    target = exported(imported, "i")
    source = types.SimpleNamespace(class_names=())
    experiment = types.SimpleNamespace(
        config=types.SimpleNamespace(
            track=Track(),
            train=types.SimpleNamespace(init_from="", sample_every=0, evaluate_every=0, then=()),
        )
    )
    job = types.SimpleNamespace(
        workdir=str(target), experiment=experiment, source=source, config=True
    )
    with pytest.raises(UserError, match=r"cannot be continued.*--config.train.init_from="):
        train.run(job)


def test_what_published_code_reads_otherwise_is_said(imported, capsys):
    exported(imported, "as_tread.npz", family="tread")
    said = capsys.readouterr().out
    assert "returns 'velocity', but the published code of family='tread' expects" in said
    exported(imported, "as_sit.npz", family="sit")
    assert "published code" not in capsys.readouterr().out


@pytest.mark.every(3)
@pytest.mark.parametrize("name", ["m", "m.safetensors", "m.npz"])
def test_an_export_says_what_made_the_latents(imported, tmp_path, name):
    made = Maker("owner/vae", "0123", 0.18215, 0.5, 8)
    run = tmp_path / "run"
    shutil.copytree(imported, run)
    config, names = record.read(run)
    record.write(run, config, names, {**record.data_of(run), "autoencoder": made.record()})
    export.run(Job(str(run), options=dict(
        to=str(tmp_path / name), family="", dtype="float32", step=0, weights="ema", push=""
    )))  # fmt: skip
    found = tmp_path / name
    assert sg_jax.load(found).named.maker == made
    if "." in name:
        with pytest.raises(UserError, match="is a file: give the folder of a run"):
            sg_jax.settings(found)
        options = {"from": str(found), "family": ""}
        import_.run(Job(str(found := tmp_path / "again"), options=options, config=tree.defaults()))
    assert record.maker_of(found) == sg_jax.load(found).named.maker == made
    row = "| latents | made by owner/vae (0123), scale 0.18215, shift 0.5, factor 8 |\n| network"
    assert row in (found / "README.md").read_text()
    readme = (imported / "README.md").read_text()
    assert "made by" not in readme and "--prompts" not in readme


@pytest.fixture
def texts(tmp_path):
    """A run of a network of texts that a frozen encoder reads."""
    model = dict(kind="text_dit", depth=2, width=16, heads=2, patch=4, image_size=8, channels=3)
    model |= dict(text_features=8, text_layers=0)
    text = dict(encoder="a/b", length=5)
    config = parsing.merge(dict(data=dict(name="x"), model=model, text=text))
    config = geometry.fill_geometry(config)
    network = geometry.make_model(tree.check(config).model, jax.random.key(0))
    (tmp_path / "trained").mkdir()
    record.write(tmp_path / "trained", config, (), {"text_fingerprint": "0123456789abcdef"})
    exports.write_folder(tmp_path / "run", network, config, str(tmp_path / "trained"), 1)
    return tmp_path / "run"


@pytest.mark.every(2)
@pytest.mark.parametrize("name", ["f.safetensors", "f.npz"])
def test_a_file_says_which_text_encoder_its_network_reads(texts, name):
    file = exported(texts, name)
    assert sg_jax.load(file).named.encoder == sg_jax.load(texts).named.encoder == "0123456789abcdef"
    again = texts.with_name("again")
    import_.run(Job(str(again), options={"from": str(file), "family": ""}, config=tree.defaults()))
    assert record.encoder_of(again) == "0123456789abcdef"
    for folder in (texts, again):  # drawing captions would need the data
        assert "sample --workdir THIS_FOLDER --prompts" in (folder / "README.md").read_text()


def test_a_file_in_a_bucket_is_downloaded_once(bucket, monkeypatch):
    name, read, whole = "gs://b/net.safetensors", arrays.read_bytes, []
    described.write(name, {"w": np.ones(3, np.float32)}, {"step": 7})
    monkeypatch.setattr(arrays, "read_bytes", lambda path: whole.append(path) or read(path))
    found, about = described.read(name)
    assert about["step"] == 7 and found["w"].sum() == 3 and len(whole) == 1
