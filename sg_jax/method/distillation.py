"""Distillation: a network learns the guided velocity, so that one call is enough to make it later.

The target is not v* = x - z but what a frozen network, the teacher, makes of the same x_t with a
guidance setting: omega * strong + (1 - omega) * weak. With autoguidance a second frozen network
makes the weak prediction. The network that learns keeps its own sparsity rate.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sg_jax.errors import UserError, default_of
from sg_jax.method import guidance as guidance_lib
from sg_jax.method import terms
from sg_jax.method.guidance import Guidance
from sg_jax.method.network import Condition, Network
from sg_jax.method.objective import FlowMatching
from sg_jax.method.sampler import Sampler

NUMBERS = ("scale", "gamma_strong", "gamma_weak", "skip_scale", "inner_scale")  # no schedules
STEPS = ("refresh", "momentum", "zero_steps")  # settings that depend on a sampler's steps


@dataclasses.dataclass(frozen=True)
class Distillation:
    """An objective whose target a teacher makes with a guidance setting."""

    objective: FlowMatching
    guidance: Guidance

    def __call__(
        self, model: Network, batch: dict[str, Any], keys: jax.Array, *teachers: Network
    ) -> jax.Array:
        """Return the loss of each image [B]; see `FlowMatching`, and `guided` for the teachers."""
        target = functools.partial(guided, teachers, self.guidance)
        return self.objective(model, batch, keys, target)


def guided(
    teachers: Sequence[Network],
    guidance: Guidance,
    x: jax.Array,
    t: jax.Array,
    condition: Condition,
    keys: jax.Array,
) -> jax.Array:
    """Return the velocity [B, H, W, C] that networks make with a guidance setting.

    Args:
      teachers: the network, and the one that makes the weak prediction if that is another.
      guidance: a setting that `check` allows.
      x: images x_t [B, H, W, C].
      t: times [B].
      condition: the condition of each image. The null one is guided too; CFG leaves it as it is.
      keys: one per image [B], for kept tokens and other labels.
    """

    def made(setting: Guidance) -> jax.Array:
        with jax.ensure_compile_time_eval():
            plan, scales = guidance_lib.plan(setting, Sampler(), 1)
        strong, *others = teachers
        weak = others[0] if plan.two_networks else None
        velocity = terms.guided_velocity(
            strong, weak, plan.stretches[0], plan, condition, keys, jnp.asarray(scales)
        )
        return velocity(x, t, jnp.int32(0))[0]

    inside, *outside = map(made, parts_of(guidance))
    if not outside:
        return inside
    low, high = guidance.interval
    acts = ((t >= low) & (t <= high))[:, None, None, None]  # [B, 1, 1, 1]
    return jnp.where(acts, inside, outside[0])


def parts_of(guidance: Guidance) -> list[Guidance]:
    """Return the settings to evaluate at every time: one for the interval, and one for outside."""
    always = dataclasses.replace(guidance, interval=(0.0, 1.0))
    if not guidance.guided or always == guidance:
        return [always]
    return [always, Guidance(gamma_strong=guidance.gamma_strong, ids=guidance.ids)]


def check(guidance: Guidance, name: str) -> None:
    """Raise unless the setting called `name` makes sense at a single training time."""
    key = f"config.objective.distill={name!r}: config.guidance.{name}"
    for field in NUMBERS:
        if isinstance(value := getattr(guidance, field), tuple):
            raise UserError(
                f"{key}.{field}={value!r} changes over the steps of a sampler, which training does "
                "not have: give a number."
            )
    for field in STEPS:
        if (value := getattr(guidance, field)) != (default := default_of(Guidance, field)):
            raise UserError(
                f"{key}.{field}={value!r} refers to the steps of a sampler, which training does "
                f"not have: leave it at {default!r}."
            )
    if guidance.skip_acts and not isinstance(guidance.skip, tuple):
        raise UserError(
            f"{key}.skip={guidance.skip} draws other blocks at each evaluation, but the target "
            "needs fixed ones: give their numbers, such as (2,)."
        )
