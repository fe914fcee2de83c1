"""Every kind of guidance against two plain passes of the network, and its own properties."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.method import checks, schedule, terms
from sg_jax.method import guidance as lib
from sg_jax.method.guidance import Guidance
from sg_jax.method.presets import PRESETS
from sg_jax.method.sampler import Sampler
from sg_jax.method.terms import draw_pair
from sg_jax.programs.sampling import sample

STEPS = 8
KINDS = {
    "sg": PRESETS["sg"],
    "unguided": PRESETS["unguided"],
    "cfg": PRESETS["cfg"],
    "sg_flops": PRESETS["sg_flops"],
    "cfg_sg": PRESETS["cfg_sg"],
    "icg": PRESETS["icg"],
    "icg+sg": Guidance(1.5, 0.25, 0.5, "random"),
    "ag": PRESETS["ag"],
    "ag+sg": Guidance(1.5, 0.25, 0.75, weak_step=50),
    "pdg": PRESETS["pdg"],
    "sg to none": Guidance(1.5, gamma_weak=1.0),
    "interval": Guidance(1.5, 0.25, 0.75, interval=(0.2, 0.7)),
    "scheduled": Guidance(("linear", 1.0, 3.0), ("cosine", 0, 0.6), ("cosine", 0.6, 0)),
    "sg_fid": PRESETS["sg_fid"],
    "nested": Guidance(1.5, 0.25, 0.75, ids="nested"),
    "stratified": Guidance(1.5, 0.5, 0.75, ids="stratified"),
}


@pytest.fixture(scope="module")
def other(make_small):
    """The same network at another time of its training: other weights."""
    return make_small(seed=1)


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(3), 3)


def fold(keys, n):
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, n)


def stretch_of(plan, n):
    (stretch,) = (s for s in plan.stretches if s.first <= n < s.stop)
    return stretch


@pytest.fixture(scope="module")
def compiled(small, other, inputs, keys):
    """(guidance, n) -> the velocity of step n by the one compiled step."""

    def evaluate(model, weak, x, t, y, scales, n, stretch, plan):
        return terms.guided_velocity(model, weak, stretch, plan, y, keys, scales)(x, t, n)[0]

    evaluate = jax.jit(evaluate, static_argnames=("stretch", "plan"))
    x, _, y = inputs

    def run(guidance, n):
        plan, scales = lib.plan(guidance, Sampler(), STEPS)
        weak = other if plan.two_networks else None
        return evaluate(small, weak, x, 0.3, y, scales, n, stretch_of(plan, n), plan)

    return run


@pytest.fixture(scope="module")
def by_hand(small, other, inputs, keys, forward):
    """(guidance, n) -> scale * v_strong + (1 - scale) * v_weak, and v_strong."""
    x, _, y = inputs
    t = jnp.full(3, 0.3)

    def run(guidance, n):
        plan, _ = lib.plan(guidance, Sampler(), STEPS)
        gammas = stretch_of(plan, n).gammas
        ids = draw_pair(small, fold(keys, n), gammas, guidance.ids)
        strong = np.asarray(forward(small, x, t, y, ids[0]), np.float64)
        if len(gammas) == 1:
            return strong, strong
        labels = {
            "same": y,
            "null": jnp.full(3, 5),
            "random": small.conditioning.another(y, fold(fold(keys, n), 2)),
        }[guidance.weak_label]
        network = other if guidance.weak_step else small
        weak = np.asarray(forward(network, x, t, labels, ids[1]), np.float64)
        scale = schedule.values(guidance.scale, STEPS)[n]
        return scale * strong + (1 - scale) * weak, strong

    return run


@pytest.mark.every(6)
@pytest.mark.parametrize("kind", KINDS)
def test_one_compiled_step_is_two_plain_passes(compiled, by_hand, kind):
    expected, strong = by_hand(KINDS[kind], 3)
    np.testing.assert_allclose(compiled(KINDS[kind], 3), expected, atol=5e-5)
    if kind != "unguided":
        assert np.abs(expected - strong).max() > 0.01


def test_each_step_of_a_schedule_has_its_own_omega_and_rates(compiled, by_hand):
    for n in (0, 6):
        expected, strong = by_hand(KINDS["scheduled"], n)
        np.testing.assert_allclose(compiled(KINDS["scheduled"], n), expected, atol=5e-5)
        assert (n == 0) == (np.abs(expected - strong).max() < 1e-6)  # omega begins at 1


def test_outside_the_interval_the_strong_prediction_alone_moves_the_sample(compiled, by_hand):
    """Steps begin at 0, 1/8, ..., 7/8: guidance acts at 2/8, 3/8, 4/8 and 5/8."""
    guidance = KINDS["interval"]
    plan, _ = lib.plan(guidance, Sampler(), STEPS)
    sparse, both = (0.25,), (0.25, 0.75)
    assert [(s.first, s.stop, s.gammas) for s in plan.stretches] == [
        (0, 2, sparse),
        (2, 6, both),
        (6, 8, sparse),
    ]
    alone = Guidance(gamma_strong=0.25)
    for n in (1, 6):
        np.testing.assert_array_equal(compiled(guidance, n), compiled(alone, n))
        np.testing.assert_allclose(compiled(guidance, n), by_hand(guidance, n)[1], atol=2e-5)


def test_an_interval_includes_its_ends():
    plan, _ = lib.plan(Guidance(1.5, gamma_weak=0.5, interval=(0.25, 0.5)), Sampler(), STEPS)
    assert [s.first for s in plan.stretches if len(s.gammas) == 2] == [2]
    assert [s.stop for s in plan.stretches if len(s.gammas) == 2] == [5]


@pytest.mark.parametrize("kind", ["ag", "ag+sg", "sg_fid"])
def test_autoguidance_needs_the_other_network(small, kind):
    with pytest.raises(UserError, match="weak_model"):
        sample(small, [0], KINDS[kind], steps=2)


def test_autoguidance_by_the_same_weights_and_rates_is_no_guidance(small):
    """omega v + (1 - omega) v = v."""
    ag = sample(small, [0, 1], "ag", steps=4, weak_model=small)
    plain = sample(small, [0, 1], "unguided", steps=4)
    assert np.abs(ag.astype(int) - plain).max() <= 1


def test_a_schedule_of_omega_needs_one_stretch():
    for scale in (("linear", 1.0, 3.0), ("cosine", 0, 2), ("piecewise", (0.2, 1.0), (0.5, 4.0))):
        plan, scales = lib.plan(Guidance(scale, 0.25, 0.75), Sampler(), 40)
        assert plan == lib.plan(Guidance(1.5, 0.25, 0.75), Sampler(), 40)[0]
        assert len(plan.stretches) == 1
        np.testing.assert_array_equal(scales[0], schedule.values(scale, 40).astype(np.float32))


@pytest.mark.parametrize("steps", [3, 8, 40, 50, 250])
@pytest.mark.parametrize("segments", [1, 4, 8, 16])
def test_scheduled_rates_are_rounded_to_few_and_keep_their_mean(steps, segments):
    guidance = dataclasses.replace(PRESETS["sg_fid"], segments=segments)
    for rates in lib.rates(guidance, steps):
        assert len(rates) == steps and len(set(rates)) <= segments
        assert np.mean(rates) == pytest.approx(0.3, abs=1e-6)  # of a cosine from 0 to 0.6
    plan, _ = lib.plan(guidance, Sampler(), steps)
    assert len(plan.stretches) <= segments
    assert [plan.stretches[0].first, plan.stretches[-1].stop] == [0, steps]
    assert all(a.stop == b.first for a, b in zip(plan.stretches, plan.stretches[1:], strict=False))


def test_sg_fids_rates_cross_over():
    strong, weak = lib.rates(PRESETS["sg_fid"], 40)
    assert strong == weak[::-1] and sorted(strong) == strong
    assert strong[0] < 0.02 and strong[-1] > 0.58
    assert lib.plan(PRESETS["sg_fid"], Sampler(), 40)[0].two_networks


def test_more_segments_round_less():
    by = [
        checks.rounding(dataclasses.replace(PRESETS["sg_fid"], segments=s), 40)
        for s in (1, 2, 4, 8, 20, 40)
    ]
    assert sorted(by, reverse=True) == by and len(set(by)) == 6
    assert by[0] == pytest.approx(0.3) and by[-1] < 1e-6
    assert checks.rounding(PRESETS["sg_flops"], 40) == 0


@pytest.mark.parametrize("gammas", [(0.25, 0.75), (0.75, 0.25), (0.5, 0.5), (0.25, 1.0)])
def test_nested_ids_are_a_subset(small, gammas):
    keys = jax.random.split(jax.random.key(0), 64)
    a, b = (np.asarray(i[0]) for i in draw_pair(small, keys, gammas, "nested"))
    assert a.shape[1] == 16 - 16 * gammas[0] and b.shape[1] == 16 - 16 * gammas[1]
    for one, two in zip(a, b, strict=True):
        assert set(one) <= set(two) or set(two) <= set(one)
    for ids in (a, b):
        assert (np.diff(ids, axis=1) > 0).all()


def test_nested_ids_are_each_still_uniform(small):
    """The strong and the weak set keep 12 and 4 of 16; 4096 draws: standard error 0.0068."""
    keys = jax.random.split(jax.random.key(0), 4096)
    for ids, share in zip(
        draw_pair(small, keys, (0.25, 0.75), "nested"), (0.75, 0.25), strict=True
    ):
        frequency = np.bincount(np.asarray(ids[0]).ravel(), minlength=16) / 4096
        np.testing.assert_allclose(frequency, share, atol=0.03)


@pytest.mark.every(2)
@pytest.mark.parametrize("layout", lib.IDS)
def test_ids_of_every_layout_depend_on_the_own_key_alone(small, keys, layout):
    whole, alone = (draw_pair(small, k, (0.5, 0.75), layout) for k in (keys, keys[1:2]))
    for a, b in zip(whole, alone, strict=True):
        np.testing.assert_array_equal(a[0][1:2], b[0])


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(weak_label="randm"), ["guidance.weak_label='randm'", "mean 'random'"]),
        (dict(ids="nestd"), ["guidance.ids='nestd'", "mean 'nested'"]),
        (dict(weak_step=-1), ["guidance.weak_step=-1"]),
        (dict(interval=(0.7, 0.2)), ["guidance.interval=(0.7, 0.2)"]),
        (dict(interval=(0.2, 1.2)), ["guidance.interval=(0.2, 1.2)"]),
        (dict(interval=(0.5,)), ["guidance.interval=(0.5,)"]),
        (dict(segments=0), ["guidance.segments=0"]),
        (dict(gamma_weak=("cosine", 0.6, 1.2)), ["guidance.gamma_weak=('cosine', 0.6, 1.2)"]),
        (dict(scale=("linear", -1.0, 2.0)), ["guidance.scale=('linear', -1.0, 2.0)"]),
    ],
)
def test_a_wrong_setting_is_named(changes, named):
    with pytest.raises(UserError) as error:
        Guidance(**changes)
    for part in named:
        assert part in str(error.value)
