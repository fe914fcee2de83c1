"""Routes through stacks of a toy block, against a loop over blocks in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numeric import loops_of

from sg_jax.errors import UserError
from sg_jax.method import tokens
from sg_jax.method.routing import interleave, split
from sg_jax.models.stack import RoutedStack
from sg_jax.parallel import sharding


class Mix(nnx.Module):
    """Add to each token the mean of those present, weighted, and the conditioning."""

    def __init__(self, rngs):
        self.weight = nnx.Param(jax.random.uniform(rngs.params(), ()))

    def __call__(self, h, moments, c):
        return h + self.weight[...] * h.mean(1, keepdims=True) + c[:, None], moments


def stack(routes, depth=5, remat="none", chunk=0):
    made = RoutedStack(Mix, depth, routes, remat, nnx.Rngs(0))
    made.chunk = chunk
    return made


def by_hand(net, routes, h, c, ids):
    """Return what Eq. 5 asks for, block by block and image by image."""
    weights = np.concatenate([np.asarray(s.weight[...]) for s in net.stacks])
    out = np.array(h, np.float64)
    for image, tokens_ in enumerate(out):
        for block, weight in enumerate(weights):
            keep = np.arange(len(tokens_))
            for route, (start, end) in enumerate(routes):
                if ids is not None and start <= block <= end:
                    keep = np.asarray(ids[route][image])
            if len(keep):
                tokens_[keep] += weight * tokens_[keep].mean(0) + np.asarray(c[image])
    return out


@pytest.fixture(scope="module")
def arrays():
    """Tokens [2, 8, 3] and conditioning [2, 3]."""
    keys = jax.random.split(jax.random.key(0))
    return jax.random.normal(keys[0], (2, 8, 3)), jax.random.normal(keys[1], (2, 3))


def draw(seed, *keeps):
    keys = jax.random.split(jax.random.key(seed), 2)
    return [tokens.sample_ids(jax.vmap(jax.random.fold_in)(keys, jnp.full(2, r)), 8, k)
            for r, k in enumerate(keeps)]  # fmt: skip


@pytest.mark.every(4)
@pytest.mark.parametrize(
    "routes, keeps",
    [
        (((1, 3),), (5,)),
        (((0, 4),), (1,)),
        (((2, 2),), (0,)),
        (((0, 1), (3, 4)), (3, 6)),  # two routes, each with its own ids
        (((1, 2), (3, 3)), (4, 4)),
    ],
)
def test_routes_do_what_eq_5_asks(arrays, routes, keeps):
    h, c = arrays
    net, ids = stack(routes), draw(3, *keeps)
    expected = by_hand(net, routes, h, c, ids)
    np.testing.assert_allclose(net(h, c, [ids]), expected, rtol=1e-5, atol=1e-5)


def test_bypassed_tokens_are_what_they_were_before_the_route(arrays):
    h, c = arrays
    ids = draw(0, 5)
    out = np.asarray(stack(((0, 4),))(h, c, [ids]))  # the route is the whole network
    for image in range(2):
        for token in range(8):
            assert (out[image, token] == h[image, token]).all() == (token not in ids[0][image])


def test_the_other_tokens_of_an_image_do_not_reach_kept_ones_inside_a_route(arrays):
    h, c = arrays
    net, ids = stack(((0, 4),)), draw(0, 5)
    other = tokens.scatter(jnp.full_like(h, 100.0), tokens.gather(h, ids[0]), ids[0])
    np.testing.assert_allclose(
        tokens.gather(net(h, c, [ids]), ids[0]),
        tokens.gather(net(other, c, [ids]), ids[0]),
        rtol=1e-6,
    )


def test_keeping_every_token_is_the_dense_network(arrays):
    h, c = arrays
    net = stack(((1, 3),))
    np.testing.assert_allclose(
        net(h, c, [[jnp.tile(jnp.arange(8), (2, 1))]]), net(h, c, [None]), rtol=1e-6
    )


def test_the_weights_of_a_block_do_not_depend_on_the_routes(arrays):
    """So a dense and a routed network start equal, and gamma 0 computes the same."""
    h, c = arrays
    np.testing.assert_allclose(stack(())(h, c, [None]), stack(((1, 3),))(h, c, [None]), rtol=1e-6)


def test_blocks_differ_from_one_another():
    assert len(np.unique(np.concatenate([s.weight[...] for s in stack(((1, 3),)).stacks]))) == 5


@pytest.mark.parametrize("remat", ["selective", "full"])
def test_recomputing_changes_no_value_and_no_gradient(arrays, remat):
    h, c = arrays
    ids = draw(0, 5)

    def loss(net):
        return jnp.square(net(h, c, [ids])).sum()

    plain, other = (jax.value_and_grad(loss)(stack(((1, 3),), remat=r)) for r in ("none", remat))
    assert len(jax.tree.leaves(plain)) == len(jax.tree.leaves(other)) == 4
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.every(2)
@pytest.mark.parametrize("chunk", [1, 8, 20, 1000])  # tokens; images have 8, 5 of them kept
def test_running_a_part_of_the_batch_at_a_time_changes_no_value_and_no_gradient(arrays, chunk):
    h, c = arrays
    ids = draw(0, 5)

    def loss(net):
        return jnp.square(net(h, c, [ids])).sum()

    plain, other = (jax.value_and_grad(loss)(stack(((1, 3),), chunk=n)) for n in (0, chunk))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_program_for_a_cpu_has_the_same_values_and_gradients(arrays):
    """Traced on a mesh of CPUs its blocks are unrolled."""
    h, c = arrays
    ids = draw(0, 5)

    def run(mesh):
        def loss(net):
            with sharding.on(mesh):
                return jnp.square(net(h, c, [ids])).sum()

        net = stack(((1, 3),))
        return loops_of(jax.grad(loss), net), jax.jit(jax.value_and_grad(loss))(net)

    (loops, plain), (none, other) = run(None), run(sharding.one_device())
    assert loops and not none
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(("platform", "unrolled"), [("gpu", True), ("tpu", False)])
def test_blocks_are_unrolled_for_gradients_where_copies_cost_most(
    arrays, monkeypatch, platform, unrolled
):
    (h, c), ids = arrays, draw(0, 5)
    monkeypatch.setattr(sharding, "platform", lambda: platform)
    gradient = jax.grad(lambda net: jnp.square(net(h, c, [ids])).sum())
    assert (loops_of(gradient, stack(((1, 3),))) == 0) is unrolled


def test_on_a_cpu_a_chunk_that_suits_has_1024_tokens():
    h, c = jnp.ones((3, 512, 4)), jnp.ones((3, 4))

    def loops(chunk):
        with sharding.on(sharding.one_device()):
            return loops_of(lambda h, c: stack((), chunk=chunk)(h, c, [None]), h, c)

    assert loops(0) == loops(1536) == loops(1024) - 1 == loops(-1) - 1


def test_an_unknown_remat_is_named():
    message = r"config.model.remat='select' must.*'full'.*mean 'selective'"
    with pytest.raises(UserError, match=message):
        stack((), remat="select")


TWO = ((0, 0), (2, 3))


@pytest.mark.every(4)
@pytest.mark.parametrize(
    "branches",
    [
        [(5, 5), (5, 5)],
        [(5, 5), (2, 7)],
        [None, (5, 5)],
        [(0, 0), None],
        [None, None],
        [(3, 3), (0, 0)],
        [(3, 3), (6, 6), None],
        [(8, 8), (8, 3)],
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_branches_are_what_each_would_be_alone(arrays, branches, shared):
    h, c = arrays
    net = stack(TWO)
    ids = [None if keeps is None else draw(9 + i, *keeps) for i, keeps in enumerate(branches)]
    hs = [h if shared else h + i for i in range(len(ids))]
    cs = [c if shared else c - i for i in range(len(ids))]
    out = net(interleave(hs), interleave(cs), ids) if not shared else net(h, c, ids, shared=True)
    for one, *arguments in zip(split(out, len(ids)), hs, cs, ids, strict=True):
        np.testing.assert_allclose(one, by_hand(net, TWO, *arguments), rtol=1e-5, atol=1e-5)
