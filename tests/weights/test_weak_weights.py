"""Guidance by other weights of the same checkpoint: which they are, and that equal ones do not."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from states import NAMES, TX, completed, make_model

from sg_jax.config import parsing, record
from sg_jax.errors import UserError
from sg_jax.evaluation import measure, table
from sg_jax.method.guidance import Guidance
from sg_jax.modes import grids
from sg_jax.programs.sampling import sample
from sg_jax.programs.training import start_state
from sg_jax.weights import checkpoints, exports, weak_networks
from sg_jax.weights.saver import Saver

SG = Guidance(2.0, 0.0, 0.5)
RAW, AVERAGE = (dataclasses.replace(SG, weak_weights=w) for w in ("raw", "0.90"))
DECAYS = (0.9,)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with steps 2 and 4, whose weights are s, averages s / 2 and further ones s / 4."""
    folder = str(tmp_path_factory.mktemp("run"))
    config = completed(train=dict(ema_decays=DECAYS))
    record.write(folder, config, NAMES, {})
    model = make_model(jax.random.key(0))
    with Saver(folder, 2, 5) as saver:
        for step in (2, 4):
            weights = jax.tree.map(lambda x, s=step: np.full_like(x, s), model)
            state = start_state(weights, TX.init(weights), DECAYS)
            emas = {"0.9": jax.tree.map(lambda x: x / 4, weights)}
            state = dataclasses.replace(
                state, step=np.int32(step), ema=jax.tree.map(lambda x: x / 2, weights), emas=emas
            )
            saver.save(state, step, {"data_position": step})
            saver.wait()
    return folder


def test_a_network_is_not_guided_by_itself(run):
    """It would be drawn twice, and nothing would be guided."""
    own = Guidance(2.0, weak_step=4)
    with pytest.raises(UserError, match=r"a step other than 4, .* has \[2\] beside its own: set"):
        weak_networks.at_step(own, run)
    assert weak_networks.at_step(own, run, step=2) == own
    for differs in (dict(gamma_weak=0.5), dict(weak_label="null"), dict(weak_weights="raw")):
        weak_networks.at_step(dataclasses.replace(own, **differs), run)
    with pytest.raises(UserError, match=r"near step 1, 0\.5 of 2, .* has \[4\] beside its own"):
        weak_networks.at_step(Guidance(2.0, weak_step=0.5), run, step=2)


def test_what_is_no_run_has_no_early_checkpoint(tmp_path):
    (tmp_path / "file.npz").write_bytes(b"x")
    for name, words in {"gone": "does not exist", "file.npz": "is a file: give the folder"}.items():
        with pytest.raises(UserError, match=words):
            weak_networks.at_step(Guidance(2.0, weak_workdir=str(tmp_path / name)), tmp_path)


def test_an_export_has_no_early_checkpoint(run, tmp_path):
    config, _ = record.read(run)
    network = checkpoints.load(run)
    exports.write_folder(tmp_path / "out", network, config, run, 4)
    for weights in ("model", "ema_0.9"):
        with pytest.raises(UserError, match="exported with one set of weights: load that with"):
            checkpoints.load(tmp_path / "out", weights=weights)
    for step in (2, 0.5):
        with pytest.raises(UserError, match="exported with one checkpoint: give the run itself"):
            weak_networks.at_step(Guidance(2.0, weak_step=step), str(tmp_path / "out"))
    back = Guidance(2.0, weak_step=2, weak_workdir=run)
    assert weak_networks.at_step(back, str(tmp_path / "out")) == back


def value(network):
    (found,) = {float(np.unique(leaf).item()) for leaf in jax.tree.leaves(network)}
    return found


@pytest.mark.every(2)
@pytest.mark.parametrize(
    "changes, step, expected",
    [
        (dict(weak_weights="raw"), 2, 2.0),  # those of the strong prediction's step
        (dict(weak_weights="raw"), None, 4.0),
        (dict(weak_weights="0.90"), 4, 1.0),
        (dict(weak_weights="9e-1", weak_step=2), 4, 0.5),
        (dict(weak_step=2), 4, 1.0),
    ],
)
def test_the_weights_are_those_that_are_named(run, changes, step, expected):
    guidance = dataclasses.replace(SG, **changes)
    assert value(weak_networks.load(guidance, run, step=step)) == expected


@pytest.mark.parametrize("weights, named", [("0.99", ["decay 0.99", "'0.9' or 'raw'", "(0.99,)"])])
def test_an_average_that_is_not_kept_is_named_with_those_that_are(run, weights, named):
    guidance = dataclasses.replace(SG, weak_weights=weights)
    experiment = types.SimpleNamespace(
        model=checkpoints.abstract_network(run), config=parsing.merge({})
    )
    for act in (
        lambda: weak_networks.load(guidance, run),
        lambda: measure.resolved(experiment, guidance, run, 4),
    ):
        with pytest.raises(UserError) as error:
            act()
        assert all(part in str(error.value) for part in named)


def test_tables_know_it(run, tmp_path):
    """Without it, the names of files of before stay the same (tests/evaluation/test_table.py)."""
    experiment = types.SimpleNamespace(
        model=checkpoints.abstract_network(run), config=parsing.merge({})
    )
    found = [measure.resolved(experiment, g, run, 4) for g in (RAW, AVERAGE)]
    assert [g.weak_weights for g in found] == ["raw", "0.9"] and not found[0].weak_step
    assert [g.describe() for g in found] == [
        "ω 2, γ 0 / 0.5 raw weights",
        "ω 2, γ 0 / 0.5 average 0.9",
    ]
    keys = [table.Key(g) for g in (SG, *found)]
    assert len({key.digest for key in keys}) == 3
    rows = {key: {"frechet": float(n)} for n, key in enumerate(keys)}
    table.write(tmp_path, rows)
    assert table.read(tmp_path) == rows


@pytest.mark.slow
def test_equal_weights_guide_nowhere(small):
    """d = v_s - v_k = 0 at equal rates, so every scale draws the same."""
    guidance = Guidance(5.0, weak_weights="raw")
    plain, guided = (
        sample(small, [0, 1], g, steps=2, weak_model=w, pixels=False)
        for g, w in ((Guidance(), None), (guidance, small))
    )
    np.testing.assert_allclose(guided, plain, atol=1e-5)
    with pytest.raises(UserError, match=r"weights='ema_0.9'"):
        sample(small, [0, 1], AVERAGE, steps=2)


def test_a_run_that_trains_has_them_at_hand():
    state = types.SimpleNamespace(model="raw", ema="ema", emas={"0.9": "average"})
    found = [grids.weak_of(state, g) for g in (SG, RAW, AVERAGE)]
    assert found == [None, "raw", "average"]
