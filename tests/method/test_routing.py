"""Routes as segments, branches side by side, and which tokens a prediction keeps."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.method.routing import Segment, draw_ids, interleave, run_branches, segments, split


@pytest.mark.parametrize(
    "depth, routes, expected",
    [
        (3, [], [(0, 3, None)]),
        (6, [(1, 4)], [(0, 1, None), (1, 5, 0), (5, 6, None)]),
        (28, [(2, 24)], [(0, 2, None), (2, 25, 0), (25, 28, None)]),  # 23 routed blocks
        (4, [(0, 3)], [(0, 4, 0)]),
        (5, [(1, 1), (3, 3)], [(0, 1, None), (1, 2, 0), (2, 3, None), (3, 4, 1), (4, 5, None)]),
        (4, [(0, 1), (2, 3)], [(0, 2, 0), (2, 4, 1)]),
    ],
)
def test_segments_cut_the_depth(depth, routes, expected):
    assert segments(depth, routes) == tuple(Segment(*s) for s in expected)


@pytest.mark.parametrize(
    "routes, named",
    [
        ([(3, 2)], ["(3, 2)", "0 <= start <= end < depth=5"]),
        ([(2, 5)], ["(2, 5)", "depth=5"]),
        ([(-1, 2)], ["(-1, 2)", "0 <= start"]),
        ([(0, 2), (2, 3)], ["(2, 3)", "block 3", "not overlap"]),
        ([(3, 4), (0, 1)], ["(0, 1)", "in order"]),
        ([(1, 2, 3)], ["(1, 2, 3)", "pair"]),
        ([(1.0, 2)], ["(1.0, 2)", "ints"]),
    ],
)
def test_a_wrong_route_is_named(routes, named):
    with pytest.raises(UserError) as error:
        segments(5, routes)
    for part in ["config.model.routes", *named]:
        assert part in str(error.value)


@pytest.mark.parametrize("routes", [(2, 3), [5]])
def test_a_forgotten_bracket_is_named(routes):
    with pytest.raises(UserError, match=r"config.model.routes.*must be a pair"):
        segments(5, routes)


def test_interleave_puts_the_branches_of_an_image_side_by_side():
    a, b = jnp.array([1, 2, 3]), jnp.array([10, 20, 30])
    np.testing.assert_array_equal(interleave([a, b]), [1, 10, 2, 20, 3, 30])
    for part, expected in zip(split(interleave([a, b]), 2), (a, b), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_two_branches_by_hand():
    """Blocks 0, 1 and 2 add 1, 10 and 100; the route is block 1, of which 2 and 1 of 3 are kept."""

    def add(weight, h, c):
        calls.append(h.shape)
        return h + weight

    calls = []
    pieces = list(zip(segments(3, [(1, 1)]), (1.0, 10.0, 100.0), strict=True))
    ids = [[jnp.array([[0, 2]])], [jnp.array([[1]])]]
    out = run_branches(add, pieces, jnp.zeros((1, 3, 1)), jnp.zeros((1, 1)), ids, shared=True)
    np.testing.assert_array_equal(out[..., 0], [[111, 101, 111], [101, 111, 101]])
    assert calls == [(1, 3, 1), (1, 2, 1), (1, 1, 1), (2, 3, 1)]  # what is equal runs once


def draw(gamma, choices=1, masks=False):
    model = types.SimpleNamespace(tokens=16, choices=choices, masks=masks)
    return draw_ids(model, jax.random.split(jax.random.key(0), 3), gamma)


def test_each_route_draws_its_own_ids():
    first, second = draw(0.5, choices=2)
    assert first.shape == second.shape == (3, 8)
    assert not jnp.array_equal(first, second)


def test_nothing_is_drawn_where_every_token_is_kept():
    assert draw(0.0) is None
    assert draw(0.05) is None  # floor(16 * 0.05) = 0 tokens dropped
    assert draw(0.5, choices=0) is None
    assert draw(1.0)[0].shape == (3, 0)


def test_a_network_that_masks_needs_a_token():
    with pytest.raises(UserError, match=r"gamma=1.0 would mask all 16 tokens.*at least one"):
        draw(1.0, masks=True)
    assert draw(0.99, masks=True)[0].shape == (3, 1)
