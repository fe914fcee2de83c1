"""What --mode import and --mode export make, and what `sg_jax.load` reads back."""

import importlib.machinery
import json
import os
import sys
import types

import jax
import ml_dtypes
import numpy as np
import pytest
import random_weights

import sg_jax
from sg_jax.config import parsing, record
from sg_jax.errors import UserError
from sg_jax.method.guidance import Guidance
from sg_jax.models.dit import DiT
from sg_jax.modes import export, import_, train
from sg_jax.modes.base import Job
from sg_jax.runs import files
from sg_jax.runs.tracking import Track
from sg_jax.weights import checkpoints, convert, described, imports, networks, starts
from sg_jax.weights.checkpoints import named

SIZES = dict(image_size=8, channels=4, num_classes=5, patch=2, width=32, depth=3, heads=4)


def make(**sizes):
    return random_weights.network(lambda rngs: DiT(**{**SIZES, **sizes}, rngs=rngs))


def same(a, b):
    a, b = named(a), named(b)
    assert a.keys() == b.keys()
    for name, array in a.items():
        assert array.dtype == b[name].dtype
        np.testing.assert_array_equal(array, b[name], err_msg=name)


@pytest.fixture(scope="module")
def sit(tmp_path_factory):
    """A file of SiT's weights, and its network."""
    path = tmp_path_factory.mktemp("published") / "SiT.npz"
    network = make(learn_sigma=True)
    np.savez(path, **convert.to_state_dict(network, "sit"))
    return path, network


@pytest.fixture(scope="module")
def imported(sit, tmp_path_factory):
    """A run of that file, with a route."""
    workdir = tmp_path_factory.mktemp("runs") / "sit"
    own = {"own": {"scale": 2.0, "gamma_weak": 0.75}}
    config = parsing.merge(
        {"model": {"routes": ((1, 1),)}, "train": {"ema_decays": (0.9,)}, "guidance": own}
    )
    import_.run(Job(str(workdir), options={"from": str(sit[0]), "family": "sit"}, config=config))
    return workdir


@pytest.mark.slow
def test_an_imported_run_is_a_run(imported, sit):
    config, names = record.read(imported)
    assert (config.model.depth, config.model.width, config.model.learn_sigma) == (3, 32, True)
    assert config.model.routes == ((1, 1),) and names == () and config.data.name == record.UNNAMED
    assert record.data_of(imported) == dict(latents=True, image_shape=[8, 8, 4], classes=5)
    for weights in ("ema", "model", "ema_0.9"):
        other = convert.from_state_dict(dict(np.load(sit[0])), "sit", routes=((1, 1),))
        same(checkpoints.load(imported, weights=weights), other)
    assert "own" in sg_jax.settings(imported)
    readme = (imported / "README.md").read_text(encoding="utf-8")
    assert "SiT.npz, SHA-256" in readme and "The names are those of sit" in readme
    assert [path.name for path in imported.parent.iterdir()] == ["sit"]  # nothing half-written


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


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "several families: set family to one of dit, sit, tread, repa"),
        (dict(family="maskdit"), "not the weights of family='maskdit'.*names are those of"),
        (dict(family="sit", head=3), "head=3 is not an option"),
        (dict(family="sit", step=3), "step has no effect"),
        (dict(family="sit", weights="model"), "weights='model' has no effect"),
    ],
)
def test_a_published_file_that_does_not_tell_is_a_question(sit, options, text):
    with pytest.raises(UserError, match=text):
        sg_jax.load(sit[0], **options)


def test_published_files_are_loaded(sit, mesh_of):
    same(sg_jax.load(sit[0], family="sit"), sit[1])
    same(sg_jax.load(sit[0], family="sit", mesh=mesh_of(2, 4)), sit[1])


def test_a_run_takes_no_family(imported):
    with pytest.raises(UserError, match="family has no effect"):
        sg_jax.load(imported, family="sit")


@pytest.mark.parametrize(
    ("changes", "options", "text"),
    [
        (dict(model=dict(depth=4)), {}, "config.model.depth=4 is not that of the weights"),
        (dict(model=dict(heads=5)), {}, "heads=5"),
        (dict(model=dict(num_classes=9)), {}, "num_classes=9 does not fit the 6 rows"),
        ({}, dict(family="dot"), "--family=dot must be one of.*Did you mean 'dit'"),
        ({}, {"from": "no.pt"}, "no.pt does not exist"),
        ({}, {"from": "."}, "'.' is neither a file of weights"),
        ({}, {"family": ""}, "SiT.npz: its names are those of several families"),
    ],
)
def test_a_wrong_import_says_why_and_writes_nothing(sit, tmp_path, changes, options, text):
    given = {"from": str(sit[0]), "family": "sit", **options}
    job = Job(str(tmp_path / "run"), options=given, config=parsing.merge(changes))
    with pytest.raises(UserError, match=text):
        import_.run(job)
    assert not list(tmp_path.iterdir())


