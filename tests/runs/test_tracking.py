"""A tracker, played by a module of the test's own: what arrives, and what its failures do."""

import importlib.machinery
import json
import sys
import threading
import types

import numpy as np
import pytest

from sg_jax.errors import SettingError, UserError
from sg_jax.parallel import processes
from sg_jax.runs import tracking
from sg_jax.runs.records import Writer, read_metrics
from sg_jax.runs.tracking import Track, Tracker

PICTURE = np.zeros((2, 2, 3), np.uint8)


class StandIn(types.ModuleType):
    """The part of wandb that is used; `fails` maps a function's name to what it raises."""

    def __init__(self):
        super().__init__("wandb")
        self.began, self.logged, self.ended, self.fails = [], [], [], {}
        self.Image = lambda array: ("picture", array.shape)
        self.Settings = dict

    def _maybe(self, name):
        if name in self.fails:
            raise self.fails[name]

    def init(self, **given):
        self.began.append(given)
        self._maybe("init" if given.get("settings", {}).get("mode") != "offline" else "offline")
        return self

    def log(self, values, step):
        self._maybe("log")
        self.logged.append((step, values))

    def finish(self, **given):
        self.ended.append(given)


@pytest.fixture(params=["wandb"])
def module(request, monkeypatch):
    found = StandIn()
    monkeypatch.setitem(sys.modules, request.param, found)
    return found


def tracker(folder, name="wandb", **changes):
    return Tracker(Track(name=name, **changes), str(folder), {"seed": 3})


def test_numbers_and_pictures_arrive_in_order(module, tmp_path):
    with tracker(tmp_path, project="digits", entity="us") as found:
        writer = Writer(str(tmp_path), 0, found)
        writer.image(2, "samples", PICTURE)
        writer.scalars(2, {"loss": 0.5, "off": float("nan")})
        writer.close()
        assert found.active
    assert module.logged == [(2, {"samples": ("picture", (2, 2, 3))}), (2, {"loss": 0.5})]
    assert module.ended == [{"exit_code": 0}]
    (given,) = module.began
    named = {key: given[key] for key in ("project", "entity", "name", "resume", "config", "dir")}
    assert named == dict(
        project="digits", entity="us", name=tmp_path.name, resume="allow", config={"seed": 3},
        dir=str(tmp_path),
    )  # fmt: skip
    assert given["settings"]["console"] == "off"


def test_a_continued_run_goes_on_there(module, tmp_path):
    for _ in range(2):
        tracker(tmp_path, project="a", run="mine").close()
    tracker(tmp_path, project="b").close()
    first, second, other = (given["id"] for given in module.began)
    assert first == second != other
    assert module.began[0]["name"] == "mine"


@pytest.mark.parametrize("content", ["", "[1]", '{"id": "../../x", "name": "wandb"}', "{" * 9999])
def test_a_damaged_file_begins_a_new_run_there(module, tmp_path, content):
    (tmp_path / "track.json").write_text(content)
    tracker(tmp_path).close()
    identity = module.began[0]["id"]
    assert tracking.ID.fullmatch(identity)
    stored = json.loads((tmp_path / "track.json").read_text())
    assert stored == {"name": "wandb", "project": "sg_jax", "id": identity}


@pytest.mark.parametrize("module", ["trackio"], indirect=True)
def test_trackio_knows_a_run_by_a_name_of_its_own(module, tmp_path):
    with tracker(tmp_path, "trackio", run="digits") as found:
        found.scalars(1, {"loss": 1.0})
    identity = json.loads((tmp_path / "track.json").read_text())["id"]
    assert module.began == [
        dict(project="sg_jax", name=f"digits-{identity}", resume="allow", config={"seed": 3})
    ]
    assert module.logged == [(1, {"loss": 1.0})] and module.ended == [{}]
    with pytest.raises(SettingError, match=r"entity='us' has no effect: trackio has none"):
        Track(name="trackio", entity="us")


@pytest.mark.parametrize(
    "error, code", [(UserError("x"), 1), (SystemExit("x"), 0), (KeyboardInterrupt(), 0)]
)
def test_however_a_training_ends_its_run_there_ends(module, tmp_path, error, code):
    with pytest.raises(type(error)):
        with tracker(tmp_path):
            raise error
    assert module.ended == [{"exit_code": code}]


@pytest.mark.parametrize("where", ["init", "log"])
@pytest.mark.parametrize("error", [OSError(28, "No space left"), SystemExit(1), RuntimeError("x")])
def test_a_tracker_that_fails_is_told_of_once(module, tmp_path, capsys, where, error):
    module.fails = {where: error, "offline": error}
    with tracker(tmp_path) as found:
        writer = Writer(str(tmp_path), 0, found)
        for step in range(1, 9):
            writer.scalars(step, {"loss": 1.0})
            writer.image(step, "samples", PICTURE)
        writer.close()
    assert capsys.readouterr().out.count("The tracker wandb") == 1
    assert [r["step"] for r in read_metrics(str(tmp_path))] == list(range(1, 9))
    assert not module.logged


def test_without_its_server_wandb_keeps_the_run_on_the_disk(module, tmp_path, capsys):
    module.fails = {"init": OSError("no route")}
    with tracker(tmp_path) as found:
        found.scalars(1, {"loss": 1.0})
    assert [given["settings"].get("mode") for given in module.began] == [None, "offline"]
    assert module.logged == [(1, {"loss": 1.0})]
    assert "cannot be reached (OSError: no route), so it keeps" in capsys.readouterr().out


def test_a_tracker_that_hangs_delays_nothing(module, tmp_path, monkeypatch, capsys):
    waits = threading.Event()
    module.log = lambda *_, **__: waits.wait(30)
    monkeypatch.setattr(tracking, "LAST", 0.05)
    monkeypatch.setattr(tracking, "MOST", 3)
    with tracker(tmp_path) as found:
        for step in range(100):
            found.scalars(step, {"loss": 1.0})
    waits.set()
    printed = capsys.readouterr().out
    assert printed.count("cannot keep up") == 1
    assert printed.count("has not sent everything 0 s after the end") == 1
    found.scalars(101, {"loss": 1.0})  # after the end: nothing
    assert not found.active


def test_only_the_process_that_writes_sends(module, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "is_writer", lambda: False)
    with tracker(tmp_path) as found:
        found.scalars(1, {"loss": 1.0})
    assert not module.began and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_missing_package_is_one_sentence(monkeypatch, tmp_path, name):
    monkeypatch.setattr(sys, "meta_path", [importlib.machinery.PathFinder])
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for folder in (None, tmp_path / name):  # wandb itself makes such a folder
        if folder is not None:
            folder.mkdir()
        with pytest.raises(UserError, match=rf"name='{name}' needs .*: `pip install {name}`"):
            _check(monkeypatch, name)
    (tmp_path / name / "__init__.py").write_text("1 / 0")
    with pytest.raises(UserError, match=r"cannot be imported \(ZeroDivisionError"):
        _check(monkeypatch, name)
    tracking.check(Track())


def _check(monkeypatch, name):
    monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    tracking.check(Track(name=name))
