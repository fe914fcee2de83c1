"""AdamW or Muon from Optax with a schedule and clipping, and the moving average of the weights."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sg_jax.errors import CONTINUED, SettingError, Settings, setting
from sg_jax.parallel import sharding

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("constant", "cosine")
AS_ADAMW = 0.2  # size of Muon's updates at which AdamW's learning rates fit (arXiv 2502.16982)


@dataclasses.dataclass(frozen=True)
class Optimizer(Settings):
    """The optimizer, its learning rate, and clipping of the global gradient norm.

    Muon (Jordan et al., 2024; Liu et al., arXiv 2502.16982) updates the matrices of all blocks by
    their orthogonalized momentum, and AdamW everything else.
    """

    SECTION = "config.optimizer"

    name: str = setting("adamw", "which one", options=OPTIMIZERS, fixed=CONTINUED)

    learning_rate: float = setting(1e-4, "its highest value", above=0)
    schedule: str = setting("constant", "of the learning rate", options=SCHEDULES, fixed=CONTINUED)
    warmup: int = setting(0, "steps of a linear rise from 0", low=0, fixed=CONTINUED)
    b1: float = setting(0.9, "of AdamW's mean", low=0, below=1, fixed=CONTINUED)
    b2: float = setting(0.999, "of AdamW's mean square", low=0, below=1, fixed=CONTINUED)
    momentum: float = setting(0.95, "of Muon", low=0, below=1, fixed=CONTINUED)
    weight_decay: float = setting(0.0, "decoupled from the gradient", low=0)
    clip_norm: float = setting(
        1.0,
        "of the gradient; 0: no clipping",
        low=0,
        high=math.inf,
        note=" (no clipping)",
        fixed=CONTINUED,
    )

    def unread(self) -> dict[str, str]:
        return {} if self.name == "muon" else {"momentum": f"name={self.name!r} does not read it"}

    def learning_rates(self, steps: int) -> optax.Schedule:
        """Return the learning rate as a function of the step, counted from 0.

        It rises linearly during warmup, then stays constant or follows a cosine to 0 at `steps`.

        Raises:
          UserError: the warmup is as long as a cosine schedule, or longer.
        """
        if self.schedule == "cosine":
            if self.warmup >= steps:
                raise SettingError(
                    self.SECTION,
                    "warmup",
                    self.warmup,
                    f"must be below config.train.steps={steps} for the cosine schedule.",
                )
            return optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, self.warmup, steps)
        if self.warmup:
            return optax.linear_schedule(0.0, self.learning_rate, self.warmup)
        return optax.constant_schedule(self.learning_rate)

    def make(self, steps: int) -> optax.GradientTransformation:
        """Return the optimizer for a training run of `steps` steps."""
        rates = self.learning_rates(steps)
        if self.name == "muon":
            made = optax.contrib.muon(
                rates,
                beta=self.momentum,
                weight_decay=self.weight_decay,
                adam_b1=self.b1,
                adam_b2=self.b2,
                adam_weight_decay=self.weight_decay,
                muon_weight_dimension_numbers=matrices,
                consistent_rms=AS_ADAMW,
            )
        else:
            made = optax.adamw(rates, b1=self.b1, b2=self.b2, weight_decay=self.weight_decay)
        if not self.clip_norm:
            return made
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), made)


def matrices(tree: Any) -> Any:
    """Return which axes of each parameter Muon orthogonalizes: those of the blocks' matrices.

    Other parameters have None. Blocks are stacked, so a matrix is [L, in, out].
    """

    def axes(x):
        found = sharding.is_stacked(x) and "tensor_axis" in x.get_metadata()
        return jax.tree.map(
            lambda a: optax.contrib.MuonDimensionNumbers(1, 2) if found and a.ndim == 3 else None, x
        )

    return jax.tree.map(axes, tree, is_leaf=sharding.is_parameter)


def at_this_step(old: Any, new: Any) -> Any:
    """Return the optimizer's state `old`, but with the place in the schedule from `new`."""

    def scheduled(x: Any) -> bool:
        return isinstance(x, optax.ScaleByScheduleState)

    return jax.tree.map(lambda x, y: y if scheduled(y) else x, old, new, is_leaf=scheduled)


def update_ema(ema: Any, model: Any, decay: float, step: jax.Array) -> Any:
    """Return the moving average after `step` updates (counted from 1).

    ema <- d ema + (1 - d) model with d = min(decay, step / (step + 9)): the average starts at the
    initial weights and forgets them within a few steps, so it needs no debiasing.
    """
    step = jnp.asarray(step, jnp.float32)
    return optax.incremental_update(model, ema, 1.0 - jnp.minimum(decay, step / (step + 9.0)))
