"""The inner head, skipped blocks, borrowed tokens and noise on the time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sg_jax.errors import UserError
from sg_jax.method import prediction
from sg_jax.method.network import Branch
from sg_jax.method.routing import Segment, run_branches, segments
from sg_jax.method.tokens import sample_ids
from sg_jax.models.backbone import noisy
from sg_jax.models.dit import DiT
from sg_jax.models.maskdit import MaskDiT
from sg_jax.weights import starts
from sg_jax.weights.checkpoints import named

KEYS = jax.random.split(jax.random.key(7), 3)
IDS = [sample_ids(KEYS, 16, 8)]


@pytest.mark.parametrize(
    "inner, expected",
    [
        (0, [(0, 1, None), (1, 5, 0), (5, 6, None)]),
        (1, [(0, 1, None), (1, 5, 0), (5, 6, None)]),  # there is a cut already
        (3, [(0, 1, None), (1, 3, 0), (3, 5, 0), (5, 6, None)]),
        (5, [(0, 1, None), (1, 5, 0), (5, 6, None)]),
    ],
)
def test_segments_are_cut_at_the_head(inner, expected):
    assert segments(6, [(1, 4)], inner) == tuple(Segment(*s) for s in expected)


def test_a_cut_in_a_route_changes_nothing_by_hand():
    """Blocks add 1, 10, 100, 1000; the route is blocks 1 and 2 on token 1 of 2, cut between."""
    seen = {}
    pieces = list(zip(segments(4, [(1, 2)], 2), (1.0, 10.0, 100.0, 1000.0), strict=True))
    out = run_branches(
        lambda weight, h, c: h + weight,
        pieces,
        jnp.zeros((1, 2, 1)),
        jnp.zeros((1, 1)),
        [[jnp.array([[1]])]],
        visit=lambda done, h: seen.update({done: h[0, :, 0].tolist()}),
    )
    assert out[0, :, 0].tolist() == [1001, 1111]
    assert seen == {1: [1, 1], 2: [1, 11], 3: [1, 111], 4: [1001, 1111]}


def test_borrowed_tokens_by_hand():
    """Blocks add 1, 10, 100; the strong one keeps tokens 0 and 2 of 3, the weak one token 2."""
    calls = []

    def add(weight, h, c):
        calls.append(h.shape)
        return h + weight

    pieces = list(zip(segments(3, [(1, 1)]), (1.0, 10.0, 100.0), strict=True))
    ids = [[jnp.array([[0, 2]])], [jnp.array([[2]])]]
    h, c = jnp.zeros((1, 3, 1)), jnp.zeros((1, 1))
    out = run_branches(add, pieces, h, c, ids, True, (False, True))
    assert out[..., 0].tolist() == [[111, 101, 111], [101, 101, 111]]
    assert calls == [(1, 3, 1), (1, 2, 1), (2, 3, 1)]  # the weak one runs no block of the route
    same = run_branches(add, pieces, h, c, [ids[0], ids[0]], True, (False, True))
    np.testing.assert_array_equal(*same)  # of the same tokens all are lent
    whole = run_branches(add, pieces, h, c, [None, ids[1]], True, (False, True))
    assert whole[..., 0].tolist() == [[111, 111, 111], [101, 101, 111]]


@pytest.fixture(scope="module")
def headed(make_dit):
    """Five blocks, of which 1 to 3 are routed, and a head after two."""
    return make_dit(depth=5, width=16, heads=2, routes=((1, 3),), inner=2)


@pytest.fixture(scope="module")
def plain(headed, make_dit):
    """The same network without the head."""
    made = make_dit(depth=5, width=16, heads=2, routes=((1, 3),))
    whole = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *headed.blocks.stacks[1:3])
    made = with_parts(made, headed)
    made.blocks.stacks[0], made.blocks.stacks[1] = headed.blocks.stacks[0], whole
    made.blocks.stacks[2] = headed.blocks.stacks[3]
    return made


def with_parts(made, other):
    for name in ("patch_embedding", "time_embedding", "label_embedding"):
        setattr(made, name, getattr(other, name))
    made.final_modulation, made.final = other.final_modulation, other.final
    return made


@pytest.mark.parametrize("ids", [IDS, pytest.param(None, marks=pytest.mark.slow)])
def test_the_head_reads_what_the_route_would_return_if_it_ended_there(headed, plain, inputs, ids):
    """A network of two blocks, whose route is block 1 and whose head is the inner one."""
    x, t, y = inputs
    run = jax.jit(lambda m, ids: prediction.velocity_and_inner(m, x, t, y, ids))
    v, inner = run(headed, ids)
    np.testing.assert_allclose(v, jax.jit(lambda m, i: m(x, t, y, i))(plain, ids), atol=1e-5)

    def short(m, ids):
        m = jax.tree.map(lambda a: a, m)
        m.final_modulation, m.final = m.inner_modulation, m.inner_final
        return m.skipping(jnp.arange(5) < 2)(x, t, y, ids)

    np.testing.assert_allclose(inner, jax.jit(short)(headed, ids), atol=1e-5)
    assert np.abs(inner - v).max() > 0.01


def test_a_network_without_a_head_says_so(small, inputs):
    x, t, y = inputs
    with pytest.raises(UserError, match=r"no inner head; config\.model\.inner gives it one"):
        prediction.velocity_and_inner(small, x, t, y)


@pytest.mark.parametrize("inner", [-1, 2, 1.5, True])
def test_a_wrong_place_is_named(make_small, inner):
    with pytest.raises(UserError, match=rf"config.model.inner={inner} .* inner < depth=2, or 0"):
        make_small(inner=inner)


def test_all_other_weights_are_those_of_a_network_without_the_head(zero):
    """The small network as initialised; a head after its first block cuts it where a route does."""
    shape = dict(image_size=8, channels=3, num_classes=5, patch=2, width=16, depth=2, heads=2)
    build = jax.jit(lambda: DiT(**shape, routes=((1, 1),), inner=1, rngs=nnx.Rngs(0)))
    ours, theirs = named(build()), named(zero)
    new = {name for name in ours if name.startswith("inner_")}
    assert ours.keys() - new == theirs.keys() and len(new) == 4
    assert ours["inner_final/kernel"].shape == (16, 12)
    for name, leaf in theirs.items():
        np.testing.assert_allclose(ours[name], leaf, rtol=1e-6, atol=1e-7)
    for name in ("inner_final/kernel", "inner_modulation/kernel"):
        assert (ours[name] == 0).all()  # it starts at zero like the other head


def test_a_start_from_weights_without_the_head_leaves_it_fresh(make_small):
    """And one from weights with it drops it, or joins the stacks that it cut."""
    shape = dict(depth=3, routes=((0, 2),))
    without, headed = make_small(**shape), make_small(**shape, inner=1, seed=1)
    ours = named(starts.fitted(without, headed))
    for name, leaf in named(headed).items():
        if name.startswith("inner_"):
            np.testing.assert_array_equal(ours[name], leaf)
    back = named(starts.fitted(starts.fitted(without, headed), without))
    for name, leaf in named(without).items():
        np.testing.assert_array_equal(back[name], leaf)


def test_masking_has_no_head_and_lends_nothing():
    with pytest.raises(UserError, match=r"config\.model\.inner=1 must be 0: a network that masks"):
        MaskDiT(image_size=8, channels=3, num_classes=5, patch=2, width=16, depth=2, heads=2,
                inner=1, rngs=nnx.Rngs(0))  # fmt: skip


@pytest.mark.slow
def test_no_block_skipped_changes_nothing_and_all_skipped_leave_the_ends(small, inputs, forward):
    x, t, y = inputs
    run = jax.jit(lambda m, active: m.skipping(active)(x, t, y, IDS))
    np.testing.assert_allclose(
        run(small, jnp.ones(2, bool)), forward(small, x, t, y, IDS), atol=1e-6
    )
    first = run(small, jnp.array([True, False]))  # the second block is the whole route
    none = [jnp.zeros((3, 0), jnp.int32)]
    np.testing.assert_allclose(first, forward(small, x, t, y, none), atol=1e-6)


def test_noise_on_the_time_changes_only_its_branch(small, inputs):
    x, t, y = inputs
    amount = jnp.array([0.0, 1.0, 1.0])
    run = jax.jit(lambda m, y: m.branches(x, t, [Branch(y), Branch(y, time_noise=(KEYS, amount))]))
    clean, noisy = run(small, y)
    moved = np.abs(clean - noisy).max((1, 2, 3))
    assert moved[0] < 1e-5 and (moved[1:] > 0.01).all()


def test_noise_on_the_time_has_the_deviation_of_each_embedding_times_the_amount():
    """e + a std(e) n (arXiv 2407.02687), with the same n whatever e is."""
    e = np.random.default_rng(0).normal(3.0, 2.0, (3, 64)).astype(np.float32)
    amount = np.array([0.5, 1.0, 2.0], np.float32)
    draws = [
        (np.asarray(noisy(jnp.asarray(x), (KEYS, jnp.asarray(a)))) - x)
        / (a * np.sqrt(np.mean((x - x.mean(1, keepdims=True)) ** 2, 1)))[:, None]
        for x, a in ((e, amount), (5 * e[::-1], 3 * amount))
    ]
    np.testing.assert_allclose(*draws, rtol=1e-3, atol=1e-4)
    assert np.abs(draws[0].mean()) < 0.25 and np.abs(draws[0].std() - 1) < 0.2
    np.testing.assert_array_equal(noisy(jnp.asarray(e), None), e)
