"""The state-space backbone: its recurrence in NumPy, and that routes treat it like any other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import random_weights
from flax import nnx

from sg_jax.errors import UserError
from sg_jax.method import tokens
from sg_jax.method.guidance import Guidance
from sg_jax.method.network import Branch
from sg_jax.method.objective import FlowMatching
from sg_jax.method.routing import draw_ids
from sg_jax.models import layers, ssm
from sg_jax.models.ssm import SSM
from sg_jax.parallel import sharding
from sg_jax.programs.sampling import sample

TINY = dict(
    image_size=8, channels=3, num_classes=5, patch=2, width=32, depth=4, state=4, routes=((1, 2),)
)  # 16 tokens, of 64 channels in the scans
SHORT = {**TINY, "depth": 2, "routes": ((1, 1),)}

run = jax.jit(lambda module, *args: module(*args))
run_block = jax.jit(lambda block, h, c: block(h, layers.moments(h), c)[0])


@jax.jit
def branches(model, x, t, ys, ids):
    """One label for all branches, or one for each."""
    ys = ys * len(ids) if len(ys) == 1 else ys
    return model.branches(x, t, [Branch(y, i) for y, i in zip(ys, ids, strict=True)])


scan = jax.jit(ssm.selective_scan, static_argnames=("chunk", "scan"))


@pytest.fixture(scope="module")
def make():
    """Changes to the tiny network -> that network, all of it random: a fresh SSM returns zeros."""
    return lambda **changes: random_weights.network(
        lambda rngs: SSM(**{**TINY, **changes}, rngs=rngs)
    )


@pytest.fixture(scope="module")
def model(make):
    return make()


@pytest.fixture(scope="module")
def fresh():
    """As initialised, with one stack fewer: the second of two blocks is routed."""
    return random_weights.fresh(lambda rngs: SSM(**SHORT, rngs=rngs))


@pytest.fixture(scope="module")
def block():
    """A block of width 8, with 16 channels of 3 states, all of it random."""
    return random_weights.network(lambda rngs: ssm.Block(8, 3, 2, "sequential", jnp.float32, rngs))


@pytest.fixture(scope="module")
def h():
    return jax.random.normal(jax.random.key(2), (2, 10, 8))


@pytest.fixture(scope="module")
def c():
    return jax.random.normal(jax.random.key(3), (2, 8))


@pytest.fixture(scope="module")
def sequence():
    """The arguments of a scan: 2 images of 23 tokens, 5 channels of 4 states."""
    rng = np.random.default_rng(0)
    u, b, c = (rng.standard_normal((2, 23, width)) for width in (5, 4, 4))
    step, a = rng.uniform(0.01, 1.0, (2, 23, 5)), -rng.uniform(0.5, 4.0, (4, 5))
    return [jnp.asarray(x, jnp.float32) for x in (u, step, a, b, c)]


def recurrence(u, step, a, b, c):
    """Return y [B, N, E] of a scan, one float64 number at a time."""
    u, step, a, b, c = (np.asarray(x, np.float64) for x in (u, step, a, b, c))
    y = np.zeros_like(u)
    for image, channel in np.ndindex(u.shape[0], u.shape[2]):
        state = np.zeros(len(a))
        for n in range(u.shape[1]):
            dt = step[image, n, channel]
            state = np.exp(dt * a[:, channel]) * state + dt * b[image, n] * u[image, n, channel]
            y[image, n, channel] = c[image, n] @ state
    return y


def test_the_scan_is_the_recurrence(sequence):
    y = scan(*sequence)
    assert y.dtype == jnp.float32 and 0.1 < y.std() < 10
    np.testing.assert_allclose(y, recurrence(*sequence), rtol=1e-4, atol=1e-5)


@pytest.mark.every(3)
@pytest.mark.parametrize("chunk, way", [(5, "sequential"), (16, "sequential"), (5, "associative")])
def test_neither_chunks_nor_the_way_change_value_or_gradient(sequence, chunk, way):
    """23 tokens by 16 are 2 x 12, one of them padding; by 5 they are 5 x 5, two of them padding."""

    def loss(chunk, way, *arguments):
        return jnp.square(scan(*arguments, chunk=chunk, scan=way)).sum()

    gradient = jax.value_and_grad(loss, argnums=(2, 3, 4, 5, 6))
    for a, b in zip(
        jax.tree.leaves(gradient(chunk, way, *sequence)),
        jax.tree.leaves(gradient(23, "sequential", *sequence)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * jnp.abs(b).max())


def test_a_constant_input_decays_to_its_equilibrium():
    """s = d s + step u, with d = exp(-step / 2), settles at step u / (1 - d)."""
    one, step = jnp.ones((1, 200, 1)), jnp.full((1, 200, 1), 0.5)
    y = scan(3 * one, step, jnp.full((1, 1), -0.5), one, one)
    np.testing.assert_allclose(y[0, -1, 0], 0.5 * 3 / (1 - np.exp(-0.25)), rtol=1e-5)
    np.testing.assert_allclose(y[0, 0, 0], 0.5 * 3, rtol=1e-5)


def block_by_hand(block, h, c):
    """Return a block's output in float64, as Mamba and adaLN-Zero define it."""
    h, c = np.asarray(h, np.float64), np.asarray(c, np.float64)

    def weight(parameter):
        return np.asarray(parameter[...], np.float64)

    def linear(layer, x):
        return x @ weight(layer.kernel) + weight(layer.bias)

    def silu(x):
        return x / (1 + np.exp(-x))

    def direction(scan, u):
        x = u @ weight(scan.project.kernel)  # step of rank ceil(8 / 16) = 1, B of 3, C of 3
        step = np.log1p(np.exp(x[..., :1] @ weight(scan.step.kernel) + weight(scan.step_bias)))
        y = recurrence(u, step, -np.exp(weight(scan.log_a)), x[..., 1:4], x[..., 4:])
        return y + weight(scan.skip) * u

    shift, scale, gate = np.split(linear(block.modulation, silu(c))[:, None], 3, axis=-1)
    x = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
    u, z = np.split(silu(linear(block.inward, x * (1 + scale) + shift)), 2, axis=-1)
    y = direction(block.forward, u) + direction(block.backward, u[:, ::-1])[:, ::-1]
    return h + gate * linear(block.outward, y * z)


