"""Training objectives: (model, batch, key) -> loss per image [B], neither averaged nor weighted."""

import dataclasses

import jax
import jax.numpy as jnp

from sg_jax import flow
from sg_jax.errors import UserError, nearest
from sg_jax.models.backbone import Backbone


@dataclasses.dataclass(frozen=True)
class FlowMatching:
    """Flow matching on a sparse network.

    E || v(x_t, t, c; gamma) - (x - z) ||^2     (Krause et al., arXiv 2601.01608, Eq. 2 with Eq. 5)

    Args:
      gamma: sparsity rate of training, the share of tokens that bypasses the routed blocks.
      label_dropout: share of labels replaced by the null label (classifier-free guidance needs it).
      time: distribution of t, "logit_normal" or "uniform".
    """

    gamma: float = 0.5
    label_dropout: float = 0.1
    time: str = "logit_normal"

    def __post_init__(self):
        for name in ("gamma", "label_dropout"):
            if not 0.0 <= (value := getattr(self, name)) <= 1.0:
                raise UserError(f"config.objective.{name}={value} must lie in [0, 1].")
        if self.time not in flow.TIME_DISTRIBUTIONS:
            options = flow.TIME_DISTRIBUTIONS
            raise UserError(
                f"config.objective.time={self.time!r} must be one of {options}."
                + nearest(self.time, options)
            )

    def __call__(self, model: Backbone, batch: dict[str, jax.Array], key: jax.Array) -> jax.Array:
        """Return the loss of each image [B], the mean square over its pixels.

        Args:
          model: the network.
          batch: "image" [B, H, W, C] in [-1, 1] and "label" [B].
          key: image b draws its time, noise, dropout and token ids from the b-th key split off, so
            that the loss does not depend on how the batch is spread over devices.
        """
        x, y = batch["image"], batch["label"]
        keys = jax.vmap(lambda k: jax.random.split(k, 4))(jax.random.split(key, len(x)))  # [B, 4]
        t = jax.vmap(lambda k: flow.sample_time(k, (), self.time))(keys[:, 0])  # [B]
        z = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys[:, 1])  # [B, H, W, C]
        drop = jax.vmap(lambda k: jax.random.bernoulli(k, self.label_dropout))(keys[:, 2])  # [B]
        y = jnp.where(drop, model.null_label, y)
        ids = model.draw_ids(keys[:, 3], self.gamma)
        v = model(flow.interpolate(x, z, t), t, y, ids)
        return jnp.square(v - flow.velocity_target(x, z)).mean(axis=(1, 2, 3))
