"""AdamW with a schedule and clipping, by Optax, and the moving average of the weights."""

import jax
import jax.numpy as jnp
import optax

from sg_jax.errors import UserError, nearest

SCHEDULES = ("constant", "cosine")


def make_schedule(learning_rate: float, schedule: str, warmup: int, steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the step.

    A linear warmup over `warmup` steps from 0, then constant, or a cosine down to 0 at `steps`.
    """
    if schedule not in SCHEDULES:
        raise UserError(
            f"config.optimizer.schedule={schedule!r} must be one of {SCHEDULES}."
            + nearest(schedule, SCHEDULES)
        )
    if not 0 < learning_rate < float("inf") or warmup < 0:
        raise UserError(
            f"config.optimizer.learning_rate={learning_rate} must be above 0 and "
            f"config.optimizer.warmup={warmup} at least 0."
        )
    if schedule == "cosine":
        if warmup >= steps:
            raise UserError(
                f"config.optimizer.warmup={warmup} must be below config.train.steps={steps} for "
                f"the cosine schedule."
            )
        return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, steps)
    if warmup:
        return optax.linear_schedule(0.0, learning_rate, warmup)
    return optax.constant_schedule(learning_rate)


def make_optimizer(
    *,
    learning_rate: float,
    schedule: str,
    warmup: int,
    b1: float,
    b2: float,
    weight_decay: float,
    clip_norm: float,
    steps: int,
) -> optax.GradientTransformation:
    """Return AdamW behind clipping of the global gradient norm (`clip_norm` 0 turns it off)."""
    for name, value in (("b1", b1), ("b2", b2)):
        if not 0 <= value < 1:
            raise UserError(f"config.optimizer.{name}={value} must lie in [0, 1).")
    if not weight_decay >= 0:
        raise UserError(f"config.optimizer.weight_decay={weight_decay} must be at least 0.")
    if not clip_norm >= 0:
        raise UserError(f"config.optimizer.clip_norm={clip_norm} must be at least 0 (no clipping).")
    adamw = optax.adamw(
        make_schedule(learning_rate, schedule, warmup, steps),
        b1=b1,
        b2=b2,
        weight_decay=weight_decay,
    )
    return optax.chain(optax.clip_by_global_norm(clip_norm), adamw) if clip_norm else adamw


def update_ema(ema, model, decay: float, step: jax.Array):
    """Return the moving average after `step` updates (counted from 1).

    ema <- d ema + (1 - d) model with d = min(decay, step / (step + 9)): a start from the initial
    weights that are forgotten within a few steps, so that early averages need no debiasing.
    """
    step = jnp.asarray(step, jnp.float32)
    return optax.incremental_update(model, ema, 1.0 - jnp.minimum(decay, step / (step + 9.0)))
