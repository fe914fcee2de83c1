"""The integrators, on equations with known solutions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_paths import MULTISTEP, Z, end, error, gaussian, still

from sg_jax.errors import UserError
from sg_jax.method import guidance as guidance_lib
from sg_jax.method import sampler
from sg_jax.method.guidance import Guidance
from sg_jax.method.sampler import SAMPLERS, Integrator, Sampler
from sg_jax.programs.integration import image_keys, integrate
from sg_jax.programs.sampling import sample


def euler(velocity, x, times):
    return sampler.euler(still(velocity), x, times)[0]


def heun(velocity, x, times):
    return sampler.heun(still(velocity), x, times)[0]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 40, 50, 250, 999])
def test_the_grid_runs_from_0_to_1_exactly(steps):
    times = np.asarray(sampler.time_grid(steps))
    assert times.shape == (steps + 1,) and times.dtype == np.float32
    assert times[0] == 0 and times[-1] == 1
    np.testing.assert_allclose(np.diff(times), 1 / steps, atol=1e-6)


def test_euler_is_exact_for_a_constant_velocity():
    x = euler(lambda x, t, n: jnp.full_like(x, 3.0), Z, sampler.time_grid(4))
    np.testing.assert_array_equal(x, Z + 3)


def test_two_euler_steps_by_hand():
    x = euler(lambda x, t, n: -x, Z, sampler.time_grid(2))
    np.testing.assert_array_equal(x, Z / 4)  # (1 - 1/2)^2


def test_eulers_error_halves_when_steps_double():
    def error(steps):
        x = euler(lambda x, t, n: -x, jnp.ones(1), sampler.time_grid(steps))
        return abs(float(x[0]) - math.exp(-1))

    for steps in (20, 40, 80):
        assert 1.9 < error(steps) / error(2 * steps) < 2.1


def test_the_velocity_is_asked_at_the_start_of_each_step():
    times = jnp.array([0.0, 0.5, 0.75, 1.0])
    x = euler(lambda x, t, n: jnp.broadcast_to(t, x.shape), jnp.zeros(1), times)
    assert x[0] == 0.5 * 0 + 0.25 * 0.5 + 0.25 * 0.75


def test_evaluations_are_counted_from_0():
    x = euler(lambda x, t, n: jnp.broadcast_to(2.0**n, x.shape), jnp.zeros(1), sampler.time_grid(4))
    assert x[0] == (1 + 2 + 4 + 8) / 4


def test_noise_arrives_at_the_data_it_is_led_to():
    data = jnp.array([5.0, 7.0])
    x = euler(lambda x, t, n: (data - x) / (1 - t), Z, sampler.time_grid(10))
    np.testing.assert_allclose(x, data, rtol=1e-6)


def test_the_velocity_is_traced_once_whatever_the_number_of_steps():
    traces = []

    def velocity(x, t, n):
        traces.append(n)
        return -x

    jax.jit(lambda z: euler(velocity, z, sampler.time_grid(50)))(Z)
    assert len(traces) == 1


def orders(listed):
    return [(name, row.order) for name, row in listed.items() if row.order is not None]


@pytest.mark.parametrize("name, order", orders(SAMPLERS))
def test_the_order_of_convergence_on_gaussian_data(name, order):
    """The first and the last step of dpm_2m have order 1; among many steps they count for less."""
    with jax.enable_x64(True):
        for steps in (256, 512) if name == "dpm_2m" else (16, 32):
            assert error(name, steps) / error(name, 2 * steps) == pytest.approx(2**order, rel=0.2)


def ralston(sampler, velocity, noise, x, times, first, steps, memory):
    """x' = x + 2/3 dt v(x, t);  x + dt (v(x, t) / 4 + 3/4 v(x', t + 2/3 dt))."""
    for i, (t, dt) in enumerate(zip(times[:-1], jnp.diff(times), strict=True)):
        v, memory = velocity(x, t, first + 2 * i, memory)
        ahead, memory = velocity(x + 2 / 3 * dt * v, t + 2 / 3 * dt, first + 2 * i + 1, memory)
        x = x + dt * (v + 3 * ahead) / 4
    return x, memory


@pytest.mark.slow
def test_a_sampler_is_added_by_one_row(monkeypatch, small):
    monkeypatch.setitem(SAMPLERS, "ralston", Integrator(ralston, evaluations=2, order=2))
    method = Sampler("ralston", shift=2.0)
    assert method.evaluations == 2 and ("ralston", 2) in orders(SAMPLERS)
    assert error("ralston", 16) / error("ralston", 32) == pytest.approx(4, rel=0.2)
    np.testing.assert_allclose(method.times(2), [0, 1 / 3, 1], rtol=1e-6)
    close = sample(small, [1], "cfg", steps=8, sampler="heun", pixels=False)
    far, ours = (
        sample(small, [1], "cfg", steps=2, sampler=s, pixels=False) for s in ("euler", "ralston")
    )
    assert np.abs(ours - close).mean() < np.abs(far - close).mean() / 2
    with pytest.raises(UserError, match=r"sampler.churn=4.0 has no effect.*'ralston'"):
        Sampler("ralston", churn=4.0)
    with pytest.raises(UserError, match="mean 'ralston'"):
        Sampler("ralstn")


@pytest.mark.parametrize("steps", [20, 40])
def test_two_evaluations_per_step_are_closer_than_one(steps):
    assert error("heun", steps) < error("euler", steps) / 4
    assert error("edm_heun", steps) < error("euler", steps)
    assert error("heun", steps) < error("euler", 2 * steps)  # at equal cost


def test_heun_asks_at_both_ends_of_a_step():
    """t^1 is integrated exactly by the trapezoid; Euler with the first velocity twice is not."""
    times = jnp.array([0.0, 0.5, 1.0])
    x = heun(lambda x, t, n: jnp.broadcast_to(t, x.shape), jnp.zeros(1), times)
    assert x[0] == 0.5
    counts = heun(lambda x, t, n: jnp.broadcast_to(2.0**n, x.shape), jnp.zeros(1), times)
    assert counts[0] == ((1 + 2) / 2 + (4 + 8) / 2) / 2


@pytest.mark.slow
def test_heun_has_order_2_on_the_guided_velocity_of_a_network(small):
    """CFG on all tokens draws nothing, so the velocity is one smooth function."""
    guidance = Guidance(1.5, weak_label="null")
    keys, labels = image_keys(0, 0, 2), jnp.array([1, 3])

    def run(name, steps):
        method = Sampler(name)
        plan, scales = guidance_lib.plan(guidance, method, steps)
        return integrate(small, None, labels, keys, scales, plan=plan, sampler=method, steps=steps)

    def rms(x):
        return float(jnp.sqrt(jnp.square(x - fine).mean()))

    fine = run("heun", 128)
    first, second = rms(run("heun", 16)), rms(run("heun", 32))
    assert 3.2 < first / second < 4.8
    assert second < rms(run("euler", 32)) / 4


@pytest.mark.every(3)
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in MULTISTEP])
@pytest.mark.parametrize("cut", [1, 7])
def test_two_stretches_are_one_run(name, cut):
    """Evaluations go on counting, so the noise and whatever else is drawn fresh is the same."""
    method = Sampler(name, **({"churn": 4.0} if "churn" in SAMPLERS[name].reads else {}))
    times = method.times(8)

    def noise(n):
        return jax.random.normal(jax.random.fold_in(jax.random.key(2), n), (2,))

    def velocity(x, t, n, memory):
        return gaussian(x, t, n) + 0.1 * jnp.sin(1.0 * n) + 0.01 * memory, memory + x

    def run(state, times, first):
        x, memory = state
        first = first * method.evaluations
        return method.integrate(velocity, noise, x, times, first, steps=8, memory=memory)

    begin = method.start(Z, times), jnp.zeros(2)
    parts = run(run(begin, times[: cut + 1], 0), times[cut:], cut)
    np.testing.assert_allclose(parts, run(begin, times, 0), rtol=2e-5)


@pytest.mark.every(3)
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_the_loop_is_traced_once_whatever_the_number_of_steps(name):
    def traces(steps):
        calls = []

        def velocity(x, t, n):
            calls.append(n)
            return -x

        method = Sampler(name)
        times = method.times(steps)
        jax.jit(lambda z: method.integrate(still(velocity), jnp.ones_like, z, times))(
            jnp.float32(1.0)
        )
        return len(calls)

    assert traces(3) == traces(50) == SAMPLERS[name].evaluations


def test_a_shift_of_3_by_hand():
    """1/2 goes to 0.5 / (0.5 + 3 * 0.5) = 1/4; 1/4 to 0.25 / 2.5; 3/4 to 0.75 / 1.5."""
    np.testing.assert_allclose(sampler.time_grid(4, 3.0), [0, 0.1, 0.25, 0.5, 1], rtol=1e-6)


@pytest.mark.parametrize("shift", [0.1, 0.5, 1.0, 3.0, 100.0])
def test_a_shift_keeps_the_ends_and_the_order(shift):
    for steps in (1, 7, 40, 250):
        times = np.asarray(sampler.time_grid(steps, shift))
        assert times[0] == 0 and times[-1] == 1 and (np.diff(times) > 0).all()
    halfway = float(sampler.time_grid(2, shift)[1])
    assert halfway == pytest.approx(1 / (1 + shift))


@pytest.mark.every(3)
@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 2, 40])
def test_every_run_ends_at_1(name, steps):
    times = np.asarray(Sampler(name).times(steps))
    assert times.shape == (steps + 1,) and times[-1] == 1
    assert np.isfinite(end(name, steps, noise=lambda n: jnp.ones(2))).all()


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(name="huen"), ["sampler.name='huen'", "mean 'heun'"]),
        (dict(diffusion="sbmd"), ["sampler.diffusion='sbmd'", "mean 'sbdm'"]),
        (dict(shift=0.0), ["sampler.shift=0.0", "[0.001, 1000]"]),
        (dict(shift=float("nan")), ["sampler.shift=nan"]),
        (dict(name="edm_heun", churn_noise=-1.0), ["sampler.churn_noise=-1.0", "above 0"]),
        (dict(name="edm_heun", churn=-0.1), ["sampler.churn=-0.1", "at least 0"]),
        (dict(diffusion_scale=-1), ["sampler.diffusion_scale=-1"]),
        (dict(sigma_min=0.0), ["sampler.sigma_min=0.0", "[1e-06, 1e+06]"]),
        (
            dict(name="edm_heun", sigma_min=90.0),
            ["sampler.sigma_min=90.0", "below sigma_max=80.0"],
        ),
        (dict(rho=0), ["sampler.rho=0", "[0.2, 1000]"]),
    ],
)
def test_a_wrong_setting_is_named(changes, named):
    with pytest.raises(UserError) as error:
        Sampler(**changes)
    for part in named:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "name, unread",
    [
        ("euler", dict(churn=40.0)),
        ("heun", dict(rho=5.0)),
        ("euler", dict(diffusion="sbdm")),
        ("euler_maruyama", dict(sigma_max=50.0)),
        ("edm_heun", dict(shift=3.0)),
        ("edm_heun", dict(diffusion_scale=0.5)),
    ],
)
def test_what_a_sampler_does_not_read_must_stay_as_it_is(name, unread):
    ((key, value),) = unread.items()
    with pytest.raises(UserError) as error:
        Sampler(name, **unread)
    for part in (f"sampler.{key}={value!r} has no effect", repr(name), "Leave it at"):
        assert part in str(error.value)


@pytest.mark.every(2)
@pytest.mark.parametrize("name", SAMPLERS)
def test_what_a_sampler_is_said_to_read_it_reads(name):
    """Another value of any of them moves the sample."""
    values = dict(shift=2.0, diffusion="constant", diffusion_scale=2.0, churn_noise=1.5, rho=3.0)
    values |= dict(churn_min=1.0, churn_max=1.0, sigma_min=0.1, sigma_max=40.0, churn=20.0)
    plain = {"churn": 1.0} if "churn" in SAMPLERS[name].reads else {}
    before = end(name, 6, noise=lambda n: jnp.ones(2), **plain)
    for key in SAMPLERS[name].reads:
        after = end(name, 6, noise=lambda n: jnp.ones(2), **{**plain, key: values[key]})
        assert jnp.abs(after - before).max() > 1e-4, key
