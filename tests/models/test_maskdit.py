"""Masking: what the encoder does not see, what the decoder gets in its place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from flax import nnx

from sg_jax.errors import UserError
from sg_jax.method.guidance import Guidance
from sg_jax.method.network import Branch
from sg_jax.method.objective import FlowMatching
from sg_jax.method.routing import draw_ids
from sg_jax.models.maskdit import MaskDiT
from sg_jax.programs import sampling

TINY = dict(  # 16 tokens
    image_size=8, channels=3, num_classes=5, patch=2, width=32, depth=2, heads=2,
    decoder_width=16, decoder_depth=2, decoder_heads=4,
)  # fmt: skip
IDS = jnp.array([[0, 3, 5, 15], [1, 2, 4, 8], [0, 7, 9, 14]])  # [3, 4]


@jax.jit
def branches(model, x, t, ys, ids):
    """One label for all branches, or one for each."""
    ys = ys * len(ids) if len(ys) == 1 else ys
    return model.branches(x, t, [Branch(y, i) for y, i in zip(ys, ids, strict=True)])


@pytest.fixture(scope="module")
def masked():
    """A tiny network whose every weight is random."""
    return random_weights.network(lambda rngs: MaskDiT(**TINY, rngs=rngs))


def changed(model, name, value):
    """`model` with another array in one parameter."""

    def pick(path, leaf):
        return value if jax.tree_util.keystr(path, simple=True).startswith(name) else leaf

    return jax.tree_util.tree_map_with_path(pick, model)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_fresh_network_returns_zeros(inputs):
    v = jax.jit(lambda: MaskDiT(**TINY, rngs=nnx.Rngs(0))(*inputs, IDS))()
    assert v.dtype == jnp.float32
    np.testing.assert_array_equal(v, np.zeros((3, 8, 8, 3)))


@pytest.mark.slow
def test_keeping_every_token_is_the_dense_network(masked, inputs, forward):
    every = jnp.tile(jnp.arange(16), (3, 1))
    close(forward(masked, *inputs, every), forward(masked, *inputs))


def test_ids_come_alone_or_in_a_list_and_in_any_order(masked, inputs, forward):
    alone = forward(masked, *inputs, IDS)
    np.testing.assert_array_equal(forward(masked, *inputs, [IDS]), alone)
    close(forward(masked, *inputs, IDS[:, ::-1]), alone)
    with pytest.raises(UserError, match="has 2 arrays"):
        masked(*inputs, [IDS, IDS])


def test_masked_pixels_do_not_reach_the_output(masked, inputs, forward):
    x, t, y = inputs
    noise = jax.random.normal(jax.random.key(7), x.shape)
    corner = x.at[:, 2:4, 4:6].set(noise[:, 2:4, 4:6])  # token 6 = row 1, column 2: masked in all
    out = forward(masked, x, t, y, IDS)
    np.testing.assert_array_equal(forward(masked, corner, t, y, IDS), out)
    assert jnp.abs(forward(masked, corner, t, y) - forward(masked, x, t, y)).max() > 0.01
    assert jnp.abs(out[:, 2:4, 4:6]).min() > 0  # and yet the masked token is predicted


def test_the_mask_token_stands_for_what_is_missing_only(masked, inputs, forward):
    other = changed(masked, "mask_token", jnp.ones(16))
    np.testing.assert_array_equal(forward(other, *inputs), forward(masked, *inputs))
    moved = jnp.abs(forward(other, *inputs, IDS) - forward(masked, *inputs, IDS))
    assert moved.max() > 0.01


def test_the_null_label_has_no_embedding(masked, inputs, forward):
    x, t, y = inputs
    none = changed(masked, "label_embedding", jnp.zeros((5, 32)))
    null = masked.conditioning.null(y)
    np.testing.assert_array_equal(forward(masked, x, t, null), forward(none, x, t, y))
    assert jnp.abs(forward(masked, x, t, null) - forward(masked, x, t, y)).max() > 0.01


@pytest.mark.every(3)
@pytest.mark.parametrize("second", [None, [IDS[:, ::-1] ^ 1], [IDS[:, :2]]])
@pytest.mark.parametrize("labels", ["same", "null"])
def test_branches_are_the_predictions_one_by_one(masked, inputs, forward, second, labels):
    x, t, y = inputs
    null = masked.conditioning.null(y)
    ys = [y] if labels == "same" else [y, null]
    strong, weak = branches(masked, x, t, ys, [[IDS], second])
    close(strong, forward(masked, x, t, y, IDS))
    close(weak, forward(masked, x, t, ys[-1], second))


@pytest.mark.parametrize(("gamma", "keep"), [(0.5, 8), (0.75, 4), (0.9, 2), (0.99, 1)])
def test_drawn_ids_keep_the_share_that_gamma_leaves(masked, gamma, keep):
    (ids,) = draw_ids(masked, jax.random.split(jax.random.key(0), 3), gamma)
    assert ids.shape == (3, keep)
    assert all(len(set(row.tolist())) == keep for row in ids)


def test_gamma_0_is_dense_and_gamma_1_impossible(masked, inputs):
    keys = jax.random.split(jax.random.key(0), 3)
    assert draw_ids(masked, keys, 0.0) is None
    with pytest.raises(UserError, match=r"gamma=1.0 would mask all 16 tokens.*at least one"):
        draw_ids(masked, keys, 1.0)
    with pytest.raises(UserError, match=r"at least one token.*\(3, 0\)"):
        masked(*inputs, [IDS[:, :0]])


@pytest.mark.slow
def test_it_trains_and_is_guided_like_any_network(masked, inputs):
    x, _, y = inputs
    objective = FlowMatching(gamma=0.75)
    batch, keys = {"image": x, "condition": y}, jax.random.split(jax.random.key(0), len(x))
    gradient = jax.grad(lambda model: objective(model, batch, keys).mean())
    grads = jax.jit(gradient)(masked)
    names = {
        jax.tree_util.keystr(path) for path, g in jax.tree.leaves_with_path(grads) if not g.any()
    }
    assert names and all(name.endswith(".key.bias.value") for name in names), names  # no effect
    guidance = Guidance(scale=1.5, gamma_strong=0.5, gamma_weak=0.75)
    images = sampling.sample(masked, [0, 4], guidance, steps=2)
    assert images.shape == (2, 8, 8, 3)


def test_bfloat16_and_remat_compute_the_same(masked, inputs, forward):
    like = jax.eval_shape(lambda: MaskDiT(**TINY, dtype="bfloat16", remat="full", rngs=nnx.Rngs(0)))
    low = jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(masked))
    exact, rough = forward(masked, *inputs, IDS), forward(low, *inputs, IDS)
    assert rough.dtype == jnp.float32
    assert jnp.abs(rough - exact).max() < 0.05 * jnp.abs(exact).max()


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (dict(routes=((0, 1),)), "routes=.*must be empty"),
        (dict(decoder_heads=3), "decoder_width=16 must be divisible .*decoder_heads=3"),
        (dict(decoder_width=18, decoder_heads=2), "decoder_width=18 must be divisible by 4"),
        (dict(decoder_depth=0), r"decoder_depth=0 must be an int in \[1, 10000\]"),
        (dict(heads=5), "width=32 must be divisible by config.model.heads=5"),
    ],
)
def test_what_cannot_be_built_says_why(wrong, text):
    with pytest.raises(UserError, match=text):
        jax.eval_shape(lambda: MaskDiT(**{**TINY, **wrong}, rngs=nnx.Rngs(0)))
