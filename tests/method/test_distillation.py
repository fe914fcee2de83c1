"""Distillation: the target is what a frozen network makes with a guidance setting."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.method import distillation, prediction
from sg_jax.method.distillation import Distillation
from sg_jax.method.guidance import Guidance
from sg_jax.method.objective import FlowMatching
from sg_jax.method.terms import draw_pair

KEYS = jax.random.split(jax.random.key(7), 3)
fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))


@pytest.fixture(scope="module")
def batch(inputs):
    return {"image": inputs[0], "condition": inputs[2]}


@pytest.fixture(scope="module")
def loss_of(batch):
    @jax.jit
    def both(model, teacher):
        dense = FlowMatching(gamma=0.0)
        return [
            Distillation(dense, guidance)(model, batch, KEYS, teacher)
            for guidance in (Guidance(), Guidance(3.0, 0.0, 0.5))
        ]

    return both


@pytest.mark.slow
def test_the_teacher_has_nothing_to_learn_from_itself_but_guidance(small, make_small, loss_of):
    unguided, guided = loss_of(small, small)
    assert unguided.max() < 1e-8 and guided.min() > 1e-5
    other, _ = loss_of(make_small(seed=1), small)
    assert other.min() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "guidance",
    [
        Guidance(3.0, 0.25, 0.75),
        Guidance(3.0, 0.0, 0.5, ids="nested", interval=(0.0, 0.6)),
        Guidance(1.5, weak_label="null", channels=2),
        Guidance(2.0, 0.0, 0.5, skip=(1,), skip_scale=3.0),
    ],
)
def test_the_target_is_the_guided_velocity(small, inputs, guidance):
    x, t, c = inputs
    found = jax.jit(lambda: distillation.guided([small], guidance, x, t, c, KEYS))()
    now = fold(KEYS, 0)
    ids = draw_pair(small, now, (guidance.gamma_strong, guidance.gamma_weak), guidance.ids)
    null = small.conditioning.null(c) if guidance.weak_label == "null" else c
    strong = prediction.velocity(small, x, t, c, ids[0])
    weak = prediction.velocity(small, x, t, null, ids[1])
    expected = strong + (guidance.scale - 1) * (strong - weak)
    if guidance.channels:
        expected = jnp.concatenate([expected[..., :2], strong[..., 2:]], axis=-1)
    if guidance.skip:

        @jax.jit
        def without(active):
            return prediction.velocity(small.skipping(active), x, t, c, ids[0])

        less = without(jnp.array([True, False]))
        expected = expected + (guidance.skip_scale - 1) * (strong - less)
    inside = np.asarray(t <= guidance.interval[1])[:, None, None, None]
    np.testing.assert_allclose(found, np.where(inside, expected, strong), atol=2e-4)


@pytest.mark.slow
def test_another_network_may_make_the_weak_prediction(small, make_small, inputs, batch):
    """Autoguidance as the teacher: omega v + (1 - omega) v of the weak network, in an interval."""
    x, t, c = inputs
    weak = make_small(seed=1)
    always = Guidance(2.0, weak_step=0.33)
    within = dataclasses.replace(always, interval=(0.0, 0.6))
    dense = FlowMatching(gamma=0.0)

    @jax.jit
    def made(model, weak):
        targets = [distillation.guided([model, weak], g, x, t, c, KEYS) for g in (always, within)]
        velocities = [prediction.velocity(m, x, t, c, None) for m in (model, weak)]
        return targets, velocities, Distillation(dense, within)(model, batch, KEYS, model, weak)

    (found, inside), (strong, other), loss = made(small, weak)
    expected = 2 * strong - other
    np.testing.assert_allclose(found, expected, atol=2e-4)
    acts = np.asarray(t <= 0.6)[:, None, None, None]
    np.testing.assert_allclose(inside, np.where(acts, expected, strong), atol=2e-4)
    assert loss.max() > 1e-4
    *_, loss = made(small, small)
    assert loss.max() < 1e-8


@pytest.mark.slow
def test_a_student_learns_it(make_small, inputs):
    """Without labels to learn from: in 60 steps its error falls to less than half."""
    import optax

    teacher, student = make_small(seed=0), make_small(seed=1)
    objective = Distillation(FlowMatching(gamma=0.0), Guidance(2.0, 0.0, 0.5))
    batch = {"image": jnp.tile(inputs[0], (4, 1, 1, 1)), "condition": jnp.tile(inputs[2], 4)}
    tx = optax.adam(3e-3)

    @jax.jit
    def step(model, state, n):
        keys = jax.random.split(jax.random.key(n), 12)
        loss, grads = jax.value_and_grad(lambda m: objective(m, batch, keys, teacher).mean())(model)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(model, updates), state, loss

    state, losses = tx.init(student), []
    for n in range(60):
        student, state, loss = step(student, state, n)
        losses.append(float(loss))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(scale=("linear", 1.0, 2.0)), ["config.guidance.mine.scale=", "give a number"]),
        (dict(gamma_weak=("cosine", 0.6, 0.0)), ["mine.gamma_weak=", "over the steps"]),
        (dict(skip=1, skip_scale=2.0), ["mine.skip=1", "such as (2,)"]),
        (dict(refresh=2), ["mine.refresh=2", "leave it at 1"]),
        (dict(zero_steps=1), ["mine.zero_steps=1", "leave it at 0"]),
    ],
)
def test_settings_that_mean_nothing_at_one_time_are_named(changes, named):
    guidance = dataclasses.replace(Guidance(2.0, 0.0, 0.5), **changes)
    with pytest.raises(UserError) as error:
        distillation.check(guidance, "mine")
    assert "config.objective.distill='mine'" in str(error.value)
    assert all(part in str(error.value) for part in named)


def test_settings_outside_an_interval_have_only_the_strong_prediction():
    inside, outside = distillation.parts_of(Guidance(2.0, 0.25, 0.5, interval=(0.2, 0.8)))
    assert inside.interval == (0.0, 1.0) and inside.scale == 2.0
    assert not outside.guided and outside.gamma_strong == 0.25
    assert len(distillation.parts_of(Guidance(2.0, 0.25, 0.5))) == 1
    assert len(distillation.parts_of(Guidance(interval=(0.2, 0.8)))) == 1
