"""The scan that keeps what blocks save: its gradients, and what it computes again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import loops_of

from sg_jax.models import remat
from sg_jax.models.remat import save, saved


def run(block, carry, c):
    """Two steps; what the first makes is saved."""
    h, count = carry
    h = h + save(h @ block["w"]) * jnp.cos(c)[:, None]
    return h, count + 1


@pytest.fixture(scope="module")
def arrays():
    h, c, w = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(SHAPES))
    return h, c, {"w": w}


SHAPES = [(2, 3, 4), (2, 4), (5, 4, 4)]


def loss(h, c, stack, scan):
    return jnp.square(scan(run, (h, jnp.zeros(2)), c, stack)).sum()


def plain(run, carry, c, stack):
    return jax.lax.scan(lambda carry, block: (run(block, carry, c), None), carry, stack)[0][0]


@pytest.mark.parametrize("scan", [remat.scan, remat.unrolled_scan])
def test_values_and_gradients_are_those_of_a_plain_scan(arrays, scan):
    ours, expected = (jax.value_and_grad(loss, (0, 1, 2))(*arrays, s) for s in (scan, plain))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_without_gradients_nothing_is_kept(arrays):
    program = jax.make_jaxpr(lambda *a: loss(*a, remat.scan))(*arrays)
    assert "f32[5,2,3,4]" not in str(program)


def test_unrolled_blocks_are_a_loop_without_gradients(arrays):
    def ours(*arrays):
        return loss(*arrays, remat.unrolled_scan)

    loops = [loops_of(f, *arrays) for f in (ours, jax.grad(ours))]
    assert loops == [1, 0]


def test_what_is_saved_is_not_computed_again(arrays):
    """A product in the forward pass, and two in the backward pass: for h and for w."""
    gradient = jax.jit(jax.grad(lambda *a: loss(*a, remat.scan), (0, 1, 2)))
    text = gradient.lower(*arrays).compile().as_text()
    assert text.count(" dot(") == 3


def test_nothing_is_saved_outside_of_a_scan():
    x = jnp.ones(3)
    assert save(x) is x and saved(x) == (x, None)


def test_places_are_known_in_the_backward_pass_alone(arrays):
    """There the stack of all blocks and the number of this one give what the block has saved."""
    seen = []

    def noting(block, carry, c):
        x, place = saved(jnp.sin(carry[0] @ block["w"]))
        seen.append(place and (place.stack.shape, place.place.shape, place.value.shape))
        return carry[0] + x, carry[1]

    h, c, stack = arrays
    jax.grad(lambda h: remat.scan(noting, (h, 0.0), c, stack).sum())(h)
    assert seen == [None, ((5, 2, 3, 4), (), (2, 3, 4))]


def test_an_error_in_a_block_leaves_no_trace(arrays):
    def failing(block, carry, c):
        raise ValueError("no")

    h, c, stack = arrays
    with pytest.raises(ValueError, match="no"):
        jax.grad(lambda h: remat.scan(failing, (h, 0.0), c, stack).sum())(h)
    assert saved(h) == (h, None)