def test_an_import_that_fails_late_leaves_nothing(sit, tmp_path, monkeypatch):
    def fail(*_, **__):
        assert any(tmp_path.iterdir())
        raise OSError("no space")

    monkeypatch.setattr(imports.record, "write", fail)
    with pytest.raises(OSError, match="no space"):
        imports.make_run(sit[0], tmp_path / "run", parsing.merge({}), family="sit")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_command_left_is_removed(tmp_path):
    left, other = tmp_path / ".run.1f2e.partial", tmp_path / ".another.1f2e.partial"
    for folder in (left, other):
        (folder / "checkpoints").mkdir(parents=True)
        os.utime(folder, (0, 0))
    with files.making(tmp_path / "run") as folder:
        (folder / "a").touch()
        assert not (tmp_path / "run").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [other.name, "run"]
    os.utime(other, (0, 0))
    with files.making(tmp_path / "another"):  # somebody else fills it at the same time
        (running,) = tmp_path.glob(".another.*.partial")
        os.utime(running, (0, 0))
        with pytest.raises(KeyError), files.making(tmp_path / "another"):
            raise KeyError
        assert running.exists()


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


def test_settings_that_need_routes_leave_none_to_a_network_without():
    config = parsing.merge(dict(evaluate=dict(guidance=("sg", "ag_sg"))))
    imports._without_sparsity(config, ())
    assert config.evaluate.guidance == ("unguided",) and config.sample.guidance != "sg"


def test_a_folder_that_is_there_is_not_written(imported, sit):
    with pytest.raises(UserError, match="already exists"):
        import_.run(Job(str(imported), options={"from": str(sit[0]), "family": "sit"},
                        config=parsing.merge({})))  # fmt: skip


def fresh(**sizes):
    return random_weights.network(lambda rngs: DiT(**{**SIZES, **sizes}, rngs=rngs), seed=1)


@pytest.mark.parametrize("source", ["file", "run"])
def test_training_starts_from_weights_with_other_classes_and_routes(
    source, sit, imported, mesh_of, capsys
):
    start = sit[0] if source == "file" else imported
    model = fresh(learn_sigma=True, num_classes=7, routes=((0, 0), (2, 2)), image_size=16)
    starts.check(start, jax.eval_shape(lambda: model))
    found, wanted = named(starts.load(start, model, mesh_of(1, 1))), named(model)
    given = convert.from_state_dict(dict(np.load(sit[0])), "sit", routes=((0, 0), (2, 2)))
    for name, array in named(given).items():
        if name != "label_embedding":
            np.testing.assert_array_equal(found[name], array)
    np.testing.assert_array_equal(found["label_embedding"][:7], wanted["label_embedding"][:7])
    np.testing.assert_array_equal(found["label_embedding"][7], named(sit[1])["label_embedding"][5])
    said = capsys.readouterr().out
    assert "5 classes and the run has 7, so the label table has 7 new rows" in said
    assert source == "run" or "read as weights of family sit" in said


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        (dict(width=48), r"width 32, which do not fit config.model.width=48"),
        (dict(depth=2), "depth 3, which do not fit"),
        (dict(prediction="noise", learn_sigma=True), None),
        (dict(prediction="edm", learn_sigma=True), None),
        (dict(learn_sigma=True, patch=4), "patch 2"),
    ],
)
def test_weights_that_do_not_fit_are_no_start(sizes, text, sit):
    model = fresh(**{"learn_sigma": True, **sizes})
    if text is None:  # the names are those of DiT and TREAD too
        starts.check(sit[0], model)
        return
    with pytest.raises(UserError, match=text):
        starts.check(sit[0], model)


def test_networks_of_another_prediction_are_no_start(imported, tmp_path):
    with pytest.raises(UserError, match=r"prediction 'velocity'.*config.model.prediction='edm'"):
        starts.check(imported, fresh(learn_sigma=True, prediction="edm"))
    noise = make(prediction="noise", learn_sigma=True, time_endpoint=True)
    np.savez(tmp_path / "dit.npz", **convert.to_state_dict(noise, "diffusers_dit"))
    starts.check(tmp_path / "dit.npz", noise)
    with pytest.raises(UserError, match=r"prediction 'noise'.*config.model.prediction='velocity'"):
        starts.check(tmp_path / "dit.npz", fresh(learn_sigma=True))


def test_what_published_code_reads_otherwise_is_said(imported, capsys):
    exported(imported, "as_tread.npz", family="tread")
    said = capsys.readouterr().out
    assert "returns 'velocity', but the published code of family='tread' expects" in said
    exported(imported, "as_sit.npz", family="sit")
    assert "published code" not in capsys.readouterr().out


def test_a_folder_of_diffusers_is_weights_and_a_run_is_not(imported, tmp_path):
    assert not networks.is_weights(imported) and not networks.is_weights(tmp_path)
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "X"}')
    assert networks.is_weights(tmp_path)
