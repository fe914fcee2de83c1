"""The training objective: (model, batch, keys) -> loss per image [B], not averaged."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sg_jax.errors import CONTINUED, Settings, is_number, setting
from sg_jax.method import flow, prediction
from sg_jax.method.network import Condition, KeepIds, Network
from sg_jax.method.routing import draw_ids
from sg_jax.method.tokens import patchify

Rates = tuple[tuple[float, float], ...]  # sparsity rates, each with its share of the steps
Teacher = Callable[[jax.Array, jax.Array, Condition, jax.Array], jax.Array]
TEACHER = 0x7EAC_4E12  # folded into an image's key for the teacher, so that no other draw has it


def _rates(pairs: Any) -> str:
    for pair in pairs if isinstance(pairs, tuple) else ((),):
        numeric = isinstance(pair, tuple) and len(pair) == 2 and all(map(is_number, pair))
        if not numeric or not 0 <= pair[0] <= 1 or not 0 < pair[1] <= 1:
            return "must be pairs (gamma, share) with gamma in [0, 1] and a share above 0."
    if len({f"{gamma:g}" for gamma, _ in pairs}) < len(pairs):
        return "must not contain a rate twice (to six digits)."
    total = sum(share for _, share in pairs)
    if pairs and not math.isclose(total, 1, abs_tol=1e-6):
        return f"must have shares that add up to 1, not {total:g}."
    return ""


def as_rates(gamma: float | Rates) -> Rates:
    """Return a single rate as one that all steps have, and several rates unchanged."""
    return gamma if isinstance(gamma, tuple) else ((float(gamma), 1.0),)


def in_words(rates: Rates) -> str:
    """Return rates as text, such as "0.5" or "0 (25%) or 0.75 (75%)"."""
    if len(rates) == 1:
        return f"{rates[0][0]:g}"
    return " or ".join(f"{gamma:g} ({100 * share:g}%)" for gamma, share in rates)


@dataclasses.dataclass(frozen=True)
class FlowMatching(Settings):
    """Flow matching on a sparse network.

    Routing:  E w(t) || v(x_t, t, c; gamma) - v* ||^2,  v* = x - z   (arXiv 2601.01608, Eq. 2, 5)
    Masking:  the same on visible tokens, plus lambda (1 - t)^2 || v - v* ||^2 on the masked ones,
              which is lambda || D - x ||^2 with D = x_t + (1 - t) v             (Eq. A1 to A4)

    w is 1, or the weight of EDM's preconditioning (`prediction.loss_weight`).

    With `route_loss` lambda, tokens that bypass routes count as masked ones do, which is our
    reading of the loss over all routes in TREAD's abstract (arXiv 2501.04765):
              w mean_{i computed by all routes} || v_i - v*_i ||^2
              + lambda (1 - t)^2 mean_{routes r} mean_{i bypasses r} || v_i - v*_i ||^2
    An image without tokens that every route computes has only the second part. At gamma 1, where no
    route computes any, every token counts alike.

    An inner head v_inner has the same loss: L(v) + inner L(v_inner) (Internal Guidance, arXiv
    2512.24176).

    With `rates`, each step draws its rate; `programs.training` does this. A rate of 1 trains the
    network without its routed blocks, as Sprint's path-drop (arXiv 2510.21986) does for each image.
    """

    SECTION = "objective"

    gamma: float = setting(0.5, "share of tokens left out", low=0, high=1, fixed=CONTINUED)
    rates: tuple = setting(
        (),
        "((gamma, share), ...): each step draws one of these rates instead of gamma, such as "
        "((0.75, 0.75), (0.0, 0.2), (1.0, 0.05))",
        rule=_rates,
        fixed=CONTINUED,
    )
    label_dropout: float = setting(
        0.1, "share of null conditions; CFG needs some", low=0, high=1, fixed=CONTINUED
    )
    time: str = setting(
        "logit_normal", "distribution of t", options=flow.TIME_DISTRIBUTIONS, fixed=CONTINUED
    )
    time_mean: float = setting(
        0.0,
        "of logit(t); EDM's P_mean -1.2, of ln(sigma), is 1.2 here",
        low=-100,
        high=100,
        fixed=CONTINUED,
    )
    time_std: float = setting(
        1.0, "of logit(t); EDM's P_std is 1.2", above=0, high=100, fixed=CONTINUED
    )
    shift: float = setting(
        1.0, "above 1 draws more t near noise", low=1e-3, high=1e3, fixed=CONTINUED
    )
    reconstruction: float = setting(
        0.1, "lambda of the masked tokens (maskdit)", low=0, fixed=CONTINUED
    )
    route_loss: float = setting(
        0.0,
        "lambda of the tokens that bypass routes; 0: every token counts alike",
        low=0,
        fixed=CONTINUED,
    )
    inner: float = setting(
        0.5, "weight of the inner head's loss (model.inner)", low=0, fixed=CONTINUED
    )
    distill: str = setting(
        "",
        "a guidance setting: the velocity that the network of train.init_from makes with it is the "
        "target",
        fixed=CONTINUED,
    )

    def unread(self) -> dict[str, str]:
        if self.time == "logit_normal":
            return {}
        reason = f"time={self.time!r} has no such parameter"
        return {"time_mean": reason, "time_std": reason}

    @property
    def drawn(self) -> Rates:
        """The rates that steps draw from, even if there is only one."""
        return self.rates or as_rates(self.gamma)

    def at(self, gamma: float) -> "FlowMatching":
        """Return this objective at one sparsity rate."""
        return dataclasses.replace(self, gamma=gamma, rates=())

    def __call__(
        self,
        model: Network,
        batch: dict[str, Any],
        keys: jax.Array,
        teacher: Teacher | None = None,
    ) -> jax.Array:
        """Return the loss of each image [B], the mean square over its pixels.

        Args:
          model: the network.
          batch: "image" [B, H, W, C] in [-1, 1] and "condition", see `network.Condition`.
          keys: one per image [B], for its time, noise, dropout and token ids. So the loss does not
            depend on how the batch is spread over devices.
          teacher: (x_t, t, condition, keys) -> the target [B, H, W, C], instead of v*.
        """
        x = batch["image"]
        teacher_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, TEACHER)  # [B]
        keys = jax.vmap(lambda k: jax.random.split(k, 4))(keys)  # [B, 4]
        t = jax.vmap(self.draw_time)(keys[:, 0])  # [B]
        z = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys[:, 1])  # [B, H, W, C]
        drop = jax.vmap(lambda k: jax.random.bernoulli(k, self.label_dropout))(keys[:, 2])  # [B]
        condition = dropped(model, batch["condition"], drop)
        ids = draw_ids(model, keys[:, 3], self.gamma)
        x_t = flow.interpolate(x, z, t)
        if teacher is None:
            target = flow.velocity_target(x, z)
        else:
            target = teacher(x_t, t, condition, teacher_keys)
        if not model.inner:
            v = prediction.velocity(model, x_t, t, condition, ids)
            return self._loss(model, jnp.square(v - target), t, ids)
        v, inner = prediction.velocity_and_inner(model, x_t, t, condition, ids)
        losses = [self._loss(model, jnp.square(each - target), t, ids) for each in (v, inner)]
        return losses[0] + self.inner * losses[1]

    def _loss(self, model: Network, error: jax.Array, t: jax.Array, ids: KeepIds) -> jax.Array:
        """Return the loss of each image [B] from the squared error of its pixels [B, H, W, C]."""
        weight = prediction.loss_weight(model, t)
        factor = self.reconstruction if model.masks else self.route_loss
        if ids is None or not ids[0].shape[1] or not (model.masks or factor):
            return weight * error.mean(axis=(1, 2, 3))
        error = patchify(error, model.patch).mean(axis=-1)  # [B, N]
        kept = jnp.stack([_seen(error, rows) for rows in ids])  # [R, B, N]
        computed = kept.prod(axis=0)  # [B, N], 1 where every route computes it
        visible = (error * computed).sum(axis=1) / jnp.maximum(computed.sum(axis=1), 1)
        hidden = (error[None] * (1 - kept)).sum(axis=2) / (model.tokens - ids[0].shape[1])  # [R, B]
        return weight * visible + factor * jnp.square(1 - t) * hidden.mean(axis=0)

    def draw_time(self, key: jax.Array) -> jax.Array:
        """Draw a training time in (0, 1), float32 []."""
        t = flow.sample_time(key, (), self.time, self.time_mean, self.time_std)
        return flow.shift_time(t, self.shift)


def dropped(model: Network, condition: Condition, drop: jax.Array) -> Condition:
    """Replace the condition by the null one where `drop` [B] is true."""

    def one(null, c):
        return jnp.where(jnp.reshape(drop, drop.shape + (1,) * (c.ndim - 1)), null, c)

    return jax.tree.map(one, model.conditioning.null(condition), condition)


def _seen(like: jax.Array, ids: jax.Array) -> jax.Array:
    """Return 1 for the tokens ids [B, K] and 0 for the others, shaped like `like` [B, N]."""
    return jax.vmap(lambda row, i: row.at[i].set(1.0))(jnp.zeros_like(like), ids)
