"""The training loss, by hand on networks whose output is known."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.objective import FlowMatching

KEY = jax.random.key(7)


class Constant:
    """Answer `value` everywhere, and remember what was asked. 10 classes."""

    null_label, prediction, masks = 10, "velocity", False

    def __init__(self, value=0.0):
        self.value = value

    def branches(self, x, t, ys, ids):
        return [self(x, t, ys[0], ids[0])]

    def draw_ids(self, keys, gamma):
        self.keys, self.gamma = keys, gamma
        return ["the ids"]

    def __call__(self, x_t, t, y, keep_ids):
        self.x_t, self.t, self.y, self.keep_ids = x_t, t, y, keep_ids
        return jnp.full_like(x_t, 1.0) * self.value

    def noise(self, x):
        """Solve x_t = (1 - t) z + t x for z."""
        t = self.t[:, None, None, None]
        return (self.x_t - t * x) / (1 - t)


@pytest.fixture(scope="module")
def batch():
    x = jax.random.uniform(jax.random.key(0), (256, 4, 4, 3), minval=-1.0)
    return {"image": x, "label": jnp.arange(256) % 10}


def test_the_loss_is_the_mean_square_distance_to_data_minus_noise(batch):
    net = Constant(2.0)
    loss = FlowMatching()(net, batch, KEY)
    assert loss.shape == (256,) and loss.dtype == jnp.float32
    z = net.noise(batch["image"])
    expected = np.square(2.0 - (batch["image"] - z)).mean((1, 2, 3))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_the_gradient_is_twice_the_mean_distance(batch):
    def loss(value):
        return FlowMatching()(Constant(value), batch, KEY)

    net = Constant()
    FlowMatching()(net, batch, KEY)
    target = batch["image"] - net.noise(batch["image"])
    expected = 2 * (3.0 - target).mean((1, 2, 3))  # d/da mean (a - v*)^2
    np.testing.assert_allclose(jax.jacobian(loss)(3.0), expected, rtol=1e-4)


def test_a_network_that_knows_the_velocity_has_no_loss(batch):
    class Perfect(Constant):
        def __call__(self, x_t, t, y, keep_ids):
            super().__call__(x_t, t, y, keep_ids)
            return batch["image"] - self.noise(batch["image"])

    assert FlowMatching()(Perfect(), batch, KEY).max() < 1e-4


def test_noise_is_standard_normal_and_fresh_for_each_image(batch):
    net = Constant()
    FlowMatching(time="uniform")(net, batch, KEY)
    z = net.noise(batch["image"])[net.t < 0.9]
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03
    assert abs(np.corrcoef(z[0].ravel(), z[1].ravel())[0, 1]) < 0.5


@pytest.mark.parametrize("time, below", [("logit_normal", 0.1587), ("uniform", 0.2689)])
def test_times_follow_the_chosen_distribution(batch, time, below):
    """The share below sigmoid(-1); 256 draws have a standard error of 0.028."""
    net = Constant()
    FlowMatching(time=time)(net, batch, KEY)
    assert len(np.unique(net.t)) > 200
    assert abs((net.t < 1 / (1 + math.e)).mean() - below) < 0.08


def test_ids_are_drawn_at_the_training_rate_from_one_key_per_image(batch):
    net = Constant()
    FlowMatching(gamma=0.25)(net, batch, KEY)
    assert net.gamma == 0.25 and net.keep_ids == ["the ids"]
    assert len(np.unique(jax.random.key_data(net.keys), axis=0)) == 256


@pytest.mark.parametrize("rate, low, high", [(0.0, 0, 0), (0.1, 0.04, 0.16), (1.0, 1, 1)])
def test_label_dropout_replaces_that_share_by_the_null_label(batch, rate, low, high):
    net = Constant()
    FlowMatching(label_dropout=rate)(net, batch, KEY)
    dropped = np.asarray(net.y == 10)
    assert low <= dropped.mean() <= high  # 256 draws: standard error 0.019
    np.testing.assert_array_equal(net.y[~dropped], batch["label"][~dropped])


@pytest.fixture(scope="module")
def images():
    x = jax.random.uniform(jax.random.key(0), (8, 8, 8, 3), minval=-1.0)
    return {"image": x, "label": jnp.arange(8) % 5}


@pytest.fixture(scope="module")
def loss():
    return jax.jit(lambda objective, *args: objective(*args), static_argnums=0)


def test_with_full_label_dropout_the_labels_do_not_matter(tiny, images, loss):
    other = {**images, "label": (images["label"] + 1) % 5}
    for rate, equal in ((1.0, True), (0.0, False)):
        objective = FlowMatching(label_dropout=rate)
        pair = (loss(objective, tiny, b, KEY) for b in (images, other))
        assert jnp.array_equal(*pair) == equal


def test_the_loss_of_an_image_does_not_depend_on_its_neighbours(tiny, images, loss):
    x = images["image"]
    other = {**images, "image": x.at[0].set(-x[0])}
    a, b = (loss(FlowMatching(), tiny, i, KEY) for i in (images, other))
    assert a[0] != b[0]
    np.testing.assert_allclose(a[1:], b[1:], rtol=1e-6)


def test_another_key_is_another_loss(tiny, images, loss):
    a, b, c = (loss(FlowMatching(), tiny, images, k) for k in (KEY, KEY, jax.random.key(8)))
    np.testing.assert_array_equal(a, b)
    assert (a != c).all()


def test_sparsity_changes_the_loss(tiny, images, loss):
    dense, sparse = (loss(FlowMatching(gamma=g), tiny, images, KEY) for g in (0.0, 0.5))
    assert (dense != sparse).all()


def test_the_loss_does_not_depend_on_the_number_of_devices(tiny, images, loss, mesh_of):
    from sg_jax import sharding

    mesh = mesh_of(2, 4)
    spread = jax.device_put(images, sharding.batch_sharding(mesh))
    shards = jax.device_put(tiny, sharding.infer(tiny, mesh))
    eight = loss(FlowMatching(), shards, spread, KEY)
    assert len(eight.sharding.device_set) == 8
    np.testing.assert_allclose(eight, loss(FlowMatching(), tiny, images, KEY), rtol=1e-5)


def test_routed_blocks_learn_unless_every_token_bypasses_them(tiny, images):
    @jax.jit
    def gradients(model):
        def mean(model, gamma):
            return FlowMatching(gamma=gamma)(model, images, KEY).mean()

        return [jax.grad(mean)(model, gamma) for gamma in (0.5, 1.0)]

    half, none = gradients(tiny)
    assert all(leaf.any() for leaf in jax.tree.leaves(half.blocks.stacks[1]))
    assert not any(leaf.any() for leaf in jax.tree.leaves(none.blocks.stacks[1]))
    assert none.blocks.stacks[0].mlp.out.kernel[...].any()


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(gamma=1.5), ["config.objective.gamma=1.5", "[0, 1]"]),
        (dict(gamma=-0.1), ["config.objective.gamma=-0.1"]),
        (dict(label_dropout=2), ["config.objective.label_dropout=2", "[0, 1]"]),
        (dict(time="unifrom"), ["time='unifrom'", "'logit_normal'", "mean 'uniform'"]),
    ],
)
def test_a_wrong_value_is_named(changes, named):
    with pytest.raises(UserError) as error:
        FlowMatching(**changes)
    for part in named:
        assert part in str(error.value)


def test_an_objective_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FlowMatching().gamma = 0.1