def test_a_block_is_the_one_the_papers_define(block, h, c):
    out = run_block(block, h, c)
    assert jnp.abs(out - h).max() > 0.05
    np.testing.assert_allclose(out, block_by_hand(block, h, c), rtol=1e-4, atol=1e-5)


def test_reversed_tokens_and_swapped_directions_give_the_reversed_output(block, h, c):
    swapped = jax.tree.map(lambda x: x, block)
    swapped.forward, swapped.backward = block.backward, block.forward
    out = run_block(block, h, c)
    np.testing.assert_allclose(
        run_block(swapped, h[:, ::-1], c)[:, ::-1], out, rtol=1e-5, atol=1e-6
    )
    assert jnp.abs(run_block(block, h[:, ::-1], c)[:, ::-1] - out).max() > 1e-3


def test_every_token_reaches_every_other(block, h, c):
    """A scan of one direction would leave the later or the earlier tokens as they are."""
    change = run_block(block, h.at[:, 4].add(jnp.eye(8)[0]), c) - run_block(block, h, c)
    assert (jnp.abs(change).max(-1) > 0).all()


def test_steps_and_decays_start_as_in_mamba():
    """Steps log-uniform in [0.001, 0.1], A = -1 .. -S in every channel."""
    scan = random_weights.fresh(
        lambda rngs: ssm.Selective(4096, 4, 16, "sequential", jnp.float32, rngs)
    )
    steps = jnp.log10(jax.nn.softplus(scan.step_bias[...]))
    assert -3.001 < steps.min() < -2.99 and -1.01 < steps.max() < -0.999
    assert abs(steps.mean() + 2) < 0.03
    np.testing.assert_allclose(-jnp.exp(scan.log_a[:, 7]), -np.arange(1, 17), rtol=1e-6)


