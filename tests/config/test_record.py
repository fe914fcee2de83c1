"""A run keeps its settings, and what is exported of them names nothing outside of it."""

import pathlib

import pytest

from sg_jax.config import exported, geometry, parsing, record, tree
from sg_jax.errors import UserError

GUIDED = ("evaluate", "diversity", "compose", "control")
OTHER = dict(weak_workdir="/home/me/runs/small", scale=2.0)


def merged(**given):
    """Return a config with two settings that need another run."""
    return parsing.merge(dict(guidance=dict(theirs=OTHER, more=OTHER), **given))


def test_settings_of_other_runs_are_replaced_and_leave_the_candidates():
    sections = {name: dict(guidance=("theirs", "more")) for name in GUIDED}
    tune = dict(
        methods=("sg", "mine", "cfg"),
        candidates=(("sg", ("theirs", "sg", "...")), ("mine", ("more",)), ("cfg", ("more",))),
    )
    config = merged(tune=tune, sample=dict(guidance="theirs"), **sections)
    config = parsing.merge(exported.portable(config).to_dict())
    tree.check(config)
    assert {config[name].guidance for name in GUIDED} == {("unguided",)}
    assert config.sample.guidance == "unguided" and not {"theirs", "more"} & {*config.guidance}
    assert config.tune.candidates == (("sg", ("sg", "...")),)
    assert config.tune.methods == ("sg", "cfg")


def test_the_settings_that_remain_are_kept():
    config = exported.portable(merged(evaluate=dict(guidance=("cfg", "theirs"))))
    assert config.evaluate.guidance == ("cfg",)
    assert config.compose.guidance == parsing.merge({}).compose.guidance


@pytest.mark.parametrize("other", [dict(weak_step=0.33), dict(weak_weights="raw")])
def test_an_export_does_not_draw_by_default_with_weights_that_it_lacks(other):
    """The presets "ag" and "sg_fid" stay, since a start from the export may use them."""
    drawn = ("ag", "mine", "sg")
    given = dict(guidance=dict(mine=other), tune=dict(candidates=(("mine", ("mine", "sg")),)))
    config = parsing.merge(dict(evaluate=dict(guidance=drawn), sample=dict(guidance="ag"), **given))
    found = parsing.merge(exported.portable(config).to_dict())
    assert found.evaluate.guidance == ("sg",) and found.sample.guidance == "unguided"
    assert {"ag", "mine"} <= {*found.guidance} and found.tune.candidates == (("mine", ("sg",)),)


@pytest.mark.parametrize("path", ["/home/me/it", "./it", "~/it", "gs://mine/it"])
def test_no_path_is_kept(path):
    keys = {
        "data": ["name", "data_dir", "classes"],
        "train": ["init_from"],
        "features": ["path"],
        "evaluate": ["images", "reference", "inception", "dinov2"],
        "compose": ["prompts", "clip"],
        "control": ["pairs"],
        "tune": ["winners"],
        "text": ["encoder"],
        "autoencoder": ["path"],
    }
    given = {section: dict.fromkeys(names, path) for section, names in keys.items()}
    found = record.flat(exported.portable(merged(**given)))
    left = {key: value for key, value in found.items() if value == "it"}
    assert left.keys() == {"text.encoder", "autoencoder.path"}
    assert not [key for key, value in found.items() if path in str(value)]


def test_what_belongs_to_the_run_or_its_devices_is_not_kept():
    own = dict(sample=dict(checkpoint=2), evaluate=dict(step=-1), mesh=dict(fsdp=4096))
    config = exported.portable(merged(**own))
    assert config.sample.checkpoint == config.evaluate.step == 0 and config.mesh.fsdp == 1


@pytest.mark.parametrize("name", ["hf:/home/me/it", "wds:/home/me/it@2,./b", "photos.zip"])
def test_no_path_of_images_is_kept(name):
    config = exported.portable(merged(data=dict(name=name), evaluate=dict(images=name)))
    assert config.data.name == config.evaluate.images == ""


def test_a_saved_data_set_is_a_path_whatever_it_is_called(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert record.is_path("hf:photos") and not record.is_path("hf:others")
    assert exported.portable(merged(data=dict(name="hf:photos"))).data.name == ""
    (tmp_path / "run").mkdir()
    record.write("run", merged(data=dict(name="hf:photos")), ["cat"], {"images": "1"})
    pathlib.Path("photos").rename("moved")
    moved = merged(data=dict(name="hf:moved"))
    record.check_same(moved, "run", "continued")
    with pytest.raises(
        UserError, match=r"'hf:moved' is not the .*other images. Set config.data.na"
    ):
        record.check_data("run", moved, ["cat"], {"images": "2"})
    with pytest.raises(UserError, match=r"data\.name='hf:others' differs from"):
        record.check_same(merged(data=dict(name="hf:others")), "run", "continued")


def test_other_names_of_classes_may_come_from_a_file(tmp_path):
    record.write(tmp_path, merged(data=dict(name="./photos")), ["a cat"], {})
    for name, also in {
        "./photos": ", config.data.classes to the file of its",
        "mnist": ", or",
    }.items():
        with pytest.raises(UserError, match=rf"class 0 is 'cat' instead of .* to that data{also}"):
            record.check_data(str(tmp_path), merged(data=dict(name=name)), ["cat"], {})


@pytest.mark.parametrize("name", ["mnist", "mnist/small:1.0.0", "hf:some/images"])
def test_names_and_hub_ids_are_kept(name):
    hub = "some/network"
    config = merged(
        data=dict(name=name),
        evaluate=dict(images=name),
        compose=dict(clip=hub),
        text=dict(encoder=hub),
        autoencoder=dict(path=hub),
    )
    found = exported.portable(config)
    assert found.data.name == found.evaluate.images == name
    assert found.compose.clip == found.text.encoder == found.autoencoder.path == hub


def test_a_distilled_run_keeps_the_setting_that_it_learns(tmp_path):
    def of(**guidance):
        given = parsing.merge(
            dict(objective=dict(distill="sg"), guidance=guidance, model=dict(size="S/2"))
        )
        return geometry.complete(given, (8, 8, 1), 10)

    record.write(tmp_path, of(), (), {})
    for when in ("continued", "scored", "sampled"):
        record.check_same(of(cfg=dict(scale=9.0)), str(tmp_path), when)
        record.check_same(of(), str(tmp_path), when)
    other = of(sg=dict(scale=9.0))
    record.check_same(other, str(tmp_path), "scored")
    with pytest.raises(UserError, match=r"config\.guidance\.sg\.scale=9\.0 differs from"):
        record.check_same(other, str(tmp_path), "continued")
