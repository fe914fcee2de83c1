"""What a run's own config may point to."""

import pathlib

import pytest

from sg_jax.config import exported, parsing, trust
from sg_jax.data import prepare
from sg_jax.errors import UserError


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with a link out of it; its user's home is beside it."""
    (tmp_path / "run" / "inner").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "home")
    (tmp_path / "alias").symlink_to(tmp_path / "run")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


INSIDE = ("run/f.npz", "run/inner/../f.npz", "./run/new/f.npz", "alias/f.npz", "run")
OUTSIDE = ("f.npz", "run/../f.npz", "~/f.npz", "run/link/f.npz", "/tmp/f.npz", "running/f.npz")


@pytest.mark.parametrize("workdir", ["run", "alias", "./run/", "run/inner/.."])
def test_a_path_is_followed_to_its_end(run, workdir):
    assert all(trust.inside(path, workdir) for path in INSIDE)
    assert not any(trust.inside(path, workdir) for path in OUTSIDE)
    assert trust.inside(run / "f.npz", workdir)


def test_buckets_have_no_links():
    assert trust.inside("gs://b/run/f.npz", "gs://b/run")
    for path in ("gs://b/runs/f.npz", "gs://b/run/../f.npz", "gs://other/run/f.npz", "run/f.npz"):
        assert not trust.inside(path, "gs://b/run")
    assert not trust.inside("gs://b/run/f.npz", "run")


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize(
    "key",
    ["features.path", "train.init_from", *trust.READ, "guidance.ag.weak_workdir"],
)
def test_a_path_out_of_the_run_is_used_only_if_the_command_says_it(run, key, path):
    section, name = key.rsplit(".", 1)
    values = {name: path}
    for part in reversed(section.split(".")):
        values = {part: values}
    config = parsing.merge(values)
    with pytest.raises(UserError) as raised:
        trust.check(config, "run", [key], ())
    assert f"config.{key}={path!r}" in str(raised.value) and f"--config.{key}=" in str(raised.value)
    trust.check(config, "run", [key], {key})
    trust.check(config, "run", ["features.path"] if key != "features.path" else [], ())
    trust.check(config, "/", [key], ())


@pytest.mark.parametrize("name", ["/photos", "wds:/photos"])
def test_images_that_are_named_by_their_path_may_lie_anywhere(run, name):
    config = parsing.merge(dict(data=dict(name=name, data_dir="/elsewhere")))
    trust.check(config, "run", [trust.DATA], ())


def test_a_prepared_data_set_may_lie_anywhere(run, monkeypatch):
    asked = []
    monkeypatch.setattr(prepare, "_find", lambda *args: asked.append(args) or "a builder")
    config = parsing.merge(dict(data=dict(data_dir="~/data")))
    trust.check(config, "run", [trust.DATA], ())
    assert asked == [("digits", pathlib.Path("~/data").expanduser())]
    trust.check(parsing.merge({}), "run", [trust.DATA, "guidance.none.weak_workdir"], ())


TRACKED = dict(name="wandb", project="theirs", entity="them")


def test_nothing_is_sent_to_a_tracker_that_only_the_run_names(run):
    config = parsing.merge(dict(track=TRACKED))
    with pytest.raises(UserError) as raised:
        trust.check(config, "run", [trust.TRACK], {"track.project"})
    assert "track.name='wandb' would send" in str(raised.value)
    assert "--config.track.name=wandb --config.track.entity=them." in str(raised.value)
    trust.check(config, "run", [trust.TRACK], trust.SENT_TO)
    trust.check(config, "run", ["features.path"], ())
    trust.check(parsing.merge(dict(track={**TRACKED, "name": ""})), "run", [trust.TRACK], ())


def test_an_exported_run_names_no_tracker():
    found = exported.portable(parsing.merge(dict(track=TRACKED)))
    assert found.track.name == found.track.entity == ""


@pytest.mark.parametrize(
    ("encoder", "kept"), [("/home/me/qwen", "qwen"), ("./qwen", "qwen"), ("a/b", "a/b")]
)
def test_an_exported_run_names_no_folder_of_a_text_encoder(encoder, kept):
    assert exported.portable(parsing.merge(dict(text=dict(encoder=encoder)))).text.encoder == kept


def test_the_keys_of_a_command_line():
    given = ["--config.train.steps", "5", "--config.features.path=~/x=y.npz", "--mode=sample"]
    assert parsing.keys_of(given) == {"train.steps", "features.path"}


@pytest.mark.parametrize("name", trust.FOLDERS)
def test_a_folder_that_is_a_link_out_of_the_run_is_named(run, name):
    folder = run / name
    folder.parent.mkdir(exist_ok=True)
    trust.check_links(str(run))
    folder.symlink_to(run / "inner")
    trust.check_links(str(run))
    folder.unlink()
    folder.symlink_to(run.parent / "home")
    with pytest.raises(UserError, match=rf"{name} is a link to .*home, outside the run"):
        trust.check_links(str(run))
