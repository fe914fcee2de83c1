"""Guidance: which predictions are made, and how they combine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.method import guidance as lib
from sg_jax.method import presets, terms
from sg_jax.method.guidance import Guidance
from sg_jax.method.presets import PRESETS
from sg_jax.method.sampler import Sampler
from sg_jax.method.weak import WeakCondition
from sg_jax.programs.sampling import sample

NULL = 5
SG = Guidance(scale=1.5, gamma_strong=0.25, gamma_weak=0.75)
CFG = Guidance(scale=1.5, weak_label="null")
CFG_SG = Guidance(scale=1.5, gamma_strong=0.25, gamma_weak=0.75, weak_label="null")


class Spy:
    """The small network; it makes each prediction by a call of its own, and remembers it."""

    def __init__(self, model, forward):
        self.model, self.forward, self.calls = model, forward, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def branches(self, x, t, branches, inner=False):
        out = [self.forward(self.model, x, t, b.condition, b.ids) for b in branches]
        self.calls.append([(b.condition, b.ids, o) for b, o in zip(branches, out, strict=True)])
        return out


@pytest.fixture
def spy(small, forward):
    return Spy(small, forward)


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(3), 3)


def velocity(model, guidance, labels, keys, scale=None):
    """The velocity of a run's first step of eight."""
    with jax.ensure_compile_time_eval():  # a plan is static
        plan, scales = lib.plan(guidance, Sampler(), 8)
    scales[0] = scales[0] if scale is None else scale
    labels = jnp.asarray(labels)
    run = terms.guided_velocity(
        model, None, plan.stretches[0], plan, labels, keys, jnp.asarray(scales)
    )
    return lambda x, t, n: run(x, t, n)[0]


def test_cfg_is_with_and_without_label_on_all_tokens(spy, inputs, keys):
    x, _, y = inputs
    velocity(spy, CFG, y, keys)(x, 0.3, 0)
    ((strong, weak),) = spy.calls
    np.testing.assert_array_equal(strong[0], y)
    np.testing.assert_array_equal(weak[0], [NULL] * 3)
    assert strong[1] is None and weak[1] is None


def test_sg_keeps_the_label_in_both_predictions(spy, inputs, keys):
    x, _, y = inputs
    velocity(spy, SG, y, keys)(x, 0.3, 0)
    velocity(spy, SG, (y + 1) % 5, keys)(x, 0.3, 0)
    before, after = spy.calls
    for branch, count in ((0, 12), (1, 4)):  # of 16 tokens
        np.testing.assert_array_equal(before[branch][0], y)
        assert before[branch][1][0].shape == (3, count)
        assert jnp.abs(before[branch][2] - after[branch][2]).max() > 0.01


def test_cfg_sg_drops_label_and_tokens_in_the_weak_prediction(spy, inputs, keys):
    x, _, y = inputs
    velocity(spy, CFG_SG, y, keys)(x, 0.3, 0)
    ((strong, weak),) = spy.calls
    np.testing.assert_array_equal(strong[0], y)
    np.testing.assert_array_equal(weak[0], [NULL] * 3)
    assert strong[1][0].shape == (3, 12) and weak[1][0].shape == (3, 4)


@pytest.mark.parametrize("guidance", [SG, CFG, CFG_SG], ids=["sg", "cfg", "cfg_sg"])
def test_the_shared_computation_is_the_plain_two_passes(spy, small, inputs, keys, guidance):
    x, _, y = inputs
    once = jax.jit(lambda model, x: velocity(model, guidance, y, keys)(x, 0.3, 4))(small, x)
    velocity(spy, guidance, y, keys)(x, 0.3, 4)
    ((strong, weak),) = spy.calls
    np.testing.assert_allclose(once, 1.5 * strong[2] - 0.5 * weak[2], atol=3e-5)


@pytest.mark.parametrize("guidance", [SG, CFG, CFG_SG], ids=["sg", "cfg", "cfg_sg"])
def test_a_traced_omega_of_1_returns_strong(spy, inputs, keys, guidance):
    x, _, y = inputs
    v = velocity(spy, guidance, y, keys, scale=1.0)(x, 0.3, 0)
    ((strong, _),) = spy.calls
    np.testing.assert_array_equal(v, strong[2])


def test_no_second_prediction_is_made_where_it_cannot_matter(spy, inputs, keys):
    x, _, y = inputs
    for guidance in (Guidance(), Guidance(scale=2.0), Guidance(gamma_weak=0.9)):
        v = velocity(spy, guidance, y, keys)(x, 0.3, 0)
        ((_, ids, strong),) = spy.calls.pop()
        assert ids is None
        np.testing.assert_array_equal(v, strong)


