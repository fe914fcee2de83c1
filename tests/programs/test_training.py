"""The training step: what it changes, that it is reproducible, and on how many devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sg_jax.method.objective import FlowMatching
from sg_jax.models.dit import DiT
from sg_jax.parallel import sharding
from sg_jax.programs.optimizer import Optimizer
from sg_jax.programs.training import (
    abstract_state,
    compile_train_step,
    init_state,
    make_train_step,
    start_state,
)

KEY = jax.random.key(3)
TX = Optimizer(learning_rate=1e-2, b2=0.99).make(steps=10)


def make_model(key, **options):
    shape = dict(image_size=8, channels=1, num_classes=5, patch=2, width=16, depth=2, heads=2)
    return DiT(**shape, routes=((1, 1),), rngs=nnx.Rngs(key), **options)


@pytest.fixture(scope="module")
def start(mesh_of):
    """Mesh -> (state, compiled step, mesh), each compiled once."""
    made = {}

    def make(data, fsdp):
        if (data, fsdp) not in made:
            mesh = mesh_of(data, fsdp)
            step = make_train_step(FlowMatching(), TX, ema_decay=0.9)
            step = compile_train_step(step, abstract_state(make_model, TX, mesh), mesh)
            made[data, fsdp] = init_state(make_model, TX, mesh, jax.random.key(0)), step, mesh
        state, step, mesh = made[data, fsdp]
        return copy(state), step, mesh  # the step eats its argument

    return make


def copy(state):
    return jax.tree.map(lambda x: jax.device_put(np.asarray(x), x.sharding), state)


def batch(n, mesh):
    x = jax.random.uniform(jax.random.key(n), (8, 8, 8, 1), minval=-1.0)
    data = {"image": np.asarray(x), "condition": np.arange(8) % 5}
    return sharding.to_global(data, mesh)


def run(start, mesh, first=0, last=3):
    state, step, mesh = start(*mesh)
    losses = []
    for n in range(first, last):
        state, metrics = step(state, batch(n, mesh), KEY)
        losses.append(float(metrics["loss"]))
    return state, losses


def test_step_0_is_the_initial_weights_and_their_average(start):
    state, _, _ = start(1, 1)
    assert state.step == 0 and state.step.dtype == jnp.int32
    for a, b in zip(jax.tree.leaves(state.model), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_the_initial_weights_do_not_depend_on_the_mesh(start):
    one, eight = (jax.tree.leaves(start(*m)[0].model) for m in ((1, 1), (2, 4)))
    for a, b in zip(one, eight, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_the_abstract_state_is_the_state_without_arrays(start, mesh_of):
    abstract, (state, _, _) = abstract_state(make_model, TX, mesh_of(2, 4)), start(2, 4)
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(abstract), jax.tree.leaves(state), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert b.sharding.is_equivalent_to(a.sharding, b.ndim)


def test_optimizer_and_average_are_sharded_like_the_weights(start):
    state, _, _ = start(2, 4)
    kernel = state.model.patch_embedding.kernel[...].sharding
    assert "fsdp" in kernel.spec
    assert state.ema.patch_embedding.kernel[...].sharding == kernel
    (mu,) = [s.mu for s in jax.tree.leaves(state.opt_state, is_leaf=_is_adam) if _is_adam(s)]
    assert mu.patch_embedding.kernel[...].sharding == kernel


def _is_adam(x):
    return isinstance(x, optax.ScaleByAdamState)


def test_a_step_moves_the_weights_and_the_average_by_hand(start):
    before, _, _ = start(1, 1)
    after, _ = run(start, (1, 1), last=1)
    assert after.step == 1
    old, new, ema = (s.final.bias[...] for s in (before.model, after.model, after.ema))
    assert (old != new).all()
    np.testing.assert_allclose(ema, 0.1 * old + 0.9 * new, atol=1e-7)  # decay 1 / (1 + 9)


def test_the_loss_falls(start):
    state, step, mesh = start(1, 1)
    losses = []
    for _ in range(40):
        state, metrics = step(state, batch(0, mesh), KEY)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_the_first_loss_is_that_of_a_network_that_returns_zero(start):
    """E || x - z ||^2 with x uniform in [-1, 1] and z normal: 1/3 + 1."""
    _, (loss,) = run(start, (1, 1), last=1)
    assert loss == pytest.approx(4 / 3, rel=0.15)


def test_training_does_not_depend_on_the_number_of_devices(start):
    (one, losses), (eight, others) = (run(start, m) for m in ((1, 1), (2, 4)))
    np.testing.assert_allclose(losses, others, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one.ema), jax.tree.leaves(eight.ema), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.slow
def test_nor_does_it_with_muon(mesh_of):
    tx = Optimizer(name="muon", learning_rate=1e-2).make(steps=10)
    found = []
    for shape in ((1, 1), (2, 4)):
        mesh = mesh_of(*shape)
        abstract = abstract_state(make_model, tx, mesh)
        step = compile_train_step(make_train_step(FlowMatching(), tx, 0.9), abstract, mesh)
        state = init_state(make_model, tx, mesh, jax.random.key(0))
        assert jax.tree.structure(state) == jax.tree.structure(abstract)
        losses = []
        for n in range(3):
            state, metrics = step(state, batch(n, mesh), KEY)
            losses.append(float(metrics["loss"]))
        found.append((losses, state.model))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4)
    for a, b in zip(*(jax.tree.leaves(model) for _, model in found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.slow
def test_nor_on_the_axes_of_the_mesh(start):
    _, losses = run(start, (1, 1))
    mesh = sharding.make_mesh(replica=2, data=1, fsdp=2, tensor=2)
    step = make_train_step(FlowMatching(), TX, ema_decay=0.9)
    step = compile_train_step(step, abstract_state(make_model, TX, mesh), mesh)
    state = init_state(make_model, TX, mesh, jax.random.key(0))
    for n, expected in enumerate(losses):
        state, metrics = step(state, batch(n, mesh), KEY)
        assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_nor_on_what_computes_attention_and_what_is_computed_again(mesh_of):
    def losses(mesh, **options):
        def make(key):
            return make_model(key, **options)

        step = make_train_step(FlowMatching(gamma=0.0), TX, ema_decay=0.9)
        step = compile_train_step(step, abstract_state(make, TX, mesh), mesh)
        state = init_state(make, TX, mesh, jax.random.key(0))
        for n in range(3):
            state, metrics = step(state, batch(n, mesh), KEY)
            yield float(metrics["loss"])

    one = list(losses(mesh_of(1, 1)))
    eight = losses(mesh_of(2, 4), attention="pallas", remat="selective")
    assert list(eight) == pytest.approx(one, rel=1e-5)


def test_devices_gather_weights_and_keep_their_share_of_the_gradients(start):
    """ZeRO-3: never an activation, and never a whole gradient of a matrix on every device."""
    state, step, mesh = start(2, 4)
    text = step.lower(state, batch(0, mesh), KEY).compile().as_text()
    loops = [line for line in text.splitlines() if "while/body" in line]
    kinds = {kind: [x for x in loops if f" {kind}(" in x] for kind in ("all-gather", "all-to-all")}
    assert kinds["all-gather"] and not kinds["all-to-all"]
    assert any(" reduce-scatter(" in line for line in loops)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_gives_the_same_step(start, mesh_of, parts):
    """On two devices, of which each keeps its own images, as a whole batch on one."""
    whole, losses = run(start, (1, 1))
    mesh = mesh_of(2, 1)
    step = make_train_step(FlowMatching(), TX, ema_decay=0.9, accumulate=parts)
    step = compile_train_step(step, abstract_state(make_model, TX, mesh), mesh)
    state = init_state(make_model, TX, mesh, jax.random.key(0))
    for n, expected in enumerate(losses):
        state, metrics = step(state, batch(n, mesh), KEY)
        assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)
    for a, b in zip(jax.tree.leaves(whole.ema), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_an_example_has_its_key_in_any_row():
    """Rows that lie otherwise, as on a slice of several hosts, give the same loss and gradient."""

    def noisy(model, batch, keys):
        drawn = jax.vmap(jax.random.uniform)(keys)
        return drawn * batch["image"].mean(axis=(1, 2, 3)) * model["w"]

    model, order = {"w": jnp.float32(2.0)}, np.random.default_rng(0).permutation(8)
    images = np.random.default_rng(1).normal(size=(8, 2, 2, 1)).astype(np.float32)
    found = []
    for numbers, rows in ((None, images), (np.arange(8), images), (order, images[order])):
        step = make_train_step(noisy, optax.sgd(1.0), 0.9, examples=numbers)
        state = start_state(model, optax.sgd(1.0).init(model))
        state, metrics = jax.jit(step)(state, {"image": jnp.asarray(rows)}, KEY)
        found.append((metrics["loss"], state.model["w"]))
    assert found[0] == found[1]
    np.testing.assert_allclose(found[2], found[0], rtol=1e-6)


def test_two_runs_are_equal_bit_for_bit(start):
    (one, losses), (two, others) = (run(start, (2, 4)) for _ in range(2))
    assert losses == others
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_step_draws_its_own_noise_from_the_key_and_the_step(start):
    state, step, mesh = start(1, 1)
    later = dataclasses.replace(copy(state), step=jax.device_put(np.int32(1), state.step.sharding))
    (_, a), (_, b) = (step(s, batch(0, mesh), KEY) for s in (state, later))
    assert a["loss"] != b["loss"]


def test_many_steps_are_one_compile(start):
    _, step, _ = start(1, 1)
    run(start, (1, 1), last=3)
    assert step._cache_size() == 1


def test_the_gradient_norm_has_its_square_root(start):
    """The metric is the norm of the gradient before clipping."""
    state, _, mesh = start(1, 1)
    images = batch(0, mesh)
    key = jax.random.fold_in(KEY, 0)
    keys = jax.random.split(key, len(images["condition"]))
    grads = jax.jit(jax.grad(lambda m: FlowMatching()(m, images, keys).mean()))(state.model)
    expected = np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in jax.tree.leaves(grads)))
    _, step, _ = start(1, 1)
    _, metrics = step(state, images, KEY)
    assert metrics["grad_norm"] == pytest.approx(expected, rel=1e-5)
