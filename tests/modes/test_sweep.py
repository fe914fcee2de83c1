"""The grid: what is drawn, what is compiled, and what a second call finds."""

import dataclasses
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from sg_jax.errors import UserError
from sg_jax.evaluation import measure, scoring, table
from sg_jax.method.guidance import Guidance
from sg_jax.method.sampler import Sampler
from sg_jax.modes import sweep
from sg_jax.programs import sampling
from sg_jax.weights import checkpoints

GRID = dict(
    gamma_strong=(0.0, 0.25), gamma_weak=(0.25, 0.75), scale=(1.5, 2.0), weak_label="same",
    samples=12,
)  # fmt: skip


class Pixels:
    """A feature network of the first pixels, which takes no training."""

    digest = "0badcafe"

    def score(self, images):
        flat = images.reshape(len(images), -1) / 255.0
        return flat[:, :6], flat[:, :5]


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def sweep_of(workdir, tiny, mesh_of, monkeypatch):
    """Changes to GRID -> (paths, guidances that were drawn)."""
    drawn = []

    def sample(model, labels, guidance, **kwargs):
        if len(labels) == GRID["samples"]:  # else it only compiles
            drawn.append(guidance)
        return sampling.sample(model, labels, guidance, **kwargs)

    real = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    scorer = Pixels()
    judge = scoring.Judge(scorer, scorer.score(real)[0], np.zeros(40, int), None)
    monkeypatch.setattr(measure, "sample", sample)
    monkeypatch.setattr(checkpoints, "load", lambda *args, **kwargs: tiny)
    monkeypatch.setattr(scoring, "open_judge", lambda *args: judge)

    def run(sampler=None, **changes):
        drawn.clear()
        config = ConfigDict(
            dict(seed=0, sample=dict(steps=2, batch_size=8), sweep={**GRID, **changes})
        )
        mesh, sampler = mesh_of(1, 1), Sampler(**(sampler or {}))
        sampling = dict(steps=2, seed=0, batch_size=8, mesh=mesh, sampler=sampler)
        experiment = types.SimpleNamespace(
            config=config, mesh=mesh, sampler=sampler, sampling=sampling, model=tiny
        )
        return sweep.run(experiment, None, str(workdir)), list(drawn)

    return run


def test_a_sweep_is_drawn_compiled_and_kept_once(sweep_of, workdir):
    before = sampling.integrate._cache_size()
    paths, drawn = sweep_of()
    # 2 x 2 x 2 cells; (0.25, 0.25) guides nowhere, so both its scales are one drawing.
    assert len(drawn) == 7
    # Pairs (0, .25), (0, .75), (.25, .25), (.25, .75).
    assert sampling.integrate._cache_size() == before + 4
    assert [p.name for p in paths] == [
        "scores.csv", "sweep_frechet.png", "sweep_precision.png", "sweep_recall.png",
        "sweep_accuracy.png", "sweep_cost.png",
    ]  # fmt: skip
    assert all(path.exists() for path in paths)
    rows = table.read(workdir)
    assert len(rows) == 7 and {key.checkpoint for key in rows} == {7}
    assert [k.guidance for k in rows if not k.guidance.guided] == [Guidance(gamma_strong=0.25)]

    # A second call draws nothing and changes nothing.
    whole = paths[0].read_bytes()
    assert sweep_of()[1] == [] and paths[0].read_bytes() == whole

    # Interrupted within the sixth row: that one and the seventh are drawn again, alike.
    lines = whole.decode().splitlines(keepends=True)
    paths[0].write_text("".join(lines[:6]) + lines[6][:30])
    redrawn = sweep_of()[1]
    assert [(g.gamma_strong, g.gamma_weak, g.scale) for g in redrawn] == [
        (0.25, 0.75, 1.5), (0.25, 0.75, 2.0),
    ]  # fmt: skip
    again = table.read(workdir)
    assert list(again) == list(rows)
    for key, measured in rows.items():
        same = dataclasses.replace(
            again[key], images_per_second=measured.images_per_second
        )  # the only number that depends on the clock
        assert same == measured

    # More of the grid draws what is new; with omega 1 nothing guides.
    assert len(sweep_of(scale=(1.0, 1.5, 2.0))[1]) == 1  # gamma 0 alone; 0.25 alone is there
    # Rows of other checkpoints and settings stay, and are not taken for this one's.
    (workdir / "checkpoints" / "9").mkdir()
    assert len(sweep_of(gamma_weak=(0.25,), scale=(2.0,))[1]) == 2
    assert len(sweep_of(dict(shift=2.0), gamma_weak=(0.25,), scale=(2.0,))[1]) == 2
    rows = table.read(workdir)
    assert {key.checkpoint for key in rows} == {7, 9}
    assert {key.sampler for key in rows} == {"euler", "euler shift=2.0"}


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(scale=()), ["config.sweep.scale=()", "one or more"]),
        (dict(gamma_weak=(0.5, 0.5)), ["config.sweep.gamma_weak=(0.5, 0.5)", "twice"]),
        (dict(gamma_strong=("0.5",)), ["config.sweep.gamma_strong=('0.5',)", "numbers"]),
        (dict(scale=(float("nan"),)), ["config.sweep.scale=(nan,)"]),
        (dict(gamma_strong=(0.5, 1.5)), ["config.sweep.gamma_strong=1.5", "[0, 1]"]),
        (dict(scale=(-1.0,)), ["config.sweep.scale=-1.0"]),
        (dict(weak_label="nul"), ["config.sweep.weak_label='nul'", "'null'"]),
        (dict(samples=3), ["config.sweep.samples=3", "at least 10"]),
    ],
)
def test_a_wrong_value_is_named_before_anything_is_drawn(sweep_of, workdir, changes, named):
    with pytest.raises(UserError) as error:
        sweep_of(**changes)
    assert not (workdir / "scores.csv").exists()
    for part in named:
        assert part in str(error.value)


def test_a_run_without_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoints.saved_steps(str(tmp_path))
