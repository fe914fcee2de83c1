"""EDM's preconditioning in our time, against Karras' formulas in sigma."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg_jax.method import prediction
from sg_jax.method.network import Branch
from sg_jax.method.routing import draw_ids

SD = 0.5
TIMES = np.array([0.02, 0.1, 0.35, 0.5, 0.8, 0.95, 0.99])  # sigma from 49 down to 0.01
rng = np.random.default_rng(0)
X, V, F = (rng.standard_normal((7, 2, 2, 3)) for _ in range(3))


class Net:
    """Answer f(x, noise) in place of F, and remember what was asked."""

    prediction = "edm"

    def __init__(self, f):
        self.f = f

    def branches(self, x, t, branches, inner=False):
        self.x, self.t, self.ids = x, t, [b.ids for b in branches]
        return [self.f(x, t, b.condition) for b in branches]


def column(values):
    return np.asarray(values, np.float64).reshape(-1, 1, 1, 1)


def single(x):
    return jnp.asarray(x, jnp.float32)


def velocity(f, x=X, t=TIMES):
    net = Net(f)
    y = jnp.arange(len(t))
    return net, np.asarray(prediction.velocity(net, single(x), single(t), y), np.float64)


def karras(t):
    """c_skip, c_out, c_in and c_noise of EDM's Table 1, at sigma = (1 - t) / t."""
    sigma = (1 - t) / t
    total = sigma**2 + SD**2
    return SD**2 / total, sigma * SD / np.sqrt(total), 1 / np.sqrt(total), np.log(sigma) / 4


def test_the_denoised_image_is_karras():
    """D = c_skip y + c_out F(c_in y, c_noise) at y = x_t / t, and D = x_t + (1 - t) v."""
    weights = single(F)
    net, v = velocity(lambda x, t, y: jnp.sin(x + t[:, None, None, None]) + weights)
    skip, out, c_in, noise = (column(c) for c in karras(TIMES))
    y = X / column(TIMES)
    d = skip * y + out * (np.sin(c_in * y + noise) + F)
    np.testing.assert_allclose(X + (1 - column(TIMES)) * v, d, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net.x, c_in * y, rtol=1e-5)
    np.testing.assert_allclose(net.t, noise.ravel(), rtol=1e-4, atol=1e-6)


def test_edms_loss_is_that_of_fs_own_target():
    """lambda ||D - x||^2 = ||F - F*||^2 = w ||v - v*||^2, lambda = (s^2 + sd^2) / (s sd)^2."""
    x, z = X, V
    t = column(TIMES)
    x_t = (1 - t) * z + t * x
    _, v = velocity(lambda x, t, y: single(F), x_t)
    sigma = (1 - TIMES) / TIMES
    skip, out, *_ = (column(c) for c in karras(TIMES))
    target = (x - skip * x_t / t) / out
    expected = np.square(F - target).mean((1, 2, 3))
    d = x_t + (1 - t) * v
    weighted = (sigma**2 + SD**2) / (sigma * SD) ** 2 * np.square(d - x).mean((1, 2, 3))
    np.testing.assert_allclose(weighted, expected, rtol=1e-3)
    ours = prediction.loss_weight(Net(None), single(TIMES))
    np.testing.assert_allclose(ours * np.square(v - (x - z)).mean((1, 2, 3)), expected, rtol=1e-4)


@pytest.mark.parametrize("t, weight", [(0.0, 4.0), (1.0, 1.0), (0.5, 1.25)])
def test_the_weight_by_hand(t, weight):
    """((1 - t)^2 + t^2 / 4) / (1 / 4)."""
    assert prediction.loss_weight(Net(None), jnp.array([t]))[0] == pytest.approx(weight)


def test_a_velocity_is_passed_on_as_it_is():
    net = Net(lambda x, t, y: 2 * x)
    net.prediction = "velocity"
    v = prediction.velocity(net, single(X), single(TIMES), jnp.arange(7), "the ids")
    np.testing.assert_array_equal(v, 2 * single(X))
    np.testing.assert_array_equal(net.t, single(TIMES))
    assert net.ids == ["the ids"] and (prediction.loss_weight(net, single(TIMES)) == 1).all()


def test_the_ends_are_finite_and_by_hand():
    """At noise v = F sd - x_t (D - z); at data v = x_t + F, whatever sigma would be there."""
    ends = np.array([0.0, 1.0])
    net, v = velocity(lambda x, t, y: single(F[:2]), X[:2], ends)
    np.testing.assert_allclose(v[0], SD * F[0] - X[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(v[1], X[1] + F[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net.t, np.log([80.0, 0.002]) / 4, rtol=1e-5)  # EDM's range
    assert np.isfinite(prediction.loss_weight(net, single(ends))).all()


def test_gradients_at_the_ends_are_finite():
    def total(t):
        net = Net(lambda x, noise, y: x * noise[:, None, None, None])
        return prediction.velocity(net, single(X[:2]), t, jnp.arange(2)).sum()

    assert np.isfinite(jax.grad(total)(jnp.array([0.0, 1.0]))).all()


def test_f_of_0_is_the_best_linear_guess():
    """For data N(0, sd^2) it is exact: v = (sd^2 t - (1 - t)) / ((1 - t)^2 + sd^2 t^2) x_t."""
    _, v = velocity(lambda x, t, y: jnp.zeros_like(x))
    t = column(TIMES)
    var = (1 - t) ** 2 + (SD * t) ** 2
    exact = (t * SD**2 - (1 - t)) / var * X  # E[x - z | x_t], as cov(x - z, x_t) / var
    np.testing.assert_allclose(v, exact, rtol=1e-4, atol=1e-6)


def test_every_branch_is_converted(make_small, inputs, forward):
    """By Karras' formulas from the network's own outputs, one call for each branch."""
    model = make_small(prediction="edm")
    x, t, y = inputs
    ids = [None, draw_ids(model, jax.random.split(jax.random.key(0), 3), 0.5)]
    both = jax.jit(
        lambda model, x, t, y: prediction.velocities(model, x, t, [Branch(y, i) for i in ids])
    )(model, x, t, y)
    skip, out, c_in, noise = (column(c) for c in karras(np.asarray(t, np.float64)))
    times, x = column(t), np.asarray(x, np.float64)
    for v, i in zip(both, ids, strict=True):
        f = forward(model, single(c_in * x / times), single(noise.ravel()), y, i)
        d = skip * x / times + out * np.asarray(f, np.float64)
        np.testing.assert_allclose(x + (1 - times) * v, d, rtol=1e-4, atol=1e-4)
