"""The sum of guidance terms, by hand on a network whose predictions are known numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.method import guidance as lib
from sg_jax.method import terms
from sg_jax.method.guidance import Guidance
from sg_jax.method.plans import Values
from sg_jax.method.projection import project, rescaled
from sg_jax.method.sampler import Sampler

T = jnp.array([0.5])
SEED = jnp.float32(0)


class Known:
    """x + 3 with its label; without, x + 1; without a block, x + 2; its inner head x + 2.5."""

    prediction, masks, tokens, choices, inner, depth, channels = "velocity", False, 4, 0, 1, 2, 2
    add, noises = 3.0, None

    class conditioning:
        null = staticmethod(lambda c: c + 1)

    def skipping(self, active):
        other = Known()
        other.add = jnp.where(active.all(), 3.0, 2.0)
        return other

    def branches(self, x, t, branches, inner=False):
        values = [jnp.where(b.condition[0] == 0, self.add, 1.0) for b in branches]
        self.noises = [b.time_noise for b in branches]
        found = [x + v for v in values]
        return (found, x + 2.5) if inner else found


def start(guidance, steps=4, sampler="euler"):
    """The plan, the velocity of the first stretch that moves, and the memory before."""
    method = Sampler(sampler)
    plan, scales = lib.plan(guidance, method, steps)
    stretch = next(s for s in plan.stretches if s.gammas)
    keys = jax.random.split(jax.random.key(0), 1)
    labels = jnp.zeros(1, jnp.int32)
    run = terms.guided_velocity(
        Known(), None, stretch, plan, labels, keys, jnp.asarray(scales), method.evaluations
    )
    return plan, run, terms.start(plan, jnp.zeros((1, 1, 1, 2)))


def value(guidance):
    _, run, memory = start(guidance)
    return run(jnp.zeros((1, 1, 1, 2)), 0.0, 0, memory)[0].ravel().tolist()


CFG = dict(weak_label="null")


@pytest.mark.every(3)
@pytest.mark.parametrize(
    "guidance, expected",  # of 3 with the label
    [
        (Guidance(), 3.0),
        (Guidance(1.5, **CFG), 4.0),  # 1.5 * 3 - 0.5 * 1
        (Guidance(0.0, **CFG), 1.0),  # the weak one
        (Guidance(skip=1, skip_scale=3.0), 5.0),  # 3 + 2 (3 - 2)
        (Guidance(skip=(0,), skip_scale=3.0), 5.0),
        (Guidance(inner_scale=3.0), 4.0),  # 3 + 2 (3 - 2.5)
        (Guidance(1.5, **CFG, skip=1, skip_scale=2.0, inner_scale=3.0), 6.0),  # 3 + 1 + 1 + 1
        (Guidance(1.5, **CFG, parallel=1.0, norm=0.0, momentum=0.0), 4.0),
        (Guidance(1.5, **CFG, rescale=True), 3.0),  # 3 is thrice 1, so nothing differs
        (Guidance(1.5, **CFG, norm=2**0.5), 3.5),  # d is (2, 2), twice as long as allowed
        (Guidance(1.5, **CFG, parallel=0.0), 3.0),  # D is (3, 3), along d
        (Guidance(1.5, **CFG, parallel=0.5), 3.5),
    ],
)
def test_the_sum_by_hand(guidance, expected):
    assert value(guidance) == pytest.approx([expected] * 2, rel=1e-5)


def test_only_the_first_channels_are_guided():
    assert value(Guidance(1.5, **CFG, inner_scale=3.0, channels=1)) == [5.0, 3.0]


def test_s2_on_cfg_is_the_papers_sum():
    """D(null) + lambda (D(c) - D(null)) - omega (D_skipped - D(c)) of 1, 3 and 2."""
    for lam, omega in ((2.0, 0.25), (4.0, 1.0)):
        ours = Guidance(lam, **CFG, skip=1, skip_scale=1 + omega)
        assert value(ours)[0] == pytest.approx(1 + lam * 2 - omega * (2 - 3))


def test_slg_on_cfg_is_the_papers_sum():
    """D(null) + lambda (D(c) - D(null)) + s (D(c) - D_skipped) of 1, 3 and 2."""
    assert value(Guidance(2.0, **CFG, skip=(1,), skip_scale=1 + 0.5))[0] == 1 + 2 * 2 + 0.5


def test_last_differences_are_used_again_with_the_current_omega():
    """d is 2 whatever x is, so it shows in whether memory is read: put 10 there."""
    plan, run, memory = start(Guidance(("linear", 1.0, 4.0), **CFG, refresh=2))
    zero = jnp.zeros((1, 1, 1, 2))
    _, memory = run(zero, 0.0, 0, memory)
    assert memory["last"]["weak"].ravel().tolist() == [2, 2]
    v, after = run(zero, 0.25, 1, {"last": {"weak": zero + 10}})
    assert v[0, 0, 0, 0] == 3 + (2 - 1) * 10 and after["last"]["weak"][0, 0, 0, 0] == 10
    v, after = run(zero, 0.5, 2, after)
    assert v[0, 0, 0, 0] == 3 + (3 - 1) * 2 and after["last"]["weak"][0, 0, 0, 0] == 2
    assert plan.reuses


def test_heuns_second_evaluation_uses_what_its_step_has():
    _, run, _ = start(Guidance(2.0, **CFG, refresh=2), sampler="heun")
    zero = jnp.zeros((1, 1, 1, 2))
    for n, expected in enumerate([2, 10, 10, 10, 2]):  # new at evaluations 0, 4, ...
        _, after = run(zero, 0.0, n, {"last": {"weak": zero + 10}})
        assert after["last"]["weak"][0, 0, 0, 0] == expected


@pytest.mark.parametrize(
    "guidance, fresh",
    [
        (Guidance(2.0, **CFG), [1, 1, 1, 1, 1, 1, 1, 1]),
        (Guidance(2.0, **CFG, refresh=3), [1, 0, 0, 1, 0, 0, 1, 0]),
        (Guidance(2.0, **CFG, refresh=3, interval=(0.25, 0.8)), [0, 0, 1, 0, 0, 1, 0, 0]),
        (Guidance(2.0, **CFG, refresh=4, zero_steps=1), [0, 1, 0, 0, 0, 1, 0, 0]),
        (Guidance(inner_scale=2.0), [0] * 8),
        # The weak prediction starts in the second half, while others go on.
        (Guidance(2.0, 0.0, ("piecewise", (0.5, 0.0), (0.51, 0.5)), skip=1, skip_scale=2.0,
                  refresh=8, segments=2), [1, 0, 0, 0, 1, 0, 0, 0]),
    ],
)  # fmt: skip
def test_the_first_guided_step_computes(guidance, fresh):
    _, scales = lib.plan(guidance, Sampler(), 8)
    assert Values(*scales).fresh.tolist() == fresh


def test_momentum_adds_the_last_difference_of_images():
    """(1 - t) d is 2, then 1 with half of 2 more, which is 4 as a velocity at t = 1/2."""
    _, run, memory = start(Guidance(2.0, **CFG, momentum=0.5))
    zero = jnp.zeros((1, 1, 1, 2))
    v, memory = run(zero, 0.0, 0, memory)
    assert v[0, 0, 0, 0] == 3 + 2 and memory["moved"]["weak"][0, 0, 0, 0] == 2
    v, memory = run(zero, 0.5, 1, memory)
    assert v[0, 0, 0, 0] == 3 + 4 and memory["moved"]["weak"][0, 0, 0, 0] == 2


@pytest.mark.parametrize("beta", [0.9, -0.5])
def test_momentum_sums_the_differences_of_images(beta):
    """Of step k the share beta^(n - k) (1 - t_k) / (1 - t_n) is left in step n; each d_k is 2."""
    _, run, memory = start(Guidance(1.5, **CFG, momentum=beta), steps=5)
    times = [0.0, 0.2, 0.4, 0.6, 0.8]
    for n, t in enumerate(times):
        v, memory = run(jnp.zeros((1, 1, 1, 2)), t, n, memory)
        shares = [beta ** (n - k) * (1 - times[k]) / (1 - t) for k in range(n + 1)]
        np.testing.assert_allclose(v, 3 + 0.5 * 2 * sum(shares), rtol=1e-5)


def test_nothing_is_remembered_where_nothing_is_needed():
    for guidance in (Guidance(), Guidance(2.0, **CFG, norm=1.0), Guidance(inner_scale=2.0)):
        assert start(guidance)[2] == ()


def test_first_steps_of_0_are_a_stretch_of_their_own():
    plan, _ = lib.plan(Guidance(2.0, **CFG, zero_steps=2), Sampler(), 8)
    assert [(s.first, s.stop, s.gammas) for s in plan.stretches] == [
        (0, 2, ()),
        (2, 8, (0.0, 0.0)),
    ]


def test_noise_on_the_time_falls_with_the_time():
    """s (1 - t)^alpha; and it is new at each evaluation."""
    model, guidance = Known(), Guidance(2.0, time_noise=3.0, time_power=2.0)
    plan, scales = lib.plan(guidance, Sampler(), 4)
    keys = jax.random.split(jax.random.key(0), 2)
    run = terms.guided_velocity(
        model, None, plan.stretches[0], plan, jnp.zeros(2, jnp.int32), keys, jnp.asarray(scales)
    )
    seen = []
    for n in (0, 2):
        run(jnp.zeros((2, 1, 1, 2)), n / 4, n)
        strong, (noise, amount) = model.noises
        assert strong is None
        np.testing.assert_allclose(amount, 3 * (1 - n / 4) ** 2)
        seen += list(map(tuple, np.asarray(jax.random.key_data(noise))))
    assert len(set(seen)) == 4


def images(seed):
    return jax.random.normal(jax.random.key(seed), (2, 2, 2, 3))


def test_a_doubled_weak_velocity_is_halved():
    v = images(0)
    np.testing.assert_allclose(rescaled(v, 2 * v), v, rtol=1e-5)
    np.testing.assert_allclose(rescaled(v, v), v, rtol=1e-5)
    rest = v - rescaled(v, images(1))  # what is left is orthogonal to the weak velocity
    np.testing.assert_allclose((rest * images(1)).sum((1, 2, 3)), 0, atol=1e-5)
    assert (rescaled(v, jnp.zeros_like(v)) == 0).all()


def test_projection_removes_what_lies_along_the_image():
    d, strong, x = images(0), images(1), images(2)
    t = jnp.array([0.25, 0.5])
    none = dict(parallel=1.0, norm=0.0, momentum=0.0)
    same, moved = project(d, strong, x, t, 0 * d, **none)
    np.testing.assert_array_equal(same, d)
    np.testing.assert_allclose(moved, (1 - t)[:, None, None, None] * d, rtol=1e-6)
    across, _ = project(d, strong, x, t, 0 * d, **{**none, "parallel": 0.0})
    image = x + (1 - t)[:, None, None, None] * strong
    np.testing.assert_allclose((across * image).sum((1, 2, 3)), 0, atol=1e-5)
    half, _ = project(d, strong, x, t, 0 * d, **{**none, "parallel": 0.5})
    np.testing.assert_allclose(half, (across + d) / 2, atol=1e-6)


def test_the_norm_is_that_of_denoised_images():
    d, t = images(0), jnp.array([0.25, 0.5])
    short, _ = project(d, d, d, t, 0 * d, parallel=1.0, norm=0.5, momentum=0.0)
    length = jnp.sqrt(jnp.square((1 - t)[:, None, None, None] * short).sum((1, 2, 3)))
    np.testing.assert_allclose(length, 0.5, rtol=1e-5)


def test_the_end_is_finite():
    d = images(0)
    v, _ = project(d, d, d, jnp.ones(2), 5 + d, parallel=0.3, norm=1.0, momentum=-0.9)
    np.testing.assert_allclose(v, 0.3 * d, rtol=1e-5)  # along the image, x itself


@pytest.mark.parametrize("skip, ran", [((0, 3), [0, 1, 1, 0]), (0, [1] * 4)])
def test_fixed_blocks_are_those(skip, ran):
    assert terms.active_blocks(4, skip, 7, SEED).tolist() == [bool(r) for r in ran]


def test_drawn_blocks_depend_on_the_evaluation_and_the_seed_and_are_equally_likely():
    """300 draws of 2 in 6: each but the first is left out 120 times, give or take 8."""
    drawn = np.array([terms.active_blocks(6, 2, n, SEED) for n in range(300)])
    assert (drawn.sum(1) == 4).all() and drawn[:, 0].all()
    np.testing.assert_allclose((~drawn[:, 1:]).mean(0), 0.4, atol=0.1)
    assert (drawn[5] == terms.active_blocks(6, 2, jnp.int32(5), SEED)).all()
    others = [terms.active_blocks(6, 2, n, SEED + 1) for n in range(300)]
    assert 0.03 < np.mean((drawn == others).all(1)) < 0.2  # there are 10 pairs


def test_the_seed_of_the_run_reaches_the_blocks():
    for seed, expected in ((3, 3), (2**30 + 5, 5)):  # float32 counts to 2^24
        _, scales = lib.plan(Guidance(skip=1, skip_scale=2.0), Sampler(), 2, seed)
        assert Values(*scales).seed.tolist() == [expected] * 2


def test_an_interval_that_holds_no_step_is_refused():
    with pytest.raises(UserError, match=r"interval=\(0.51, 0.52\) contains none of the times"):
        lib.plan(Guidance(2.0, **CFG, interval=(0.51, 0.52)), Sampler(), 4)
    lib.plan(Guidance(interval=(0.51, 0.52)), Sampler(), 4)  # nothing is guided anyway


def test_what_a_compile_depends_on():
    """Numbers do not count, but whether they matter does."""

    def plan(**settings):
        return lib.plan(Guidance(2.0, **CFG, **settings), Sampler(), 8)[0]

    for one, other in (
        (dict(refresh=2), dict(refresh=3)),
        (dict(skip=1, skip_scale=2.0), dict(skip=1, skip_scale=("linear", 1.0, 2.0))),
        (dict(inner_scale=2.0), dict(inner_scale=1.5)),
        (dict(time_noise=1.0), dict(time_noise=2.0, time_power=3.0)),
        (dict(norm=1.0), dict(norm=5.0, parallel=0.1)),
        (dict(momentum=-0.1), dict(momentum=0.9, norm=3.0)),
    ):
        assert plan(**one) == plan(**other) != plan()
