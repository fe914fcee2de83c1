"""What --mode import makes, and what `sg_jax.load` reads of published files."""

import numpy as np
import pytest
from sit_networks import same

import sg_jax
from sg_jax.config import parsing, record
from sg_jax.errors import UserError
from sg_jax.modes import import_
from sg_jax.modes.base import Job
from sg_jax.weights import checkpoints, convert, imports, networks


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
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "X"}')
    assert networks.is_weights(tmp_path)
