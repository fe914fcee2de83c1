"""A network that satisfies the Protocol and nothing else, with conditions that are no classes."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.method import checks, terms
from sg_jax.method import guidance as lib
from sg_jax.method.guidance import Guidance
from sg_jax.method.network import Conditioning, Network
from sg_jax.method.objective import FlowMatching
from sg_jax.method.sampler import Sampler


class Points:
    """Conditions are points {"x": [B], "y": [B, 2]}; nothing in particular is the origin."""

    kind, count, drawable = "points", None, True

    def null(self, condition):
        return jax.tree.map(jnp.zeros_like, condition)

    def another(self, condition, keys):
        x = jax.vmap(lambda key: jax.random.normal(key))(keys)
        return {"x": x, "y": jnp.stack([x, -x], 1)}


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Plain:
    """Return everywhere weight * (x + y0 + y1), plus the share of 4 tokens that is kept."""

    weight: jax.Array

    image_size, channels, patch = 4, 1, 2
    prediction, masks, tokens, choices = "velocity", False, 4, 1
    inner, depth = 0, 1
    conditioning = Points()

    def skipping(self, active):
        return self

    def branches(self, x, t, branches, inner=False):
        out = []
        for condition, kept, *_ in branches:
            share = 1.0 if kept is None else kept[0].shape[1] / 4
            value = self.weight * (condition["x"] + condition["y"].sum(1)) + share  # [B]
            out.append(jnp.broadcast_to(value[:, None, None, None], x.shape))
        return out


POINTS = {"x": jnp.array([1.0, 2.0]), "y": jnp.array([[1.0, 1.0], [0.0, -3.0]])}  # sums 3 and -1


def members(protocol):
    return (
        typing.get_protocol_members(protocol)
        if hasattr(typing, "get_protocol_members")
        else ({n for n in (*vars(protocol), *protocol.__annotations__) if not n.startswith("_")})
    )


def test_it_has_what_the_protocols_name_and_no_more(small):
    for protocol, ours, usual in (
        (Network, Plain, small),
        (Conditioning, Points, small.conditioning),
    ):
        assert {n for n in dir(ours) if n[0] != "_"} - {"weight"} == members(protocol)
        assert all(hasattr(usual, name) for name in members(protocol))


def test_it_is_trained():
    """The loss of a batch falls along the gradient of its one weight."""
    batch = {"image": jnp.ones((2, 4, 4, 1)), "condition": POINTS}
    keys = jax.random.split(jax.random.key(0), 2)

    @jax.jit
    def loss(model):
        return FlowMatching(gamma=0.5, label_dropout=0.0)(model, batch, keys).mean()

    model = Plain(jnp.float32(2.0))
    slope = jax.grad(loss)(model).weight
    assert loss(Plain(model.weight - 0.01 * slope)) < loss(model)


@pytest.mark.parametrize("rate, expected", [(0.0, [7.0, -1.0]), (1.0, [1.0, 1.0])])
def test_dropout_gives_it_the_null_condition(rate, expected):
    """A network that returns its condition tells which it was given: 2 * 3 + 1 and 2 * -1 + 1."""
    seen = []

    class Noting(Plain):
        def branches(self, x, t, branches, inner=False):
            seen.extend(super().branches(x, t, branches))
            return seen[-1:]

    batch = {"image": jnp.ones((2, 4, 4, 1)), "condition": POINTS}
    objective = FlowMatching(gamma=0.0, label_dropout=rate)
    objective(Noting(jnp.float32(2.0)), batch, jax.random.split(jax.random.key(0), 2))
    np.testing.assert_array_equal(seen[0][:, 0, 0, 0], expected)


@pytest.mark.every(2)
@pytest.mark.parametrize(
    "guidance, distance",  # that a run moves the images: its velocity, which is constant
    [
        (Guidance(), [7.0, -1.0]),
        (Guidance(3.0, 0.0, 0.5), [8.0, 0.0]),  # 3 * 7 - 2 * 6.5; 3 * -1 - 2 * -1.5
        (Guidance(2.0, weak_label="null"), [13.0, -3.0]),  # 2 * 7 - 1; 2 * -1 - 1
        (Guidance(2.0, 0.25, 1.0, "null"), [13.5, -2.5]),  # 2 * 6.75 - 0; 2 * -1.25 - 0
    ],
)
def test_it_is_guided_and_sampled(guidance, distance):
    model, sampler = Plain(jnp.float32(2.0)), Sampler()
    checks.check_setting(model, guidance)
    plan, scales = lib.plan(guidance, sampler, 4)
    (stretch,) = plan.stretches
    keys = jax.random.split(jax.random.key(0), 2)
    velocity = terms.guided_velocity(
        model, None, stretch, plan, POINTS, keys, jnp.asarray(scales), sampler.evaluations
    )
    x, _ = sampler.integrate(velocity, lambda n: None, jnp.zeros((2, 4, 4, 1)), sampler.times(4))
    np.testing.assert_allclose(x[:, 3, 0, 0], distance, rtol=1e-5, atol=1e-5)


def test_another_condition_is_what_it_says():
    """Its points sum to their first number: x + x - x."""
    model, guidance = Plain(jnp.float32(1.0)), Guidance(2.0, weak_label="random")
    checks.check_setting(model, guidance)  # how many there are is not counted
    plan, scales = lib.plan(guidance, Sampler(), 1)
    keys = jax.random.split(jax.random.key(0), 2)
    run = terms.guided_velocity(model, None, plan.stretches[0], plan, POINTS, keys, scales)
    v = run(jnp.zeros((2, 4, 4, 1)), 0.0, 0)[0][:, 0, 0, 0]
    fold = jax.vmap(jax.random.fold_in, (0, None))
    other = jax.vmap(lambda key: jax.random.normal(key))(fold(fold(keys, 0), 2))
    np.testing.assert_allclose(v, 2 * np.array([4.0, 0.0]) - (other + 1), rtol=1e-5)


def test_a_network_of_other_conditions_does_not_guide_it(make_small):
    other = make_small(image_size=4, channels=1)
    with pytest.raises(UserError, match="its condition is 5 classes, not points"):
        checks.check_setting(Plain(jnp.float32(1.0)), Guidance(2.0, weak_step=1), other)
