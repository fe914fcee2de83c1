"""Parts of the loss that are off by default: the loss of all routes, the inner head's, rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sg_jax.errors import UserError
from sg_jax.method.objective import FlowMatching, as_rates, in_words
from sg_jax.models.conditioning import Classes

COUNT, LAMBDA = 32, 0.3


class Routed:
    """16 tokens of a pixel; answers `value` everywhere, from its inner head `value` + 1."""

    conditioning = Classes(10, 1, nnx.Rngs(0))
    prediction, masks, tokens, patch, inner = "velocity", False, 16, 1, 0

    def __init__(self, value, choices=1, inner=0):
        self.value, self.choices, self.inner = value, choices, inner

    def branches(self, x, t, branches, inner=False):
        self.x, self.t, self.ids = x, t, branches[0].ids
        v = jnp.full_like(x, self.value)
        return ([v], v + 1) if inner else [v]


@pytest.fixture(scope="module")
def batch():
    x = jax.random.uniform(jax.random.key(0), (COUNT, 4, 4, 3), minval=-1.0)
    return {"image": x, "condition": jnp.arange(COUNT) % 10}


KEYS = jax.random.split(jax.random.key(7), COUNT)


def errors_of(net, x):
    """The square error of each token [B, 16], in NumPy, for the noise that x_t tells."""
    t = np.asarray(net.t)[:, None, None, None]
    z = (np.asarray(net.x) - t * np.asarray(x)) / (1 - t)
    return np.square(net.value - (np.asarray(x) - z)).mean(-1).reshape(COUNT, 16)


@pytest.mark.parametrize("choices", [1, 2])
def test_the_loss_of_all_routes(batch, choices):
    """Tokens of every route: mean || v - v* ||^2. Each route's others: lambda (1 - t)^2 times."""
    net = Routed(2.0, choices)
    loss = FlowMatching(gamma=0.75, route_loss=LAMBDA)(net, batch, KEYS)
    error, expected = errors_of(net, batch["image"]), []
    for n in range(COUNT):
        kept = [set(np.asarray(ids[n]).tolist()) for ids in net.ids]
        assert {len(one) for one in kept} == {4}
        common = sorted(set.intersection(*kept))
        seen = error[n, common].mean() if common else 0.0
        hidden = [error[n, sorted(set(range(16)) - one)].mean() for one in kept]
        expected.append(seen + LAMBDA * (1 - float(net.t[n])) ** 2 * np.mean(hidden))
    np.testing.assert_allclose(loss, expected, rtol=2e-3)
    if choices == 2:  # some images have no token that both routes compute, and no NaN
        both = [
            set(a.tolist()) & set(b.tolist())
            for a, b in zip(*map(np.asarray, net.ids), strict=True)
        ]
        assert min(map(len, both)) == 0 < max(map(len, both))


def test_without_it_every_token_counts_alike(batch):
    net = Routed(2.0)
    loss = FlowMatching(gamma=0.75)(net, batch, KEYS)
    np.testing.assert_allclose(loss, errors_of(net, batch["image"]).mean(1), rtol=2e-3)


def test_at_rates_of_0_and_1_every_token_counts_alike(batch):
    for gamma in (0.0, 1.0):  # at 1 none is computed, so all count alike
        plain, routed = (FlowMatching(gamma=gamma, route_loss=w) for w in (0.0, LAMBDA))
        same = plain(Routed(2.0), batch, KEYS), routed(Routed(2.0), batch, KEYS)
        np.testing.assert_array_equal(*same)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_inner_head_has_the_same_target(batch, weight):
    found = FlowMatching(inner=weight)(Routed(2.0, inner=1), batch, KEYS)
    outer, inner = (FlowMatching()(Routed(v), batch, KEYS) for v in (2.0, 3.0))
    np.testing.assert_allclose(found, outer + weight * inner, rtol=1e-5)


@pytest.mark.slow
def test_an_inner_head_learns_in_a_route(make_small, inputs):
    """Its gradient is 2 `inner` times that of weight 1/2, and the other weights have it too."""
    model = make_small(inner=1)
    batch = {"image": inputs[0], "condition": inputs[2]}

    @jax.jit
    def gradients(model):
        def mean(model, weight):
            return FlowMatching(inner=weight)(model, batch, KEYS[:3]).mean()

        return [jax.grad(mean)(model, weight) for weight in (0.0, 0.5, 1.0)]

    none, half, whole = gradients(model)
    assert not none.inner_final.kernel[...].any() and half.inner_final.kernel[...].any()
    np.testing.assert_allclose(
        whole.inner_final.kernel[...], 2 * half.inner_final.kernel[...], rtol=1e-4, atol=1e-7
    )
    first = [g.blocks.stacks[0].mlp.out.kernel[...] for g in (none, half, whole)]
    np.testing.assert_allclose(first[2] - first[0], 2 * (first[1] - first[0]), atol=1e-5)
    assert not np.allclose(first[0], first[1])


def test_rates_in_words():
    assert in_words(as_rates(0.5)) == "0.5"
    assert in_words(((0.75, 0.8), (1.0, 0.2))) == "0.75 (80%) or 1 (20%)"


@pytest.mark.parametrize(
    "rates, named",
    [
        (((0.5, 0.5), (0.75, 0.4)), ["objective.rates=", "add up to 1, not 0.9"]),
        (((0.5, 0.5), (0.5, 0.5)), ["a rate twice"]),
        (((1.5, 1.0),), ["gamma in [0, 1]"]),
        (((0.5, 0.0), (0.0, 1.0)), ["a share above 0"]),
        ((0.5, 1.0), ["must be pairs (gamma, share)"]),
        (0.5, ["must be pairs (gamma, share)"]),
        (((0.5, "half"),), ["must be pairs (gamma, share)"]),
    ],
)
def test_wrong_rates_are_named(rates, named):
    with pytest.raises(UserError) as error:
        FlowMatching(rates=rates)
    assert all(part in str(error.value) for part in named)
