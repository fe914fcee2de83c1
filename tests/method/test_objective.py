"""The training loss, by hand on networks whose output is known."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from flax import nnx

from sg_jax.errors import UserError
from sg_jax.method.objective import FlowMatching
from sg_jax.models.conditioning import Classes
from sg_jax.models.maskdit import MaskDiT

KEY = jax.random.key(7)


def keys(batch, key=KEY):
    """One key per image."""
    return jax.random.split(key, len(batch["condition"]))


class Constant:
    """Answer `value` everywhere, and remember what was asked. 10 classes, 16 tokens of a pixel."""

    conditioning = Classes(10, 1, nnx.Rngs(0))
    prediction, masks, tokens, choices, inner = "velocity", False, 16, 1, 0

    def __init__(self, value=0.0):
        self.value = value

    def branches(self, x, t, branches, inner=False):
        return [self(x, t, branches[0].condition, branches[0].ids)]

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
    return {"image": x, "condition": jnp.arange(256) % 10}


def test_the_loss_is_the_mean_square_distance_to_data_minus_noise(batch):
    net = Constant(2.0)
    loss = FlowMatching()(net, batch, keys(batch))
    assert loss.shape == (256,) and loss.dtype == jnp.float32
    z = net.noise(batch["image"])
    expected = np.square(2.0 - (batch["image"] - z)).mean((1, 2, 3))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_the_gradient_is_twice_the_mean_distance(batch):
    def loss(value):
        return FlowMatching()(Constant(value), batch, keys(batch))

    net = Constant()
    FlowMatching()(net, batch, keys(batch))
    target = batch["image"] - net.noise(batch["image"])
    expected = 2 * (3.0 - target).mean((1, 2, 3))  # d/da mean (a - v*)^2
    np.testing.assert_allclose(jax.jacobian(loss)(3.0), expected, rtol=1e-4)


def test_a_network_that_knows_the_velocity_has_no_loss(batch):
    class Perfect(Constant):
        def __call__(self, x_t, t, y, keep_ids):
            super().__call__(x_t, t, y, keep_ids)
            return batch["image"] - self.noise(batch["image"])

    assert FlowMatching()(Perfect(), batch, keys(batch)).max() < 1e-4


def test_noise_is_standard_normal_and_fresh_for_each_image(batch):
    net = Constant()
    FlowMatching(time="uniform")(net, batch, keys(batch))
    z = net.noise(batch["image"])[net.t < 0.9]
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03
    assert abs(np.corrcoef(z[0].ravel(), z[1].ravel())[0, 1]) < 0.5


@pytest.mark.parametrize("time, below", [("logit_normal", 0.1587), ("uniform", 0.2689)])
def test_times_follow_the_chosen_distribution(batch, time, below):
    """The share below sigmoid(-1); 256 draws have a standard error of 0.028."""
    net = Constant()
    FlowMatching(time=time)(net, batch, keys(batch))
    assert len(np.unique(net.t)) > 200
    assert abs((net.t < 1 / (1 + math.e)).mean() - below) < 0.08


def test_ids_are_drawn_at_the_training_rate_from_one_key_per_image(batch):
    net = Constant()
    FlowMatching(gamma=0.25)(net, batch, keys(batch))
    (ids,) = net.keep_ids
    assert ids.shape == (256, 12)
    assert len(np.unique(ids, axis=0)) > 200  # of 1820 that there are
    one = {name: value[7:8] for name, value in batch.items()}
    FlowMatching(gamma=0.25)(net, one, keys(batch)[7:8])
    np.testing.assert_array_equal(net.keep_ids[0], ids[7:8])


@pytest.mark.parametrize("rate, low, high", [(0.0, 0, 0), (0.1, 0.04, 0.16), (1.0, 1, 1)])
def test_label_dropout_replaces_that_share_by_the_null_label(batch, rate, low, high):
    net = Constant()
    FlowMatching(label_dropout=rate)(net, batch, keys(batch))
    dropped = np.asarray(net.y == 10)
    assert low <= dropped.mean() <= high  # 256 draws: standard error 0.019
    np.testing.assert_array_equal(net.y[~dropped], batch["condition"][~dropped])


@pytest.fixture(scope="module")
def images():
    x = jax.random.uniform(jax.random.key(0), (8, 8, 8, 3), minval=-1.0)
    return {"image": x, "condition": jnp.arange(8) % 5}


@pytest.fixture(scope="module")
def loss():
    return jax.jit(lambda objective, *args: objective(*args), static_argnums=0)


def test_with_full_label_dropout_the_labels_do_not_matter(small, images, loss):
    other = {**images, "condition": (images["condition"] + 1) % 5}
    for rate, equal in ((1.0, True), (0.0, False)):
        objective = FlowMatching(label_dropout=rate)
        pair = (loss(objective, small, b, keys(b)) for b in (images, other))
        assert jnp.array_equal(*pair) == equal


def test_the_loss_of_an_image_does_not_depend_on_its_neighbours(small, images, loss):
    x = images["image"]
    other = {**images, "image": x.at[0].set(-x[0])}
    a, b = (loss(FlowMatching(), small, i, keys(i)) for i in (images, other))
    assert a[0] != b[0]
    np.testing.assert_allclose(a[1:], b[1:], rtol=1e-6)


def test_another_key_is_another_loss(small, images, loss):
    a, b, c = (
        loss(FlowMatching(), small, images, keys(images, k)) for k in (KEY, KEY, jax.random.key(8))
    )
    np.testing.assert_array_equal(a, b)
    assert (a != c).all()


def test_sparsity_changes_the_loss(small, images, loss):
    dense, sparse = (loss(FlowMatching(gamma=g), small, images, keys(images)) for g in (0.0, 0.5))
    assert (dense != sparse).all()


@pytest.mark.slow
def test_the_loss_does_not_depend_on_the_number_of_devices(small, images, loss, mesh_of):
    from sg_jax.parallel import sharding

    mesh = mesh_of(2, 4)
    spread = jax.device_put(images, sharding.batch_sharding(mesh))
    shards = jax.device_put(small, sharding.infer(small, mesh))
    eight = loss(FlowMatching(), shards, spread, keys(spread))
    assert len(eight.sharding.device_set) == 8
    np.testing.assert_allclose(eight, loss(FlowMatching(), small, images, keys(images)), rtol=1e-5)


def test_routed_blocks_learn_unless_every_token_bypasses_them(small, images):
    @jax.jit
    def gradients(model):
        def mean(model, gamma):
            return FlowMatching(gamma=gamma)(model, images, keys(images)).mean()

        return [jax.grad(mean)(model, gamma) for gamma in (0.5, 1.0)]

    half, none = gradients(small)
    routed = half.blocks.stacks[1]
    assert not routed.attention.key.bias[...].any()  # it changes nothing
    still = [leaf for leaf in jax.tree.leaves(routed) if not leaf.any()]
    assert len(still) == 1
    assert not any(leaf.any() for leaf in jax.tree.leaves(none.blocks.stacks[1]))
    assert none.blocks.stacks[0].mlp.out.kernel[...].any()


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(gamma=1.5), ["objective.gamma=1.5", "[0, 1]"]),
        (dict(gamma=-0.1), ["objective.gamma=-0.1"]),
        (dict(label_dropout=2), ["objective.label_dropout=2", "[0, 1]"]),
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


class Masked(Constant):
    """4 tokens of 2x2 pixels of a 4x4 image, of which it sees 2."""

    masks, patch, tokens = True, 2, 4


def by_token(x):
    """The mean square in each of the four quarters [B, 4] of images [B, 4, 4, C]."""
    x = np.square(x).reshape(-1, 2, 2, 2, 2, 3)  # [B, row, inside, column, inside, C]
    return x.mean((2, 4, 5)).reshape(-1, 4)


@pytest.mark.parametrize("weight", [0.0, 0.1, 2.0])
def test_masked_tokens_count_by_their_reconstruction(batch, weight):
    """Visible: mean || v - v* ||^2; masked: lambda || D - x ||^2 with D = x_t + (1 - t) v."""
    net, x = Masked(2.0), batch["image"]
    loss = FlowMatching(reconstruction=weight)(net, batch, keys(batch))
    flow_error = by_token(2.0 - (x - net.noise(x)))
    d = net.x_t + (1 - net.t[:, None, None, None]) * 2.0
    distance = by_token(d - x)
    rows, kept = np.arange(256)[:, None], np.asarray(net.keep_ids[0])
    hidden = np.stack([np.setdiff1d(np.arange(4), k) for k in kept])
    expected = flow_error[rows, kept].mean(1) + weight * distance[rows, hidden].mean(1)
    np.testing.assert_allclose(loss, expected, rtol=1e-3)


def test_with_lambda_0_masked_tokens_are_ignored(batch):
    class Spoiled(Masked):
        def __call__(self, x_t, t, y, keep_ids):
            v = super().__call__(x_t, t, y, keep_ids)
            hidden = jnp.ones((len(t), 4)).at[jnp.arange(len(t))[:, None], keep_ids[0]].set(0.0)
            hidden = hidden.reshape(-1, 2, 2).repeat(2, axis=1).repeat(2, axis=2)[..., None]
            return v + 100 * hidden

    objective = FlowMatching(reconstruction=0.0)
    a, b = (objective(net, batch, keys(batch)) for net in (Masked(2.0), Spoiled(2.0)))
    np.testing.assert_allclose(a, b, rtol=1e-6)
    assert (FlowMatching()(Spoiled(2.0), batch, keys(batch)) > a).all()


def test_a_network_that_knows_the_masked_tokens_too_has_no_loss(batch):
    class Perfect(Masked):
        def __call__(self, x_t, t, y, keep_ids):
            super().__call__(x_t, t, y, keep_ids)
            return batch["image"] - self.noise(batch["image"])

    assert FlowMatching(reconstruction=5.0)(Perfect(), batch, keys(batch)).max() < 1e-4


def test_masking_nothing_is_plain_flow_matching(batch):
    objective = FlowMatching(gamma=0.0)
    np.testing.assert_array_equal(
        objective(Masked(2.0), batch, keys(batch)), objective(Constant(2.0), batch, keys(batch))
    )


@pytest.mark.slow
def test_lambda_weighs_the_masked_tokens_of_a_network_that_masks(images):
    sizes = dict(image_size=8, channels=3, num_classes=5, patch=2, width=16, depth=1, heads=2)
    sizes |= dict(decoder_width=16, decoder_depth=1, decoder_heads=2)
    model = random_weights.network(lambda rngs: MaskDiT(**sizes, rngs=rngs))

    @jax.jit
    def run(model):
        def loss(model, weight):
            each = FlowMatching(reconstruction=weight)(model, images, keys(images))
            return each.mean(), each

        gradient, tenth = jax.grad(loss, has_aux=True)(model, 0.1)
        return loss(model, 0.0)[1], tenth, loss(model, 0.4)[1], gradient

    none, tenth, full, gradient = run(model)
    assert (full > tenth).all() and (tenth > none).all()
    np.testing.assert_allclose(full - none, 4 * (tenth - none), rtol=1e-3)  # linear in lambda
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert jnp.any(gradient.mask_token[...])


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (1.2, 1.2), (-0.5, 0.5)])
def test_mean_and_deviation_are_those_of_logit_t(batch, mean, std):
    """256 draws: standard errors std / 16 and std / 22.6; (1.2, 1.2) is EDM's ln sigma negated."""
    net = Constant()
    FlowMatching(time_mean=mean, time_std=std)(net, batch, keys(batch))
    logit = np.log(net.t / (1 - net.t))
    assert abs(logit.mean() - mean) < std / 4 and abs(logit.std() - std) < std / 5.6


