"""What counts as diverged, and the name of what went wrong first."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sg_jax.parallel import sharding
from sg_jax.programs import health
from sg_jax.programs.health import Diverged, Health
from sg_jax.programs.optimizer import Optimizer
from sg_jax.programs.training import make_train_step, start_state

NAMES = ("blocks/stacks/0/mlp/kernel", "blocks/stacks/1/mlp/kernel", "final/kernel",
         "patch_embedding/kernel")  # fmt: skip  # as a tree sorts them
SIZES = (4, 4, 2, 6)
MODEL = types.SimpleNamespace(image_size=2, channels=1)


@pytest.fixture
def watch():
    """Health of a network of four arrays and batches of three images of 2x2 pixels."""
    leaves = [np.zeros(size, np.float32) for size in SIZES]
    found = Health(Net(leaves), NAMES, batch_size=3)
    return found


@jax.tree_util.register_pytree_node_class
class Net:
    image_size, channels = 2, 1

    def __init__(self, leaves):
        self.leaves = leaves

    def tree_flatten(self):
        return tuple(self.leaves), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(list(leaves))


def measured(loss=1.0, norm=1.0, images=1.0, weights=None, gradients=None, **more):
    """Return the metrics of a step; arrays are given by their root mean squares."""
    weights = {**dict.fromkeys(NAMES, 0.1), **(weights or {})}
    gradients = {**dict.fromkeys(NAMES, 0.1), **(gradients or {})}
    sums = [
        np.square(t[n]) * s for t in (weights, gradients) for n, s in zip(NAMES, SIZES, strict=True)
    ]
    squares = np.array([12 * images**2, *sums], np.float32)
    return {"loss": np.float32(loss), "grad_norm": np.float32(norm), "squares": squares, **more}


GOOD = measured()
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "bad, step, sound, text",
    [
        (measured(loss=NAN), 7, 5, "The loss is nan at step 7 (the largest weights are"),
        (measured(loss=INF), 7, 5, "The loss is inf at step 7"),
        (measured(loss=1e30), 7, 5, "The loss is 1e+30 at step 7"),
        (measured(loss=20_100.0), 7, 5, "The loss is 2.01e+04"),  # over 100^2 (1 + 1)
        (measured(norm=INF), 7, 6, "The norm of the gradient is inf at step 7"),
        (
            measured(norm=NAN, gradients={NAMES[1]: NAN, NAMES[3]: NAN}), 7, 6,
            "nan at step 7, in patch_embedding/kernel to blocks/stacks/1/mlp/kernel",
        ),
        (
            measured(loss=NAN, norm=NAN, weights={NAMES[2]: INF}), 6, 5,
            "After step 6 the weights are out of bounds, first final/kernel (root mean square inf)",
        ),
        (
            measured(weights={NAMES[2]: 1e6, NAMES[0]: 150.0}), 6, 5,
            "first blocks/stacks/0/mlp/kernel (root mean square 150)",
        ),
    ],
)  # fmt: skip
def test_the_first_step_and_the_first_array_are_named(watch, bad, step, sound, text):
    with pytest.raises(Diverged) as raised:
        watch.check(9, [GOOD, GOOD, bad, measured(loss=NAN), measured(loss=NAN)])
    finding = raised.value.finding
    assert (finding.step, finding.sound, finding.data) == (step, sound, False)
    assert text in finding.text


def test_weights_that_are_off_from_the_start_are_named_as_that(watch):
    with pytest.raises(
        Diverged, match="The weights to start from are out of bounds, first final/kernel"
    ):
        watch.check(1, [measured(loss=NAN, weights={NAMES[2]: NAN})])


@pytest.mark.parametrize("images", [NAN, INF])
def test_a_batch_that_is_not_finite_is_the_datas(watch, images):
    bad = measured(loss=NAN, norm=NAN, images=images, gradients=dict.fromkeys(NAMES, NAN))
    with pytest.raises(Diverged, match="The batch of step 8 is not finite") as raised:
        watch.means(9, [GOOD, bad, measured(loss=NAN)])
    assert raised.value.finding.data
    with pytest.raises(Diverged):
        watch.means(8, [{**bad, "skipped": np.float32(1)}])  # not for skipping either


@pytest.mark.parametrize(
    "odd",
    [
        measured(loss=1_000.0),  # a spike of a training that recovers
        measured(loss=19_900.0),
        measured(norm=1e15),  # which is clipped
        measured(loss=3e7, images=1e3, weights={NAMES[2]: 3e3}),  # data that nobody has scaled
        measured(weights={NAMES[0]: 99.0}),
        {"loss": np.float32(3.0)},  # a step that measures nothing else
    ],
)
def test_what_may_happen_to_a_sound_run_is_no_alarm(watch, odd):
    assert watch.means(2, [odd, odd])["loss"] > 0


def test_means_are_those_of_the_steps(watch):
    found = watch.means(2, [measured(loss=1.0, norm=2.0), measured(loss=2.0, norm=6.0)])
    assert found == {"loss": 1.5, "grad_norm": 4.0}
    assert watch.means(2, []) == {}


def test_skipped_steps_are_counted_and_in_no_mean(watch, capsys):
    skipped = measured(loss=NAN, norm=NAN, skipped=np.float32(1))
    kept = measured(loss=2.0, skipped=np.float32(0))
    assert watch.means(3, [skipped, kept, skipped]) == {"loss": 2.0, "grad_norm": 1.0, "skipped": 2}
    assert "Skipped 2 of 3 updates. The loss is nan at step 1" in capsys.readouterr().out
    assert watch.means(4, [skipped]) == {"skipped": 1}


def test_skipping_ends_after_some_in_a_row_or_if_nothing_was_kept(watch):
    skipped = measured(loss=NAN, skipped=np.float32(1))
    watch.means(health.ROW - 1, [skipped] * (health.ROW - 1))
    with pytest.raises(Diverged, match=f"{health.ROW} updates in a row were skipped. The loss"):
        watch.means(health.ROW, [skipped])
    fresh = Health(Net([np.zeros(size) for size in SIZES]), NAMES, batch_size=3)
    fresh.means(1, [skipped])
    with pytest.raises(Diverged, match="2 updates in a row"):
        fresh.means(2, [skipped], last=True)


@pytest.mark.parametrize(
    "part, words",
    [
        ("model", "After step 4 the weights are out of bounds, first final/kernel"),
        ("ema", "After step 4 the moving average is out of bounds, first final/kernel"),
        ("emas", "After step 4 the average of decay 0.9 is out of bounds, first final/kernel"),
    ],
)
@pytest.mark.parametrize("value", [NAN, -INF, 1e30])
def test_a_state_is_looked_at_as_a_whole(watch, monkeypatch, part, words, value):
    good, bad = (Net([jnp.ones(size) for size in SIZES]) for _ in range(2))
    bad.leaves[2] = bad.leaves[2].at[1].set(value)
    state = dataclasses.replace(start_state(good, None), emas={"0.9": good})
    mesh = sharding.make_mesh()
    watch.check_state(4, state, mesh)
    broken = dataclasses.replace(state, **{part: {"0.9": bad} if part == "emas" else bad})
    with pytest.raises(Diverged, match=words):
        watch.check_state(4, broken, mesh)


def test_devices_and_the_host_measure_the_same():
    trees = [Net([jnp.arange(size, dtype=jnp.float32) for size in SIZES])] * 2
    mesh = sharding.make_mesh()
    found = np.asarray(health._program(mesh)(trees))
    np.testing.assert_allclose(health._measured(trees, mesh), found, rtol=1e-6)


def linear(model, batch, keys):
    """A loss whose gradient is the image."""
    return batch["image"] @ model["w"]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_step_that_is_skipped_does_not_delay_the_schedule(name):
    model, moved = {"w": jnp.array([1.0, 2.0])}, []
    for schedule, images in (("constant", [1.0]), ("cosine", [NAN, NAN, NAN, 1.0])):
        made = Optimizer(name=name, learning_rate=1.0, schedule=schedule, clip_norm=0.0).make(4)
        step = jax.jit(make_train_step(linear, made, 0.9, skip=True))
        state = start_state(model, made.init(model))
        for x in images:
            state, metrics = step(state, {"image": jnp.array([[x, 1.0]])}, jax.random.key(0))
        assert metrics["skipped"] == 0
        moved.append(model["w"] - state.model["w"])
    # The fourth step of four: (1 + cos(3 pi / 4)) / 2.
    np.testing.assert_allclose(moved[1], 0.146447 * moved[0], rtol=1e-4)


def test_a_step_that_diverges_changes_nothing_if_it_is_skipped():
    tx = optax.sgd(1e6, momentum=0.5)
    plain, skipping = (
        jax.jit(make_train_step(linear, tx, 0.9, skip=skip)) for skip in (False, True)
    )
    model = {"w": jnp.array([1.0, 2.0])}
    before = start_state(model, tx.init(model), (0.5,))
    for x in (NAN, INF, 1.0, 1e33):  # 1e6 and more are out of bounds
        batch = {"image": jnp.array([[x, 1e-6]], jnp.float32)}
        after, metrics = skipping(before, batch, jax.random.key(0))
        assert metrics["skipped"] == 1 and after.step == 1
        for a, b in zip(jax.tree.leaves(before)[1:], jax.tree.leaves(after)[1:], strict=True):
            np.testing.assert_array_equal(a, b)
        after, _ = plain(before, batch, jax.random.key(0))
        assert not jnp.abs(after.model["w"]).max() < 1e5
    batch = {"image": jnp.array([[1e-6, 2e-6]], jnp.float32)}
    (one, metrics), (two, _) = (
        step(before, batch, jax.random.key(0)) for step in (skipping, plain)
    )
    assert metrics["skipped"] == 0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)
