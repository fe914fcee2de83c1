"""Steps that draw their sparsity rate: which they draw, and that they are steps at that rate."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sg_jax.method.distillation import Distillation
from sg_jax.method.guidance import Guidance
from sg_jax.method.objective import FlowMatching
from sg_jax.models.conditioning import Classes
from sg_jax.parallel import sharding
from sg_jax.programs.optimizer import Optimizer
from sg_jax.programs.training import (
    TrainState,
    abstract_state,
    compile_train_step,
    make_train_step,
    start_state,
)

KEY = jax.random.key(3)
TX = Optimizer(learning_rate=1e-2, b2=0.99).make(steps=10)
OBJECTIVE = FlowMatching(rates=((0.5, 0.5), (1.0, 0.2), (0.0, 0.3)))


def objectives(objective=OBJECTIVE):
    shares = [share for _, share in objective.drawn]
    return [objective.at(gamma) for gamma, _ in objective.drawn], shares


def images(count=8):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (count, 8, 8, 3)).astype(np.float32)
    return {"image": jnp.asarray(x), "condition": jnp.arange(count, dtype=jnp.int32) % 5}


def test_shares_are_those_of_the_steps():
    """Of 3,000 steps; the standard error of a share is at most 0.0091."""
    found = [lambda model, batch, keys, n=n: jnp.full(2, n + 0.0) for n in range(3)]
    step = make_train_step(found, TX, 0.9, shares=(0.5, 0.2, 0.3))
    model = {"w": jnp.zeros(1)}
    state = start_state(model, TX.init(model))
    batch = {"image": jnp.zeros((2, 1))}

    def metrics(n):
        return step(dataclasses.replace(state, step=n), batch, KEY)[1]

    seen = jax.jit(jax.vmap(metrics))(jnp.arange(3000))
    np.testing.assert_array_equal(seen["loss"], seen["drawn"])  # it runs what it says
    shares = np.bincount(np.asarray(seen["drawn"]), minlength=3) / 3000
    np.testing.assert_allclose(shares, (0.5, 0.2, 0.3), atol=4 * 0.0091)


@pytest.mark.slow
def test_one_rate_is_that_rate_bit_for_bit(small):
    """The two are one program."""
    found, shares = objectives(FlowMatching(rates=((0.5, 1.0),)))
    steps = [
        make_train_step(found, TX, 0.9, shares=shares),
        make_train_step(FlowMatching(gamma=0.5), TX, 0.9),
    ]
    state = start_state(small, TX.init(small))
    one, other = (jax.jit(step).lower(state, images(), KEY).as_text() for step in steps)
    assert one == other and len(one) > 10_000


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:
    """Answer a x + b times the share of tokens in the route; 16 tokens of 2x2 pixels."""

    a: jax.Array
    b: jax.Array

    conditioning = Classes(5, 1, nnx.Rngs(0))
    prediction, masks, tokens, choices, patch, inner = "velocity", False, 16, 1, 2, 0

    def branches(self, x, t, branches, inner=False):
        ids = branches[0].ids
        return [self.a * x + self.b * (1.0 if ids is None else ids[0].shape[1] / 16)]


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_is_one_at_the_rate_it_draws(parts):
    """Also in parts; at rate 1, what is in the route does not move."""
    batch, seen, model = images(), set(), Linear(jnp.float32(0.5), jnp.float32(-2.0))
    state = start_state(model, TX.init(model))
    found, shares = objectives()
    step = jax.jit(make_train_step(found, TX, 0.9, accumulate=parts, shares=shares))
    alone = jax.jit(
        lambda key: [each(model, batch, jax.random.split(key, 8)).mean() for each in found]
    )
    for n in range(9):
        new, metrics = step(dataclasses.replace(state, step=jnp.int32(n)), batch, KEY)
        losses, drawn = alone(jax.random.fold_in(KEY, n)), int(metrics["drawn"])
        assert float(metrics["loss"]) == pytest.approx(float(losses[drawn]), rel=1e-5)
        assert (new.model.b == model.b) == (OBJECTIVE.drawn[drawn][0] == 1.0)
        assert new.model.a != model.a
        seen.add(drawn)
    assert len(seen) == 3


@pytest.mark.slow
def test_devices_that_share_weights_draw_the_same_and_learn_from_one_teacher(small, mesh_of):
    """One device against 2 x 2 with weights, state and teacher in parts, with `skip`."""
    guidance = Guidance(2.0, 0.0, 0.5)
    found, shares = objectives()
    found = [Distillation(each, guidance) for each in found]
    teacher = jax.tree.map(lambda x: x * 0.9, small)
    ends, start = [], jax.device_get(start_state(small, TX.init(small)))
    for mesh in (mesh_of(1, 1), mesh_of(2, 2)):
        step = make_train_step(found, TX, 0.9, skip=True, shares=shares)
        abstract = abstract_state(lambda key: small, TX, mesh)
        state: TrainState = jax.device_put(start, jax.tree.map(lambda x: x.sharding, abstract))
        taught = jax.device_put(teacher, sharding.infer(teacher, mesh))
        program = compile_train_step(step, abstract, mesh, taught)
        batch = jax.device_put(images(), sharding.batch_sharding(mesh))
        losses = []
        for _ in range(4):
            state, metrics = program(state, batch, KEY, taught)
            losses.append(float(metrics["loss"]))
        assert not any(x.is_deleted() for x in jax.tree.leaves(taught))
        ends.append((losses, jax.device_get(state.ema)))
    (one, a), (four, b) = ends
    np.testing.assert_allclose(one, four, rtol=1e-4)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)
