"""The grid: what is drawn, what is compiled, and what a second call finds."""

import types

import numpy as np
import pytest
from tiny_networks import Pixels

from sg_jax.config import record, tree
from sg_jax.config.sections import Evaluate, Sample, Sweep, Train
from sg_jax.errors import UserError
from sg_jax.evaluation import scored, scoring, table
from sg_jax.evaluation.found import FeatureSet
from sg_jax.evaluation.real import View
from sg_jax.method.guidance import Guidance
from sg_jax.method.objective import FlowMatching
from sg_jax.method.sampler import Sampler
from sg_jax.modes import sweep
from sg_jax.programs import integration, sampling
from sg_jax.weights import checkpoints

GRID = dict(
    gamma_strong=(0.0, 0.25), gamma_weak=(0.25, 0.75), scale=(1.5, 2.0), weak_label="same",
    samples=12,
)  # fmt: skip


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
        return sampling.sample_batches(model, labels, guidance, **kwargs)

    real = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    found = FeatureSet(Pixels().score(real)[0], np.zeros(40, int))
    judge = scoring.Judge({"classifier": View(Pixels(), found, found)})
    monkeypatch.setattr(scored, "sample_batches", sample)
    monkeypatch.setattr(checkpoints, "load", lambda *args, **kwargs: tiny)
    monkeypatch.setattr(scoring, "open_judge", lambda *args: judge)

    def run(sampler=None, **changes):
        drawn.clear()
        grid = Sweep(**{**GRID, **changes})
        config = types.SimpleNamespace(
            seed=0,
            objective=FlowMatching(),
            train=Train(),
            evaluate=Evaluate(),
            sample=Sample(steps=2, batch_size=8),
            sweep=grid,
        )
        mesh, sampler = mesh_of(1, 1), Sampler(**(sampler or {}))
        sampling = dict(steps=2, seed=0, batch_size=8, mesh=mesh, sampler=sampler)
        experiment = types.SimpleNamespace(
            image_shape=(8, 8, 3),
            autoencoder=None,
            config=config,
            mesh=mesh,
            sampler=sampler,
            sampling=sampling,
            captions=None,
            asked=tiny.conditioning.in_turn,
            model=tiny,
        )
        return sweep.sweep(experiment, None, str(workdir)), list(drawn)

    return run


@pytest.mark.slow
def test_a_sweep_is_drawn_compiled_and_kept_once(sweep_of, workdir):
    before = integration.integrate._cache_size()
    paths, drawn = sweep_of()
    # 2 x 2 x 2 cells; (0.25, 0.25) guides nowhere, so both its scales are one drawing.
    assert len(drawn) == 7
    # Pairs (0, .25), (0, .75), (.25, .25), (.25, .75).
    assert integration.integrate._cache_size() == before + 4
    assert [p.name for p in paths] == [
        "scores.csv", "sweep_frechet.png", "sweep_kid.png", "sweep_mind.png",
        "sweep_precision.png", "sweep_recall.png", "sweep_accuracy.png", "sweep_cost.png",
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
        clock = "images_per_second"  # the only number that depends on it
        assert {**again[key], clock: measured[clock]} == measured

    # More of the grid draws what is new; with omega 1 nothing guides.
    assert len(sweep_of(scale=(1.0, 1.5, 2.0))[1]) == 1  # gamma 0 alone; 0.25 alone is there
    # Rows of other checkpoints and settings stay, and are not taken for this one's.
    (workdir / "checkpoints" / "9").mkdir()
    assert len(sweep_of(gamma_weak=(0.25,), scale=(2.0,))[1]) == 2
    assert len(sweep_of(dict(shift=2.0), gamma_weak=(0.25,), scale=(2.0,))[1]) == 2
    rows = table.read(workdir)
    assert {key.checkpoint for key in rows} == {7, 9}
    assert {key.sampler for key in rows} == {"euler", "euler shift=2.0"}


def test_a_sweep_ends_with_the_winner_of_each_metric():
    plain, sparse, strong = Guidance(), Guidance(1.5, 0.0, 0.75), Guidance(3.0, 0.0, 0.75)
    found = {
        plain: dict(frechet=3.0, precision=0.5, recall=0.9, accuracy=0.5, gflops_per_step=1.0),
        sparse: dict(frechet=1.0, precision=0.6, recall=0.8, accuracy=0.6, gflops_per_step=1.5),
        strong: dict(frechet=2.0, precision=0.7, recall=0.7, accuracy=None, gflops_per_step=1.5),
    }
    lines = sweep.summary(found, 100).splitlines()
    assert lines[0] == "Best of 3 settings:"
    rows = {line.split("  ")[0]: line for line in lines[4:]}
    assert set(rows) == {"best: Fréchet, Accuracy", "best: Precision", "best: Recall"}
    assert "1.000*" in rows["best: Fréchet, Accuracy"] and "0.700*" in rows["best: Precision"]
    assert rows["best: Recall"].endswith(plain.describe())
    del found[plain]["recall"]  # then it wins nothing, and is there to compare with
    assert sweep.summary(found, 100).splitlines()[-1].startswith("unguided ")


def test_cells_are_ranked_by_a_metric_that_all_have(monkeypatch, tmp_path):
    """An earlier command measured the Fréchet distance of one of them too."""
    grid = Sweep(gamma_strong=(0.0,), gamma_weak=(0.5,), scale=(1.5, 2.0))
    first, second = sweep.cells(grid)
    found = {
        first: dict(frechet=1.0, kid=0.03, gflops_per_step=0.1),
        second: dict(kid=0.02, gflops_per_step=0.1),
    }
    drawn = []
    monkeypatch.setattr(sweep.heatmaps, "heatmaps", lambda *_: None)
    monkeypatch.setattr(sweep.figures, "front", lambda *given: drawn.append(given))
    monkeypatch.setattr(sweep.style, "save", lambda figure, path: path)
    config = types.SimpleNamespace(sweep=grid)
    paths = sweep._draw(types.SimpleNamespace(config=config), found, tmp_path)
    assert [path.name for path in paths] == ["sweep_kid.png", "sweep_cost.png"]
    ((spots, _, quality, _),) = drawn
    assert [spot.quality for spot in spots] == [0.03, 0.02] and quality.name == "kid"


def test_a_grid_has_every_cell_and_omega_innermost():
    grid = sweep.cells(Sweep(gamma_strong=(0, 0.5), gamma_weak=(0.75,), scale=(1.5, 2)))
    assert [(g.gamma_strong, g.gamma_weak, g.scale) for g in grid] == [
        (0.0, 0.75, 1.5), (0.0, 0.75, 2.0), (0.5, 0.75, 1.5), (0.5, 0.75, 2.0),
    ]  # fmt: skip


def test_a_run_without_checkpoint_is_named(tmp_path):
    record.write(tmp_path, tree.defaults(), (), {})
    with pytest.raises(UserError, match="has no checkpoint"):
        checkpoints.saved_steps(str(tmp_path))
