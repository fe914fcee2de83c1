"""What --mode import makes, and what `sg_jax.load` reads of published files."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sit_networks import same

import sg_jax
from sg_jax.config import geometry, parsing, record, tree
from sg_jax.errors import UserError
from sg_jax.modes import import_
from sg_jax.modes.base import Job
from sg_jax.weights import checkpoints, convert, described, exports, imports, networks


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


@pytest.fixture(scope="session")
def sources(imported, sit, tmp_path_factory):
    """A run, an exported file with our names and one with SiT's, and a published file."""
    folder, network = tmp_path_factory.mktemp("sources"), checkpoints.load(imported)
    config, _ = record.read(imported)
    ours = exports.write_file(folder / "a.safetensors", network, config)
    theirs = exports.write_file(folder / "a.npz", network, config, "sit")
    return dict(run=(imported, ""), ours=(ours, ""), theirs=(theirs, ""), sit=(sit[0], "sit"))


@pytest.mark.every(12)
@pytest.mark.parametrize("name", ["run", "ours", "theirs", "sit"])
@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, np.dtype(jnp.bfloat16)])
def test_any_network_computes_in_another_type_with_the_same_weights(sources, name, dtype):
    path, family = sources[name]
    before = sg_jax.load(path, family=family)
    loaded = sg_jax.load(path, family=family, dtype=dtype)
    same(loaded, before)
    for network, wanted in ((before, "float32"), (loaded, "bfloat16")):
        mlp = network.blocks.stacks[0].mlp
        assert network.dtype == mlp.hidden.dtype == wanted
    assert loaded.named == before.named
    x, t = jnp.ones((1, 8, 8, 4)), jnp.full(1, 0.5)
    one, other = (np.asarray(n(x, t, jnp.zeros(1, int)), float) for n in (before, loaded))
    assert 0 < np.abs(one - other).max() < 0.05 * np.abs(one).max()


def test_a_run_and_an_exported_file_take_another_attention(sources):
    for name in ("run", "ours", "theirs"):
        network = sg_jax.load(sources[name][0], attention="xla")
        assert network.blocks.stacks[0].attention.implementation == "xla"


@pytest.mark.parametrize("name", ["run", "ours", "sit"])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(dtype="float16"), "dtype='float16' must be one of 'float32', 'bfloat16'"),
        (dict(dtype=jnp.float16), "dtype=.*float16.* must be one of"),
        (dict(dtype=3), "dtype=3 must be one of"),
        (dict(attention="fast"), "attention='fast' must be one of 'auto', 'xla'"),
    ],
)
def test_another_type_is_one_that_networks_compute_in(sources, name, options, text):
    with pytest.raises(UserError, match=text):
        sg_jax.load(sources[name][0], family=sources[name][1], **options)


def test_a_type_besides_a_network_has_no_effect(imported):
    like = checkpoints.abstract_network(imported)
    with pytest.raises(UserError, match="dtype has no effect, because like"):
        sg_jax.load(imported, like=like, dtype="bfloat16")
    with pytest.raises(UserError, match="routes has no effect"):
        sg_jax.load(imported, routes=((1, 1),), dtype="bfloat16")


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


def test_settings_that_need_routes_leave_none_to_a_network_without():
    config = parsing.merge(dict(evaluate=dict(guidance=("sg", "ag_sg"))))
    imports._without_sparsity(config, ())
    assert config.evaluate.guidance == ("unguided",) and config.sample.guidance != "sg"


def test_a_folder_that_is_there_is_not_written(imported, sit):
    with pytest.raises(UserError, match="already exists"):
        import_.run(Job(str(imported), options={"from": str(sit[0]), "family": "sit"},
                        config=parsing.merge({})))  # fmt: skip


def test_a_folder_of_diffusers_is_weights_and_a_run_is_not(imported, tmp_path):
    assert not networks.is_weights(imported) and not networks.is_weights(tmp_path)
    with pytest.raises(UserError, match=r"is a run already: give it as --workdir"):
        imports.make_run(imported, tmp_path / "new", parsing.merge({}))
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "X"}')
    assert networks.is_weights(tmp_path)


SIZES = dict(image_size=8, channels=3, patch=4, width=16, depth=2, heads=2)
OWN = dict(
    data=dict(name="shapes"),
    text=dict(length=24, words=6),
    autoencoder=dict(path="owner/vae", scale=0.5, shift=0.25),
    sample=dict(steps=3, guidance="own"),
    train=dict(batch_size=8, ema_decays=(0.9,)),
    mesh=dict(fsdp=4096),
    guidance=dict(sg=dict(scale=1.23), own=dict(scale=3.0, weak_label="null")),
)


def file_of(path, change=None, **sections):
    """Write a file like those that --mode export writes, its description changed by `change`."""
    model = dict(kind="text_dit", **SIZES)
    config = geometry.fill_geometry(parsing.merge({**OWN, "model": model, **sections}))
    network = geometry.make_model(tree.check(config).model, jax.random.key(0))
    about = exports.about(network, config, "")
    if change:
        change(about["config"])
    described.write(path, exports.arrays_of(network, "", "float32"), about)
    return path


