"""The training objective: (model, batch, keys) -> loss per image [B], not averaged."""

import dataclasses

import jax
import jax.numpy as jnp

from sg_jax.errors import UserError, nearest
from sg_jax.method import flow, prediction
from sg_jax.models.backbone import Backbone, patchify


@dataclasses.dataclass(frozen=True)
class FlowMatching:
    """Flow matching on a sparse network.

    Routing:  E w(t) || v(x_t, t, c; gamma) - v* ||^2,  v* = x - z   (arXiv 2601.01608, Eq. 2, 5)
    Masking:  that on the visible tokens, plus lambda (1 - t)^2 || v - v* ||^2 on the masked ones,
              which is lambda || D - x ||^2 with D = x_t + (1 - t) v             (Eq. A1 to A4)

    w is 1, or what EDM's preconditioning asks for (`prediction.loss_weight`).

    Args:
      gamma: sparsity rate of training, the share of tokens that bypasses the routed blocks or is
        masked.
      label_dropout: share of labels replaced by the null label (classifier-free guidance needs it).
      time: distribution of t, "logit_normal" or "uniform".
      time_mean, time_std: of logit(t) where it is normal; EDM's P_mean -1.2 and P_std 1.2, of
        ln(sigma), are 1.2 and 1.2 here.
      shift: above 1 draws more times near noise, as `sampler.time_grid` does.
      reconstruction: lambda of the masked tokens; MaskDiT's is 0.1.
    """

    gamma: float = 0.5
    label_dropout: float = 0.1
    time: str = "logit_normal"
    time_mean: float = 0.0
    time_std: float = 1.0
    shift: float = 1.0
    reconstruction: float = 0.1

    def __post_init__(self):
        for name in ("gamma", "label_dropout"):
            if not 0.0 <= (value := getattr(self, name)) <= 1.0:
                raise UserError(f"config.objective.{name}={value} must lie in [0, 1].")
        for name in ("time_std", "shift"):
            if not (value := getattr(self, name)) > 0:
                raise UserError(f"config.objective.{name}={value} must be above 0.")
        if not self.reconstruction >= 0:
            raise UserError(
                f"config.objective.reconstruction={self.reconstruction} must be at least 0."
            )
        if self.time not in flow.TIME_DISTRIBUTIONS:
            options = flow.TIME_DISTRIBUTIONS
            raise UserError(
                f"config.objective.time={self.time!r} must be one of {options}."
                + nearest(self.time, options)
            )

    def __call__(self, model: Backbone, batch: dict[str, jax.Array], keys: jax.Array) -> jax.Array:
        """Return the loss of each image [B], the mean square over its pixels.

        Args:
          model: the network.
          batch: "image" [B, H, W, C] in [-1, 1] and "label" [B].
          keys: one per image [B], for its time, noise, dropout and token ids, so that the loss does
            not depend on how the batch is spread over devices.
        """
        x, y = batch["image"], batch["label"]
        keys = jax.vmap(lambda k: jax.random.split(k, 4))(keys)  # [B, 4]
        t = jax.vmap(self.draw_time)(keys[:, 0])  # [B]
        z = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys[:, 1])  # [B, H, W, C]
        drop = jax.vmap(lambda k: jax.random.bernoulli(k, self.label_dropout))(keys[:, 2])  # [B]
        y = jnp.where(drop, model.null_label, y)
        ids = model.draw_ids(keys[:, 3], self.gamma)
        v = prediction.velocity(model, flow.interpolate(x, z, t), t, y, ids)
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
