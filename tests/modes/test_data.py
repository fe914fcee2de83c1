"""The pipeline's benchmark: what it tries, what it writes, what it advises."""

import itertools
import json
import shutil

import jax
import pytest

from sg_jax.config import experiment, geometry, parsing
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError
from sg_jax.main import main
from sg_jax.modes import data


@pytest.fixture
def quick(monkeypatch):
    """Return the settings that were measured; only two are, and in a fraction of a second."""
    tried = []

    def two(*given):
        tried.extend(itertools.islice(real(*given), 2))
        return tried

    real = data.settings
    monkeypatch.setattr(data, "settings", two)
    monkeypatch.setattr(data, "WINDOW", 0.02)
    monkeypatch.setattr(data, "WARM_UP", 0.02)
    return tried


def _row(workers, rate):
    times = rate / 100
    return dict(workers=workers, threads=1, images_per_second=rate, times_consumption=times)


def _command(digits_dir, *arguments):
    given = ("--config", "configs/digits.py", "--mode", "data", "--config.sample.batch_size=96")
    fast = (f"--config.data.data_dir={digits_dir}", "--config.bench.repeats=3")
    main(["main", *given, *fast, *arguments])


def test_the_configured_setting_comes_first_then_powers_of_two():
    assert data.settings(0, 4, 4) == [(0, 4), (0, 1), (1, 4), (2, 4), (4, 4)]
    assert data.settings(3, 1, 2) == [(3, 1), (0, 1), (1, 1), (2, 1)]
    assert data.settings(0, 4, 300)[-1] == (32, 4)


def test_advice_follows_the_ratios():
    fast = data.advice([_row(0, 300.0), _row(1, 500.0)], latents=False)
    assert "3 x what the step consumes: training does not wait" in fast
    other = data.advice([_row(0, 50.0), _row(4, 210.0)], latents=False)
    assert (
        "0.5 x" in other and "--config.data.workers=4 --config.data.threads=1 gives 2.1 x" in other
    )
    slow = data.advice([_row(0, 50.0), _row(4, 90.0)], latents=False)
    assert "--config.data.workers=4" in slow and "is too slow" in slow and "latents" in slow
    alone = data.advice([_row(0, 50.0), _row(4, 40.0)], latents=True)
    assert "nothing tried is faster" in alone and "image_size" not in alone


def test_a_given_consumption_needs_no_step(digits_dir, tmp_path, quick, capsys):
    _command(digits_dir, "--workdir", str(tmp_path), "--config.bench.images_per_second=128")
    written = json.loads((tmp_path / "data_bench.json").read_text())
    assert written["consumption"] == dict(
        images_per_second=128, steps_per_second=2, measured_on=None
    )
    assert [(row["workers"], row["threads"]) for row in written["pipeline"]] == quick
    for row in written["pipeline"]:
        low, high = row["images_per_second_quartiles"]
        assert 0 < low <= row["images_per_second"] <= high
        assert row["bytes_per_second"] == row["images_per_second"] * 8 * 8 * 4  # float32
        assert row["times_consumption"] == row["images_per_second"] / 128
    assert written["advice"] in capsys.readouterr().out


@pytest.mark.slow
def test_the_step_is_measured_otherwise(digits_dir, quick, capsys):
    given = parsing.merge(
        dict(
            data=dict(data_dir=str(digits_dir)),
            model=dict(depth=2, width=8, heads=2, patch=4),
            objective=dict(gamma=0.0),
            train=dict(batch_size=16),
            bench=dict(repeats=3),
            mesh=dict(data=1),
        )
    )
    source = open_source("digits", "train", str(digits_dir))
    completed = geometry.complete(given, source.image_shape, source.num_classes)
    result = data.measure(experiment.build(completed, jax.devices()[:1]), source)
    need = result["consumption"]
    assert need["measured_on"] == "cpu"
    assert need["images_per_second"] == 16 * need["steps_per_second"] > 0
    assert "steps/s of 16 images at γ 0, measured on" in capsys.readouterr().out


def test_the_fastest_step_of_training_is_what_counts(monkeypatch):
    """Which is the one that keeps the fewest tokens."""
    given = parsing.merge(
        dict(
            model=dict(depth=1, width=8, heads=2, patch=4, routes=((0, 0),)),
            objective=dict(gamma=0.25),
            train=dict(gammas=((5, 0.75), (8, 0.0))),
            mesh=dict(data=1),
        )
    )
    built = experiment.build(geometry.complete(given, (8, 8, 1), 10), jax.devices()[:1])
    timed = []
    monkeypatch.setattr(data, "training", lambda _, rates: timed.extend(rates) or [lambda: None])
    data._consumption(built)
    assert timed == [0.75]


def test_a_negative_consumption_is_an_error(digits_dir):
    with pytest.raises(UserError, match=r"config\.bench\.images_per_second=-1\.0 must be at least"):
        _command(digits_dir, "--config.bench.images_per_second=-1")


def test_every_example_of_a_split_can_be_read(digits_dir, tmp_path, capsys):
    key = "--config.model.routes=((0, 1),)"  # whose value has a space
    _command(digits_dir, "--check", "train[:1100]", "test[:7]", key)
    out = capsys.readouterr().out
    assert "All 1,100 examples of split 'train[:1100]' can be read." in out
    assert "All 7 examples of split 'test[:7]' can be read." in out
    with pytest.raises(UserError, match=r"^--check tset is not a split of 'digits'.*'test'\?"):
        _command(digits_dir, "--check", "train", "tset")
    assert "can be read" not in capsys.readouterr().out  # all are opened before any is read
    shutil.copytree(digits_dir, tmp_path / "a copy")
    (shard,) = (tmp_path / "a copy").glob("digits/1.0.0/*test*")
    data = bytearray(shard.read_bytes())
    for place in (20_000, 60_000):
        data[place] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=rf"2 of the 296 examples .* in {shard}\. The first: "):
        _command(tmp_path / "a copy", "--check", "test")