def draw(model, gamma, seed=0, batch=3):
    return draw_ids(model, jax.random.split(jax.random.key(seed), batch), gamma)


def test_a_fresh_network_returns_zeros(fresh, inputs):
    assert not run(fresh, *inputs).any()


def test_two_networks_have_one_tree_structure(fresh):
    other = random_weights.fresh(lambda rngs: SSM(**SHORT, rngs=rngs), seed=1)
    assert jax.tree.structure(fresh) == jax.tree.structure(other)
    biases = [s.forward.step_bias[0] for net in (fresh, other) for s in net.blocks.stacks]
    assert len(np.unique(biases, axis=0)) == 4  # and no two blocks are alike


@pytest.mark.slow
def test_keeping_every_token_is_the_dense_network(model, inputs):
    every = [jnp.tile(jnp.arange(16), (3, 1))]
    np.testing.assert_allclose(
        run(model, *inputs, every), run(model, *inputs), rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
def test_at_gamma_1_the_routed_blocks_are_as_if_not_there(model, make, inputs):
    shorter = make(depth=2, routes=((1, 1),))  # two stacks, to take the outer two of three
    shorter = jax.tree.map(lambda x: x, shorter)
    for name, value in vars(model).items():
        if name not in ("blocks", "depth"):
            setattr(shorter, name, value)
    shorter.blocks.stacks = nnx.List([model.blocks.stacks[0], model.blocks.stacks[2]])
    out = run(model, *inputs, draw(model, 1.0))
    assert 0.1 < out.std() < 10
    np.testing.assert_allclose(out, run(shorter, *inputs), rtol=1e-5, atol=1e-5)


def test_a_route_scans_the_kept_tokens_alone_and_leaves_the_others(make):
    """In raster order, as if the bypassed ones did not exist."""
    stack = make(routes=((0, 3),)).blocks  # the route is the whole stack
    h, c = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(2, 16, 32), (2, 32)]))
    ids = tokens.sample_ids(jax.random.split(jax.random.key(2)), 16, 6)
    out = stack(h, c, [[ids]])
    alone = stack(tokens.gather(h, ids), c, [None])  # a sequence of 6 tokens
    np.testing.assert_allclose(tokens.gather(out, ids), alone, rtol=1e-5, atol=1e-5)
    for image in range(2):
        for token in range(16):
            same = (out[image, token] == h[image, token]).all()
            assert same == (token not in ids[image])