def test_ids_are_fresh_at_each_step_and_for_each_prediction(spy, inputs, keys):
    x, _, y = inputs
    v = velocity(spy, Guidance(1.5, 0.5, 0.5, "null"), y, keys)
    for n in (0, 1, 0):
        v(x, 0.3, n)
    (strong, weak), (later, _), again = ([b[1][0] for b in call] for call in spy.calls)
    assert (strong != weak).any(1).all() and (strong != later).any(1).all()
    for a, b in zip((strong, weak), again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_ids_of_an_image_depend_on_its_own_key_alone(spy, inputs, keys):
    x, _, y = inputs
    velocity(spy, SG, y, keys)(x, 0.3, 2)
    velocity(spy, SG, y[1:2], keys[1:2])(x[1:2], 0.3, 2)
    whole, alone = spy.calls
    for a, b in zip(whole, alone, strict=True):
        np.testing.assert_array_equal(a[1][0][1:2], b[1][0])


@pytest.mark.parametrize(
    "name, expected",  # omega, gamma_strong, gamma_weak, weak label: the paper's table
    [
        ("unguided", (1, 0, 0, "same")),
        ("cfg", (None, 0, 0, "null")),
        ("sg_flops", (None, 0.5, 0.9, "same")),
        ("cfg_sg", (None, 0.2, 0.7, "null")),
    ],
)
def test_presets_are_the_papers(name, expected):
    preset, (scale, *rest) = PRESETS[name], expected
    assert [preset.gamma_strong, preset.gamma_weak, preset.weak_label] == rest
    assert preset.scale == scale or (scale is None and preset.scale > 1)


def test_sg_differs_in_sparsity_only():
    preset = PRESETS["sg"]
    assert preset.gamma_strong < preset.gamma_weak and preset.weak_label == "same"
    assert presets.resolve("sg") is preset and presets.resolve(SG) is SG


def test_what_a_compile_depends_on():
    def plan(guidance):
        return lib.plan(guidance, Sampler(), 8)[0]

    assert plan(SG) == plan(Guidance(9.0, 0.25, 0.75))
    assert plan(Guidance(gamma_weak=0.5)) == plan(Guidance(scale=3.0)) == plan(Guidance())
    assert len({plan(g) for g in (SG, CFG, CFG_SG, Guidance(), Guidance(1.5, 0.5, 0.9))}) == 5


@pytest.mark.parametrize(
    "guidance, gammas",
    [(Guidance(gamma_strong=0.2), (0.2,)), (SG, (0.25, 0.75)), (CFG, (0.0, 0.0))],
)
def test_the_rates_of_the_predictions_made(guidance, gammas):
    assert [s.gammas for s in lib.plan(guidance, Sampler(), 8)[0].stretches] == [gammas]


def test_a_setting_is_described_in_a_few_words():
    assert Guidance(1.5, 0.5, 0.9).describe() == "ω 1.5, γ 0.5 / 0.9"
    assert CFG.describe() == "ω 1.5, γ 0 / 0 null"
    assert Guidance().describe() == "no guidance, γ 0"
    assert Guidance(inner_scale=1.5, interval=(0.0, 0.5)).describe() == "γ 0, inner ω 1.5 t 0–0.5"
    assert Guidance(1.5, skip=2, skip_scale=2.0, refresh=2, norm=3.0).describe() == (
        "γ 0, skip 2 drawn ω 2 every 2 steps norm 3"
    )
    assert Guidance(2.0, 0.0, 0.9, skip=(2, 3), skip_scale=1.5, zero_steps=1).describe() == (
        "ω 2, γ 0 / 0.9, skip 2+3 ω 1.5 v 0 before step 1"
    )


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(gamma_weak=1.2), ["guidance.gamma_weak=1.2", "[0, 1]"]),
        (dict(gamma_strong=-1), ["guidance.gamma_strong=-1", "[0, 1]"]),
        (dict(gamma_weak=float("nan")), ["guidance.gamma_weak=nan"]),
        (dict(scale=-0.5), ["guidance.scale=-0.5", "at least 0"]),
        (dict(scale=float("nan")), ["guidance.scale=nan"]),
        (dict(weak_label="nul"), ["weak_label='nul'", "'same', 'null'", "mean 'null'"]),
    ],
)
def test_a_wrong_value_is_named(changes, named):
    with pytest.raises(UserError) as error:
        Guidance(**changes)
    for part in named:
        assert part in str(error.value)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match=r"guidance='sgflops' must.*cfg.*mean 'sg_flops'"):
        presets.resolve("sgflops")


def test_a_weak_condition_is_added_by_one_row(monkeypatch, small, spy, inputs, keys):
    """The next class, in place of none or a random one."""
    row = WeakCondition(lambda model, c, keys: (c + 1) % model.conditioning.count, "next class")
    monkeypatch.setitem(lib.WEAK_LABELS, "next", row)
    x, _, y = inputs
    guidance = Guidance(2.0, weak_label="next")
    assert guidance.guided and guidance.describe() == "ω 2, γ 0 / 0 next class"
    velocity(spy, guidance, y, keys)(x, 0.3, 0)
    ((strong, weak),) = spy.calls
    np.testing.assert_array_equal(strong[0], y)
    np.testing.assert_array_equal(weak[0], (y + 1) % 5)
    drawn = sample(small, [0, 4, 2], guidance, steps=1, pixels=False)
    plain, other = (
        sample(small, labels, steps=1, pixels=False) for labels in ([0, 4, 2], [1, 0, 3])
    )
    np.testing.assert_allclose(drawn, 2 * plain - other, atol=1e-5)  # one step is linear in v
    with pytest.raises(UserError, match="'random', 'next'"):
        Guidance(weak_label="nxt")