def make(source, *flags, file=None):
    config = parsing.parse(flags, file, tree.defaults)
    workdir = source.with_name("run")
    given = {"from": str(source), "family": ""}
    import_.run(Job(str(workdir), options=given, config=config, said=parsing.keys_of(flags)))
    return record.read(workdir)[0]


@pytest.mark.every(2)
@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_a_run_of_an_exported_file_has_its_settings(tmp_path, name):
    config = make(file_of(tmp_path / name))
    for section in OWN.keys() - {"mesh", "guidance"}:
        for key, value in OWN[section].items():
            assert config[section][key] == value, (section, key)
    assert config.guidance.sg.scale == 1.23 and config.guidance.own.weak_label == "null"
    assert config.mesh.fsdp == 1
    assert sg_jax.settings(tmp_path / "run") == sg_jax.load(tmp_path / name).named.settings


def test_what_the_command_says_of_an_exported_file_counts(tmp_path):
    (tmp_path / "more.py").write_text(
        "def get_config():\n"
        "    return dict(sample=dict(count=7), guidance=dict(new=dict(scale=4.0)))\n"
    )
    flags = (  # also where it is the default
        "--config.guidance.sg.scale=2.0", "--config.sample.steps=40", "--config.data.name=digits",
        "--config.model.dtype=bfloat16",
    )  # fmt: skip
    config = make(file_of(tmp_path / "a.npz"), *flags, file=str(tmp_path / "more.py"))
    assert (config.guidance.sg.scale, config.sample.steps, config.data.name) == (2.0, 40, "digits")
    assert (config.sample.count, config.guidance.new.scale) == (7, 4.0)
    assert config.model.dtype == "bfloat16" and config.guidance.own.scale == 3.0


@pytest.mark.parametrize(
    ("change", "flags", "text"),
    [
        (dict(length=9), (), "config.text.length=9 is not that of the weights.*set it to 24"),
        ({}, ("--config.text.words=0",), "config.text.words=0 is not that .* have 6: set it to 6"),
        (dict(encoder="a/b", words=0), (), "words=0 is not"),
        ({}, ("--config.model.depth=3",), "config.model.depth=3 is not that of the weights"),
        (dict(length=-1), (), "config.text.length=-1"),
        (dict(widths=3), (), "a.npz: its description is not that .*widths is not a config key"),
    ],
)
def test_an_exported_file_that_does_not_fit_itself_is_refused(tmp_path, change, flags, text):
    path = file_of(tmp_path / "a.npz", lambda config: config["text"].update(change))
    with pytest.raises(UserError, match=text):
        make(path, *flags)
    assert os.listdir(tmp_path) == ["a.npz"]


@pytest.mark.parametrize(
    ("text", "model", "other", "message"),
    [
        (dict(length=5), {}, "a/b", "encoder='a/b' is not that of the weights, which read bytes"),
        (dict(length=5, encoder="a/b"), dict(text_features=8), "bytes", "read 8 features"),
    ],
)
def test_an_encoder_of_other_texts_is_refused(tmp_path, text, model, other, message):
    model = dict(kind="text_dit", **SIZES, **model)
    path = file_of(
        tmp_path / "a.npz", lambda config: config["text"].update(encoder=other),
        model=model, text=text,
    )  # fmt: skip
    with pytest.raises(UserError, match=message):
        make(path)
    assert os.listdir(tmp_path) == ["a.npz"]


def test_a_description_leads_nowhere(tmp_path):
    def change(config):
        config["data"].update(data_dir="/elsewhere", classes="/elsewhere/names.txt")
        config["train"].update(init_from="/elsewhere/run")
        config["track"].update(name="wandb", entity="someone", project="theirs")
        config["evaluate"].update(reference="/elsewhere/real", inception="/elsewhere/net")
        config["autoencoder"].update(path="/elsewhere/vae")
        config["guidance"]["other"] = dict(scale=2.0, weak_workdir="/elsewhere/run")
        config["sample"].update(guidance="other")

    config = make(file_of(tmp_path / "a.npz", change))
    assert "elsewhere" not in (tmp_path / "run" / record.NAME).read_text()
    assert config.track.name == config.track.entity == ""
    assert config.autoencoder.path == "vae" and config.sample.guidance == "unguided"


def test_a_run_of_a_network_without_routes_keeps_settings_that_need_none(tmp_path):
    model = dict(kind="dit", num_classes=3, **SIZES)
    dense = dict(sg=dict(scale=1.5, gamma_weak=0.0, weak_label="null"))
    for number, guidance in enumerate([dense, {}]):
        folder = tmp_path / str(number)
        folder.mkdir()
        sections = dict(model=model, text={}, guidance=guidance, sample=dict(guidance="sg"))
        path = file_of(folder / "a.npz", **sections)
        assert make(path).sample.guidance == ("sg" if guidance else "cfg")


def test_a_model_of_the_hub_is_downloaded_first():
    with pytest.raises(UserError, match=r"train there first\. For a model of .*snapshot_download"):
        sg_jax.load("facebook/DiT-XL-2-256")
