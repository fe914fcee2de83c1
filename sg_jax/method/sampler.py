"""Integrators of dx/dt = velocity(x, t) from noise (t = 0) to data (t = 1).

They know neither networks nor guidance. `velocity(x [B, ...], t [], n [], memory) -> (v [B, ...],
memory)` and `noise(n []) -> [B, ...]` (standard normal) are given; n counts the evaluations from
`first`, for velocities that draw something new each time, and `memory` is what one evaluation
leaves for the next, or () if that is nothing. Every loop is one scan: one compiled body.

To add one: 1. write its function, here or in a file like `multistep`, 2. give it a row in
`SAMPLERS`, with the settings that it reads, 3. declare any new settings in `Sampler`. Tests read
the order from the row.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sg_jax.errors import SettingError, Settings, setting
from sg_jax.method import flow

Velocity = Callable[..., tuple[jax.Array, Any]]  # (x, t, n, memory)
Moved = tuple[jax.Array, Any]  # the state [B, ...] and the memory
Noise = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Integrator:
    """A row of `SAMPLERS`.

    Attributes:
      run: (sampler, velocity, noise, x, times, first, steps, memory) -> (x, memory); see
        `Sampler.integrate`.
      evaluations: how many times a step evaluates the velocity.
      order: the order of convergence; None if it adds noise.
      reads: the settings of `Sampler` that it reads.
      times: (sampler, steps) -> the times of a run [steps + 1].
    """

    run: Callable[..., Moved]
    evaluations: int
    order: int | None
    reads: tuple[str, ...] = ("shift",)
    times: Callable[..., jax.Array] = lambda sampler, steps: time_grid(steps, sampler.shift)


SAMPLERS: dict[str, Integrator] = {}  # by name; filled below, in `multistep` and `stochastic`
DIFFUSIONS: dict[str, Callable[[jax.Array], jax.Array]] = {}  # filled in `stochastic`


@dataclasses.dataclass(frozen=True)
class Sampler(Settings):
    """An integrator with its settings; those that it does not read must stay at their defaults."""

    SECTION = "sampler"

    name: str = setting("euler", "the integrator", options=SAMPLERS)
    shift: float = setting(1.0, "above 1 spends more steps near noise", low=1e-3, high=1e3)
    diffusion: str = setting("sigma", "D(t) of euler_maruyama", options=DIFFUSIONS)
    diffusion_scale: float = setting(1.0, "multiplies D(t)", low=0)
    churn: float = setting(0.0, "S_churn of edm_heun", low=0)
    churn_min: float = setting(0.0, "S_min: no churn at lower noise levels", low=0)
    churn_max: float = setting(
        math.inf, "S_max: no churn at higher noise levels", low=0, high=math.inf
    )
    churn_noise: float = setting(1.0, "S_noise", above=0)
    sigma_min: float = setting(0.002, "last noise level of edm_heun", low=1e-6, high=1e6)
    sigma_max: float = setting(80.0, "first noise level of edm_heun", low=1e-6, high=1e6)
    rho: float = setting(7.0, "how edm_heun spaces its noise levels", low=0.2, high=1000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma_min < self.sigma_max:
            rule = f"must be below sigma_max={self.sigma_max}."
            raise SettingError(self.SECTION, "sigma_min", self.sigma_min, rule)

    def unread(self) -> dict[str, str]:
        names = [field.name for field in dataclasses.fields(self)[1:]]
        reason = f"sampler {self.name!r} does not read it"
        return {name: reason for name in names if name not in self._row.reads}

    @property
    def _row(self) -> Integrator:
        return SAMPLERS[self.name]

    @property
    def evaluations(self) -> int:
        """Evaluations of the velocity per step."""
        return self._row.evaluations

    def times(self, steps: int) -> jax.Array:
        """Return the times of a run, ascending, float32 [steps + 1]; the last is 1."""
        return self._row.times(self, steps)

    def start(self, z: jax.Array, times: jax.Array) -> jax.Array:
        """Return the state at the first time from noise z; there is no data in it yet."""
        return (1 - times[0]) * z

    def integrate(
        self,
        velocity: Velocity,
        noise: Noise,
        x: jax.Array,
        times: jax.Array,
        first: int = 0,
        steps: int = 0,
        memory: Any = (),
    ) -> Moved:
        """Move x [B, ...] from the first of `times` to the last; return it and the memory.

        Args:
          velocity, noise: see the module.
          x: the state at times[0].
          times: a stretch of `self.times(steps)`.
          first: evaluations already made.
          steps: number of steps of the whole run; 0 if `times` covers all of it.
          memory: the velocity's.
        """
        steps = steps or len(times) - 1
        return self._row.run(self, velocity, noise, x, times, first, steps, memory)


def time_grid(steps: int, shift: float = 1.0) -> jax.Array:
    """Return the times 0 = t_0 < ... < t_steps = 1, float32 [steps + 1].

    Evenly spaced, then moved by `flow.shift_time`: a shift above 1 puts more steps near noise.
    """
    return flow.shift_time(jnp.linspace(0.0, 1.0, steps + 1), shift)


def euler(
    velocity: Velocity, x: jax.Array, times: jax.Array, first: int = 0, memory: Any = ()
) -> Moved:
    """Integrate by Euler's method.

    x_{i+1} = x_i + (t_{i+1} - t_i) v(x_i, t_i)

    Args:
      velocity: see the module.
      x: the state at times[0], noise at the start of a run [B, ...].
      times: ascending [steps + 1].
      first: evaluations already made.
      memory: the velocity's.

    Returns:
      The state at the last of the times, and the memory.
    """

    def step(state, inputs):
        (x, memory), (t, dt, n) = state, inputs
        v, memory = velocity(x, t, n, memory)
        return (x + dt * v, memory), None

    return scan(step, (x, memory), times, first, 1)


def heun(
    velocity: Velocity, x: jax.Array, times: jax.Array, first: int = 0, memory: Any = ()
) -> Moved:
    """Integrate by Heun's method: the mean of the velocities at both ends of a step.

    x' = x_i + dt v(x_i, t_i);  x_{i+1} = x_i + dt / 2 (v(x_i, t_i) + v(x', t_{i+1}))
    """

    def step(state, inputs):
        (x, memory), (t, dt, n) = state, inputs
        v, memory = velocity(x, t, n, memory)
        ahead, memory = velocity(x + dt * v, t + dt, n + 1, memory)
        return (x + dt / 2 * (v + ahead), memory), None

    return scan(step, (x, memory), times, first, 2)


def scan(step, state: Moved, times: jax.Array, first: int, evaluations: int) -> Moved:
    """Return the state after step(state, (t, dt, n)) from each of `times` to the next."""
    counts = first + evaluations * jnp.arange(len(times) - 1)
    return jax.lax.scan(step, state, (times[:-1], jnp.diff(times), counts))[0]


def plain(run: Callable[..., Moved]) -> Callable[..., Moved]:
    """Return the row's function for an integrator that adds no noise and has no settings."""

    def row(sampler, velocity, noise, x, times, first, steps, memory):
        return run(velocity, x, times, first, memory)

    return row


SAMPLERS |= {
    "euler": Integrator(plain(euler), evaluations=1, order=1),
    "heun": Integrator(plain(heun), evaluations=2, order=2),
}
