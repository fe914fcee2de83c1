"""A backbone from outside: a block of its own is all that it brings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_sampler
from flax import nnx

from sg_jax.method.objective import FlowMatching
from sg_jax.method.presets import PRESETS
from sg_jax.models import layers
from sg_jax.models.backbone import Backbone
from sg_jax.parallel import sharding
from sg_jax.programs.sampling import sample
from sg_jax.programs.training import compile_train_step, init_state, make_train_step

F32 = jnp.dtype("float32")
SHAPE = dict(image_size=4, channels=1, num_classes=3, patch=1, width=8, depth=2)  # 16 tokens


class Pool(nnx.Module):
    """Add to each token a linear layer of the mean of those present, gated by the conditioning."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.mix = layers.Linear(width, width, F32, rngs)
        self.modulation = layers.Linear(width, 3 * width, F32, rngs)

    def __call__(self, h, moments, c):
        shift, scale, gate = layers.modulation(self.modulation, c, 3)
        x = layers.adaptive_norm(h, moments, shift, scale)
        h = h + gate[:, None] * (x + self.mix(x.mean(1))[:, None])
        return h, layers.moments(h)


class Pooled(Backbone):
    def __init__(self, *, width: int, rngs: nnx.Rngs, **backbone):
        super().__init__(width=width, block=lambda rngs: Pool(width, rngs), rngs=rngs, **backbone)


def make(key):
    return Pooled(**SHAPE, routes=((0, 1),), rngs=nnx.Rngs(key))


@pytest.mark.slow
def test_a_backbone_from_outside_trains_and_is_sampled():
    """On several devices, as its layers say how they are split."""
    mesh = sharding.make_mesh(data=1, fsdp=2, tensor=2, devices=jax.devices()[:4])
    tx, objective = optax.adam(1e-2), FlowMatching()
    state = init_state(make, tx, mesh, jax.random.key(0))
    batch = {"image": np.ones((4, 4, 4, 1), np.float32), "condition": np.array([0, 1, 2, 0])}
    spread = sharding.to_global(batch, mesh)
    step = compile_train_step(make_train_step(objective, tx, 0.9), state, mesh)
    before, losses = jax.tree.map(np.asarray, state.model), []
    for _ in range(3):
        state, metrics = step(state, spread, jax.random.key(1))
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    model = jax.tree.map(np.asarray, state.model)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, model)
    assert all(x > 0 for x in jax.tree.leaves(moved))
    drawn = sample(state.model, [0, 2], "sg", steps=2, mesh=mesh, pixels=False)
    run = functools.partial(jax.jit(lambda model, *inputs: model(*inputs)), model)
    sizes = dict(shape=(4, 4, 1), tokens=16, routes=1, classes=3)
    plain = reference_sampler.sample(run, run, [0, 2], PRESETS["sg"], 2, **sizes)
    np.testing.assert_allclose(drawn, plain, rtol=1e-4, atol=1e-4)
