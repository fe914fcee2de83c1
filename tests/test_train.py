"""The training loop: what its runs do is tested in test_main; here, what cannot be seen of one."""

import dataclasses

import jax
import jax.numpy as jnp

from sg_jax import checkpoint, config, experiment, network, train
from sg_jax.data.sources import open_source


def test_few_steps_wait_on_the_device(tmp_path, monkeypatch):
    """Or else a stop signal saves only after all the steps up to the next record."""
    source = open_source("digits", "train", str(tmp_path / "data"))
    given = config.merge(
        dict(
            data=dict(data_dir=str(tmp_path / "data")),
            model=dict(depth=2, width=8, heads=2, patch=4),
            train=dict(steps=12, batch_size=8, log_every=100),
        )
    )
    completed = network.complete(given, source.image_shape, source.num_classes)
    built = experiment.build(completed)
    waiting, losses = [], []

    @jax.jit
    def slow(x):  # tens of milliseconds
        return jax.lax.fori_loop(0, 60, lambda _, y: y @ x, x)[0, 0]

    def step(state, batch, key):
        waiting.append(sum(not loss.is_ready() for loss in losses))
        losses.append(slow(jnp.eye(512)))
        return dataclasses.replace(state, step=state.step + 1), {"loss": losses[-1]}

    monkeypatch.setattr(experiment.Experiment, "compile_train_step", lambda *_: step)
    checkpoint.prepare_workdir(str(tmp_path / "run"), completed, source.class_names)
    assert train.run(built, source, str(tmp_path / "run")).step == 12
    assert 1 <= max(waiting) <= train.AHEAD
