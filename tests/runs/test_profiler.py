"""Tracing steps of a run: what is in the trace, and that the run is the same."""

import pathlib

import jax
import pytest

from sg_jax.config import experiment, geometry, parsing
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError
from sg_jax.modes import train
from sg_jax.runs.profiler import Profiler
from sg_jax.runs.records import read_metrics


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a function that trains a tiny network for 8 steps in a folder."""
    data_dir = str(tmp_path_factory.mktemp("tfds"))
    source = open_source("digits", "train", data_dir)

    def call(folder, **profile):
        given = parsing.merge(
            dict(
                data=dict(data_dir=data_dir),
                model=dict(depth=2, width=8, heads=2, patch=4),
                objective=dict(gamma=0.0),
                train=dict(steps=8, batch_size=8, log_every=2),
                sample=dict(batch_size=8),
                profile=profile,
            )
        )
        completed = geometry.complete(given, source.image_shape, source.num_classes)
        train.train(experiment.build(completed), source, str(folder))
        return read_metrics(folder)

    return call


def _steps(folder):
    """Return the numbers of the training steps in the one trace under `folder`."""
    (path,) = folder.glob("profile/**/*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    events = (event for plane in planes for line in plane.lines for event in line.events)
    return sorted(dict(event.stats)["step_num"] for event in events if event.name == "train")


@pytest.mark.slow
def test_a_trace_holds_its_steps_and_changes_no_loss(run, tmp_path, capsys):
    traced = run(tmp_path / "traced", start=3, steps=4)
    assert _steps(tmp_path / "traced") == [3, 4, 5, 6]
    assert f"Trace of steps 3 to 6 in {tmp_path / 'traced' / 'profile'}" in capsys.readouterr().out
    plain = run(tmp_path / "plain")
    assert not (tmp_path / "plain" / "profile").exists()
    assert [r["loss"] for r in traced] == [r["loss"] for r in plain]
    # What was traced is in no rate: records of steps 2, 4, 6, 8.
    assert ["steps_per_second" in r for r in traced] == [True, False, False, True]
    assert all("steps_per_second" in r for r in plain)


@pytest.mark.slow
def test_a_trace_that_is_cut_short_is_written(tmp_path):
    profiler = Profiler(1, 5, str(tmp_path), resumed=0)
    for step in (1, 2):
        profiler.before(step)
        assert profiler.after(step, jax.numpy.ones(3))
    profiler.close(2)
    assert _steps(tmp_path) == [1, 2]
    with jax.profiler.trace(tmp_path / "another"):  # none is running
        pass


@pytest.mark.slow
def test_a_trace_that_is_open_when_steps_are_made_again_is_dropped(tmp_path):
    for resumed in (0, 1):  # as after a rollback
        profiler = Profiler(2, 5, str(tmp_path), resumed=resumed)
        for step in (2, 3):
            profiler.before(step)
            assert profiler.after(step, jax.numpy.ones(3))
        profiler.before(4)
        profiler.stop()
        profiler.stop()
    with jax.profiler.trace(tmp_path / "another"):  # none is running
        pass


@pytest.mark.slow
def test_a_trace_of_a_run_in_a_bucket_is_copied_there(bucket, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    profiler = Profiler(1, 1, "gs://b/run", resumed=0)
    profiler.before(1)
    assert profiler.after(1, jax.numpy.ones(3))
    assert _steps(bucket / "b" / "run") == [1]
    assert not list((tmp_path / "scratch").iterdir())
    Profiler(1, 1, "gs://b/run", resumed=6)  # it was traced before


def test_processes_of_one_host_write_a_trace_each(tmp_path, monkeypatch):
    def start_trace(folder):  # jax names the file after the host
        (pathlib.Path(folder) / "host.xplane.pb").write_text(str(jax.process_index()))

    monkeypatch.setattr(jax.profiler, "start_trace", start_trace)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: None)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        profiler = Profiler(1, 1, str(tmp_path), resumed=0)
        profiler.before(1)
        assert profiler.after(1, jax.numpy.ones(3))
    found = {path.name: path.read_text() for path in (tmp_path / "profile").iterdir()}
    assert found == {f"process{n}_host.xplane.pb": str(n) for n in range(2)}


def test_zero_is_off(tmp_path):
    profiler = Profiler(0, 5, str(tmp_path), resumed=0)
    for step in (1, 2):
        profiler.before(step)
        assert not profiler.after(step, None)
    profiler.close(2)
    assert not list(tmp_path.iterdir())


def test_a_step_that_is_over_is_not_traced(tmp_path, capsys):
    """The same command may continue a run that was killed before its trace was written."""
    profiler = Profiler(4, 5, str(tmp_path), resumed=4)
    profiler.before(5)
    assert not profiler.after(5, None) and not list(tmp_path.iterdir())
    assert "To trace it, set config.profile.start=5." in capsys.readouterr().out
    Profiler(5, 5, str(tmp_path), resumed=4)
    assert not capsys.readouterr().out


def test_a_command_that_goes_back_past_a_trace_goes_on(tmp_path, capsys):
    profiler = Profiler(4, 5, str(tmp_path), resumed=6, again=True)  # in a bucket, say
    profiler.before(7)
    assert not profiler.after(7, None)
    assert "Step 4 is not traced, because the run goes on from step 6." in capsys.readouterr().out


def test_the_same_command_continues_a_run_that_was_traced(tmp_path, capsys):
    (tmp_path / "profile").mkdir()
    profiler = Profiler(4, 5, str(tmp_path), resumed=6)
    profiler.before(7)
    assert not profiler.after(7, None)
    assert "Step 4 is not traced, because the run goes on from step 6." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (dict(start=5), r"config\.profile\.start=5 and steps=5 .* config\.train\.steps=8"),
        (dict(start=9, steps=1), r"config\.profile\.start=9 and steps=1"),
        (dict(start=-1), r"config\.profile\.start=-1 must be at least 0"),
        (dict(steps=0), r"config\.profile\.steps=0 must be at least 1"),
    ],
)
def test_steps_to_trace_are_checked_before_training(run, tmp_path, profile, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, **profile)
    assert not list(tmp_path.glob("metrics*"))
