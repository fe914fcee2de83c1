"""Schedules, AdamW, Muon and the moving average, by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from optax.contrib import MuonDimensionNumbers

from sg_jax.errors import UserError
from sg_jax.models.dit import DiT
from sg_jax.models.ssm import SSM
from sg_jax.programs import optimizer
from sg_jax.programs.optimizer import Optimizer

SETTINGS = dict(learning_rate=0.1, b1=0.9, b2=0.99, clip_norm=0.0)


@pytest.mark.parametrize(
    "schedule, warmup, rates",  # at given steps, for a learning rate of 1
    [
        ("constant", 0, {0: 1.0, 5: 1.0, 1000: 1.0}),
        ("constant", 10, {0: 0.0, 1: 0.1, 5: 0.5, 10: 1.0, 1000: 1.0}),
        ("cosine", 0, {0: 1.0, 55: 0.5, 110: 0.0, 200: 0.0}),
        ("cosine", 10, {0: 0.0, 5: 0.5, 10: 1.0, 60: 0.5, 110: 0.0}),  # half way from 10 to 110
    ],
)
def test_learning_rates(schedule, warmup, rates):
    made = Optimizer(learning_rate=1.0, schedule=schedule, warmup=warmup)
    rate = made.learning_rates(steps=110)
    for step, expected in rates.items():
        assert rate(step) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(schedule="linear"), ["config.optimizer.schedule='linear'", "'constant', 'cosine'"]),
        (dict(schedule="cosin"), ["config.optimizer.schedule='cosin'", "mean 'cosine'"]),
        (dict(learning_rate=0.0), ["config.optimizer.learning_rate=0.0", "above 0"]),
        (dict(learning_rate=float("inf")), ["config.optimizer.learning_rate=inf"]),
        (dict(warmup=-1), ["config.optimizer.warmup=-1", "at least 0"]),
        (dict(b1=1.0), ["config.optimizer.b1=1.0", "[0, 1)"]),
        (dict(b2=-0.1), ["config.optimizer.b2=-0.1", "[0, 1)"]),
        (dict(name="mun"), ["config.optimizer.name='mun'", "mean 'muon'"]),
        (dict(momentum=0.9), ["config.optimizer.momentum=0.9", "name='adamw'"]),
        (dict(name="muon", momentum=1.0), ["config.optimizer.momentum=1.0", "[0, 1)"]),
        (dict(weight_decay=-1.0), ["config.optimizer.weight_decay=-1.0", "at least 0"]),
        (dict(clip_norm=-1.0), ["config.optimizer.clip_norm=-1.0", "at least 0 (no clipping)"]),
        (
            dict(schedule="cosine", warmup=10),
            ["config.optimizer.warmup=10", "below config.train.steps=10"],
        ),
    ],
)
def test_a_wrong_setting_is_named(changes, named):
    with pytest.raises(UserError) as error:
        Optimizer(**changes).make(steps=10)
    for part in named:
        assert part in str(error.value)


def steps(gradients, weight=1.0, **changes):
    """Update the weight (or an array of weights) by each gradient in turn."""
    tx = Optimizer(**{**SETTINGS, **changes}).make(steps=10)
    weight = jnp.full_like(jnp.array(gradients[0], jnp.float32), weight)
    state = tx.init(weight)
    for gradient in gradients:
        update, state = tx.update(jnp.array(gradient, jnp.float32), state, weight)
        weight = weight + update
    return np.asarray(weight)


def test_the_first_step_of_adam_is_the_learning_rate():
    assert steps([5.0]) == pytest.approx(1 - 0.1)
    assert steps([-0.01]) == pytest.approx(1 + 0.1)


def test_two_steps_of_adam_by_hand():
    mean = (0.9 * 0.1 * 1 + 0.1 * 3) / (1 - 0.9**2)
    square = (0.99 * 0.01 * 1 + 0.01 * 9) / (1 - 0.99**2)
    assert steps([1.0, 3.0]) == pytest.approx(1 - 0.1 - 0.1 * mean / square**0.5)


def test_weight_decay_is_decoupled():
    assert steps([0.0], weight_decay=0.5) == pytest.approx(1 - 0.1 * 0.5)


def test_warmup_starts_at_a_rate_of_zero():
    assert steps([1.0], warmup=10) == 1.0
    assert steps([1.0, 1.0], warmup=10) == pytest.approx(1 - 0.01)


def test_clipping_bounds_the_norm_of_all_gradients_together():
    """A gradient of norm 5 is cut to norm 1. Adam is blind to scale but for how steps compare."""
    clipped = steps([[0.5, 0.5], [3.0, 4.0]], clip_norm=1.0)
    np.testing.assert_allclose(clipped, steps([[0.5, 0.5], [0.6, 0.8]]), rtol=1e-5)
    assert np.abs(clipped - steps([[0.5, 0.5], [3.0, 4.0]])).max() > 0.01  # 0 turns it off


def test_the_moving_average_by_hand():
    """The decay is step / (step + 9) until it reaches 0.5: 1/10, 2/11 ..., 9/18 = 0.5."""
    first = optimizer.update_ema(jnp.float32(0), jnp.float32(10), 0.5, jnp.int32(1))
    assert first == pytest.approx(9.0)  # 0.1 * 0 + 0.9 * 10
    second = optimizer.update_ema(first, jnp.float32(20), 0.5, jnp.int32(2))
    assert second == pytest.approx(2 / 11 * 9 + 9 / 11 * 20)
    for step in (9, 1000):
        late = optimizer.update_ema(jnp.float32(0), jnp.float32(10), 0.5, jnp.int32(step))
        assert late == pytest.approx(5.0)


def test_the_average_of_constant_weights_is_those_weights():
    """No bias towards the start: neither zero nor the initial weights linger."""
    ema = jnp.float32(-100)
    for step in range(1, 60):
        ema = optimizer.update_ema(ema, jnp.float32(1), 0.9999, jnp.int32(step))
    np.testing.assert_allclose(ema, 1, atol=1e-4)


def test_the_average_keeps_the_structure():
    tree = {"a": jnp.zeros(2), "b": [jnp.ones((1, 3))]}
    ema = optimizer.update_ema(tree, tree, 0.9, jnp.int32(1))
    assert jax.tree.structure(ema) == jax.tree.structure(tree)
    assert ema["b"][0].shape == (1, 3)


def small(kind=DiT):
    shape = dict(image_size=4, channels=1, num_classes=3, patch=1, width=8, depth=3)
    extra = dict(heads=2) if kind is DiT else {}
    return random_weights.fresh(lambda rngs: kind(**shape, **extra, routes=((1, 1),), rngs=rngs))


@functools.cache
def muon_step(kind=DiT, weight_decay=0.0):
    """Return what the first step of Muon adds to a small network whose gradient is random."""
    settings = {**SETTINGS, "name": "muon", "weight_decay": weight_decay}
    tx = Optimizer(**settings).make(steps=10)

    @jax.jit
    def step(model):
        gradient = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape), model)
        return tx.update(gradient, tx.init(model), model)[0]

    return step(small(kind))


@pytest.mark.slow
def test_muon_moves_every_matrix_of_a_block_by_a_rotation():
    kernel = muon_step().blocks.stacks[1].mlp.hidden.kernel[...][0]  # [8, 32]
    found = np.linalg.svd(np.asarray(kernel), compute_uv=False) / (0.1 * 0.2 * 32**0.5)
    assert found.min() > 0.6 and found.max() < 1.3  # five steps of Newton and Schulz: about 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DiT, SSM])
def test_muon_leaves_to_adam_what_is_no_matrix_of_a_block(kind):
    model = small(kind)
    chosen = [
        jax.tree_util.keystr(path)
        for path, axes in jax.tree_util.tree_leaves_with_path(
            optimizer.matrices(model), is_leaf=lambda x: isinstance(x, MuonDimensionNumbers)
        )
    ]
    blocks = [
        jax.tree_util.keystr(path)
        for path, x in jax.tree_util.tree_leaves_with_path(model)
        if "blocks" in jax.tree_util.keystr(path) and "kernel" in jax.tree_util.keystr(path)
    ]
    assert chosen == blocks != []
    head = np.abs(np.asarray(muon_step(kind).final.kernel[...]))
    assert head.max() == pytest.approx(head.min(), rel=1e-3)  # as Adam begins


@pytest.mark.slow
def test_weight_decay_of_muon_is_decoupled():
    model = small()
    plain, decayed = muon_step(), muon_step(weight_decay=0.5)
    for part in (lambda m: m.blocks.stacks[0].mlp.out.kernel, lambda m: m.patch_embedding.kernel):
        difference = np.asarray(part(decayed)[...] - part(plain)[...])
        np.testing.assert_allclose(difference, -0.1 * 0.5 * np.asarray(part(model)[...]), atol=1e-6)