@pytest.mark.every(3)
@pytest.mark.parametrize("labels, gammas", [(1, (0.25, 0.75)), (1, (0.0, 1.0)), (2, (0.25, 0.75))])
def test_branches_are_what_separate_calls_give(model, inputs, labels, gammas):
    x, t, y = inputs
    ys = [y, model.conditioning.null(y)][:labels]
    ids = [draw(model, gamma, seed) for seed, gamma in enumerate(gammas)]
    for i, out in enumerate(branches(model, x, t, ys, ids)):
        alone = run(model, x, t, ys[i % labels], ids[i])
        np.testing.assert_allclose(out, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_network_spread_over_devices_computes_the_same(make, inputs):
    model = make(depth=2, routes=((0, 1),))
    mesh = sharding.make_mesh(data=1, fsdp=2, tensor=2, devices=jax.devices()[:4])
    inputs = [jnp.concatenate([x, x[:1]]) for x in inputs]
    spread = jax.device_put(model, sharding.infer(model, mesh))
    log_a = spread.blocks.stacks[0].forward.log_a[...]
    assert log_a.sharding.shard_shape(log_a.shape) == (2, 2, 32)  # of 4 states, 64 channels
    ids = draw(model, 0.5, batch=4)
    batch = jax.device_put((*inputs, ids), sharding.batch_sharding(mesh))
    np.testing.assert_allclose(run(spread, *batch), run(model, *inputs, ids), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_half_precision_agrees_roughly_and_returns_float32(model, make, inputs):
    half = make(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("float32")}
    out, exact = run(half, *inputs), run(model, *inputs)
    assert out.dtype == jnp.float32
    assert 0 < jnp.sqrt(jnp.square(out - exact).mean()) < 0.03 * exact.std()


@pytest.mark.slow
def test_flow_matching_trains_it():
    """30 steps on four images, routed at gamma 0.5, with time, noise and ids held fixed."""
    sizes = {**TINY, "width": 16, "depth": 1, "routes": ((0, 0),)}
    fresh = random_weights.fresh(lambda rngs: SSM(**sizes, rngs=rngs))
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    batch = {"image": x, "condition": jnp.arange(4)}
    keys = jax.random.split(jax.random.key(1), 4)
    objective, tx = FlowMatching(gamma=0.5), optax.adam(3e-3)

    @jax.jit
    def step(model, opt_state):
        def loss(model):
            return objective(model, batch, keys).mean()

        value, gradient = jax.value_and_grad(loss)(model)
        updates, opt_state = tx.update(gradient, opt_state)
        return optax.apply_updates(model, updates), opt_state, value, optax.global_norm(gradient)

    network, opt_state, losses = fresh, tx.init(fresh), []
    for _ in range(30):
        network, opt_state, value, norm = step(network, opt_state)
        losses.append(float(value))
        assert 0 < norm < 1e3
    assert losses[-1] < 0.8 * losses[0]
    still = [
        jax.tree_util.keystr(path)
        for (path, new), old in zip(
            jax.tree_util.tree_leaves_with_path(network), jax.tree.leaves(fresh), strict=True
        )
        if jnp.array_equal(new, old)
    ]
    assert not still  # every weight has learned


@pytest.mark.slow
def test_recomputing_blocks_and_chunks_changes_no_gradient(make, h, c):
    def gradient(remat):
        stack = make(width=8, depth=2, routes=(), remat=remat).blocks
        return jax.jit(jax.grad(lambda stack: jnp.square(stack(h, c, [None])).mean()))(stack)

    for a, b in zip(
        jax.tree.leaves(gradient("selective")), jax.tree.leaves(gradient("none")), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * jnp.abs(b).max())


@pytest.mark.slow
def test_sparse_guidance_samples_from_it(make):
    model = make(width=16, depth=1, routes=((0, 0),))
    sg = Guidance(scale=1.5, gamma_strong=0.25, gamma_weak=0.75)
    guided, plain = (sample(model, [0, 1], g, steps=3) for g in (sg, "unguided"))
    assert guided.shape == (2, 8, 8, 3) and guided.dtype == np.uint8
    assert not np.array_equal(guided, plain)


def test_multiply_adds_by_hand(block, model):
    """Width 8, 16 channels, rank 1, 3 states, 10 tokens."""
    linear = 10 * (8 * 32 + 16 * 8 + 2 * (16 * 7 + 1 * 16)) + 8 * 24  # in, out, scans, adaLN
    assert block.macs(10, mixing=False) == linear
    # Into each of 16 x 3 states, from one token to the next, and out of it, both ways.
    assert block.macs(10, mixing=True) == linear + 10 * 2 * 3 * 16 * 3
    assert model.blocks.stacks[1].macs(16, True) == model.blocks.stacks[0].macs(16, True)


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(state=0), ["config.model.state=0", "[1, 65536]"]),
        (dict(expand=1.5), ["config.model.expand=1.5", "int"]),
        (dict(dtype="float16"), ["config.model.dtype='float16'", "'float32', 'bfloat16'"]),
        (dict(patch=3), ["config.model.patch=3"]),
        (dict(routes=((1, 4),)), ["route=(1, 4)", "depth=4"]),
    ],
)
def test_a_wrong_shape_is_named(make, changes, named):
    with pytest.raises(UserError) as error:
        make(**changes)
    for part in named:
        assert part in str(error.value)
