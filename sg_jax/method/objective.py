"""The training objective: (model, batch, keys) -> loss per image [B], not averaged."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from sg_jax.errors import CONTINUED, Settings, setting
from sg_jax.method import flow, prediction
from sg_jax.method.network import Condition, Network
from sg_jax.method.routing import draw_ids
from sg_jax.method.tokens import patchify


@dataclasses.dataclass(frozen=True)
class FlowMatching(Settings):
    """Flow matching on a sparse network.

    Routing:  E w(t) || v(x_t, t, c; gamma) - v* ||^2,  v* = x - z   (arXiv 2601.01608, Eq. 2, 5)
    Masking:  that on the visible tokens, plus lambda (1 - t)^2 || v - v* ||^2 on the masked ones,
              which is lambda || D - x ||^2 with D = x_t + (1 - t) v             (Eq. A1 to A4)

    w is 1, or the weight of EDM's preconditioning (`prediction.loss_weight`).
    """

    SECTION = "objective"

    gamma: float = setting(0.5, "share of tokens left out", low=0, high=1, fixed=CONTINUED)
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

    def unread(self) -> dict[str, str]:
        if self.time == "logit_normal":
            return {}
        reason = f"time={self.time!r} has no such parameter"
        return {"time_mean": reason, "time_std": reason}

    def __call__(self, model: Network, batch: dict[str, Any], keys: jax.Array) -> jax.Array:
        """Return the loss of each image [B], the mean square over its pixels.

        Args:
          model: the network.
          batch: "image" [B, H, W, C] in [-1, 1] and "condition", see `network.Condition`.
          keys: one per image [B], for its time, noise, dropout and token ids. So the loss does not
            depend on how the batch is spread over devices.
        """
        x = batch["image"]
        keys = jax.vmap(lambda k: jax.random.split(k, 4))(keys)  # [B, 4]
        t = jax.vmap(self.draw_time)(keys[:, 0])  # [B]
        z = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys[:, 1])  # [B, H, W, C]
        drop = jax.vmap(lambda k: jax.random.bernoulli(k, self.label_dropout))(keys[:, 2])  # [B]
        condition = dropped(model, batch["condition"], drop)
        ids = draw_ids(model, keys[:, 3], self.gamma)
        v = prediction.velocity(model, flow.interpolate(x, z, t), t, condition, ids)
        error = jnp.square(v - flow.velocity_target(x, z))  # [B, H, W, C]
        weight = prediction.loss_weight(model, t)
        if not model.masks or ids is None:
            return weight * error.mean(axis=(1, 2, 3))
        error = patchify(error, model.patch).mean(axis=-1)  # [B, N]
        seen = jax.vmap(lambda row, i: row.at[i].set(1.0))(jnp.zeros_like(error), ids[0])  # [B, N]
        keep = ids[0].shape[1]
        visible = (error * seen).sum(axis=1) / keep
        masked = (error * (1 - seen)).sum(axis=1) / (model.tokens - keep)
        return weight * visible + self.reconstruction * jnp.square(1 - t) * masked

    def draw_time(self, key: jax.Array) -> jax.Array:
        """Draw a training time in (0, 1), float32 []."""
        t = flow.sample_time(key, (), self.time, self.time_mean, self.time_std)
        return flow.shift_time(t, self.shift)


def dropped(model: Network, condition: Condition, drop: jax.Array) -> Condition:
    """Replace the condition by the null one where `drop` [B] is true."""

    def one(null, c):
        return jnp.where(jnp.reshape(drop, drop.shape + (1,) * (c.ndim - 1)), null, c)

    return jax.tree.map(one, model.conditioning.null(condition), condition)
