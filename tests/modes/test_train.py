"""The training loop: what its runs do is tested in test_main; here, what cannot be seen of one."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from sg_jax.config import experiment, geometry, parsing, record
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError
from sg_jax.modes import train
from sg_jax.weights import checkpoints


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Train for 12 steps by a step of the test's own, with these changes to the config."""

    def call(step, **changes):
        source = open_source("digits", "train", str(tmp_path / "data"))
        given = parsing.merge(
            dict(
                data=dict(data_dir=str(tmp_path / "data")),
                model=dict(depth=2, width=8, heads=2, patch=4),
                objective=dict(gamma=0.0),
                train=dict(steps=12, batch_size=8, log_every=100),
                **changes,
            )
        )
        completed = geometry.complete(given, source.image_shape, source.num_classes)
        folder = str(tmp_path / "run")
        record.prepare(folder, completed, source.class_names, begun=False)
        monkeypatch.setattr(experiment.Experiment, "compile_train_step", lambda *_: step)
        return train.train(experiment.build(completed), source, folder)

    return call


@pytest.mark.slow
def test_few_steps_wait_on_the_device(run):
    """Or else a stop signal saves only after all the steps up to the next record."""
    waiting, losses = [], []

    @jax.jit
    def slow(x):  # tens of milliseconds
        return jax.lax.fori_loop(0, 60, lambda _, y: y @ x, x)[0, 0]

    def step(state, batch, key):
        waiting.append(sum(not loss.is_ready() for loss in losses))
        losses.append(slow(jnp.eye(256)))
        return dataclasses.replace(state, step=state.step + 1), {"loss": losses[-1]}

    assert run(step).step == 12
    assert 1 <= max(waiting) <= train.AHEAD


def test_weights_that_are_not_finite_replace_no_others(run, tmp_path):
    def step(state, batch, key):
        loss = jnp.where(state.step < 4, 1.0, jnp.nan)
        return dataclasses.replace(state, step=state.step + 1), {"loss": loss}

    with pytest.raises(UserError, match=r"The loss is nan at step 6;.*train\.init_from"):
        run(step, checkpoint=dict(every=3))
    assert checkpoints.saved_steps(tmp_path / "run") == [3]