@pytest.mark.parametrize("time", ["logit_normal", "uniform"])
def test_a_shift_moves_times_to_noise(batch, time):
    """t / (1 - t) is divided by the shift."""
    plain, moved = Constant(), Constant()
    FlowMatching(time=time)(plain, batch, keys(batch))
    FlowMatching(time=time, shift=3.0)(moved, batch, keys(batch))
    assert (moved.t < plain.t).all()
    odds = (plain.t / (1 - plain.t), moved.t / (1 - moved.t))
    np.testing.assert_allclose(odds[1], odds[0] / 3, rtol=1e-3)


def test_edms_loss_is_the_square_distance_of_f_to_its_target(batch):
    """F* = (x - c_skip y) / c_out with y = x_t / t, sigma = (1 - t) / t and sigma_data 0.5."""

    class Edm(Constant):
        prediction = "edm"

        def branches(self, x, noise, branches, inner=False):
            self.seen, self.c_noise = x, noise
            return [jnp.full_like(x, self.value)]

    net, plain, x = Edm(0.7), Constant(), np.asarray(batch["image"], np.float64)
    objective = FlowMatching(time_mean=1.2, time_std=1.2)
    loss = objective(net, batch, keys(batch))
    objective(plain, batch, keys(batch))  # draws the same times and noise
    t = np.asarray(plain.t, np.float64)[:, None, None, None]
    sigma, y = (1 - t) / t, np.asarray(plain.x_t) / t
    skip, out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / np.sqrt(sigma**2 + 0.25)
    expected = np.square(0.7 - (x - skip * y) / out).mean((1, 2, 3))
    np.testing.assert_allclose(loss, expected, rtol=2e-3)
    np.testing.assert_allclose(net.c_noise, np.log(sigma).ravel() / 4, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(time_std=0.0), ["objective.time_std=0.0", "(0, 100]"]),
        (dict(time="uniform", time_std=2.0), ["objective.time_std=2.0", "'uniform'", "at 1.0"]),
        (dict(time="uniform", time_mean=1), ["objective.time_mean=1", "'uniform'", "at 0.0"]),
        (dict(shift=-1.0), ["objective.shift=-1.0", "[0.001, 1000]"]),
        (dict(reconstruction=-0.1), ["objective.reconstruction=-0.1", "at least 0"]),
        (dict(reconstruction=float("nan")), ["objective.reconstruction=nan"]),
    ],
)
def test_a_wrong_weight_is_named(changes, named):
    with pytest.raises(UserError) as error:
        FlowMatching(**changes)
    for part in named:
        assert part in str(error.value)
