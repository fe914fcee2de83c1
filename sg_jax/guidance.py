"""Guidance: two predictions of one velocity, and how they combine.

guided = omega * strong + (1 - omega) * weak          (Krause et al., arXiv 2601.01608, Eq. 3, 7, 8)

| name   | strong              | weak                                                    |
|--------|---------------------|---------------------------------------------------------|
| CFG    | v(c), gamma 0       | v(null), gamma 0                                        |
| SG     | v(c; gamma_strong)  | v(c; gamma_weak): both conditional, only sparsity differs |
| CFG+SG | v(c; gamma_strong)  | v(null; gamma_weak)                                     |

Some code counts the scale from 0 (its scale is our omega - 1); here omega = 1 turns guidance off.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sg_jax.errors import UserError, nearest
from sg_jax.models.backbone import Backbone

WEAK_LABELS = ("same", "null")


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Which two predictions are made at each step.

    Args:
      scale: omega; 1 is off, and only the strong prediction is computed.
      gamma_strong: sparsity rate of the strong prediction, in [0, 1].
      gamma_weak: sparsity rate of the weak one; 1 skips the routed blocks altogether.
      weak_label: "same" gives both predictions the label (SG); "null" gives the weak one none
        (CFG).
    """

    scale: float = 1.0
    gamma_strong: float = 0.0
    gamma_weak: float = 0.0
    weak_label: str = "same"

    def __post_init__(self):
        for name in ("gamma_strong", "gamma_weak"):
            if not 0.0 <= (value := getattr(self, name)) <= 1.0:
                raise UserError(
                    f"guidance.{name}={value} must lie in [0, 1]: 0 computes every token, 1 skips "
                    f"the routed blocks."
                )
        if not self.scale >= 0.0:
            raise UserError(f"guidance.scale={self.scale} must be at least 0 (1 is off).")
        if self.weak_label not in WEAK_LABELS:
            raise UserError(
                f"guidance.weak_label={self.weak_label!r} must be one of {WEAK_LABELS}."
                + nearest(self.weak_label, WEAK_LABELS)
            )

    @property
    def guided(self) -> bool:
        """Whether the weak prediction is needed: not at omega 1, nor where both are the same."""
        same = self.weak_label == "same" and self.gamma_strong == self.gamma_weak
        return self.scale != 1.0 and not same

    @property
    def gammas(self) -> tuple[float, ...]:
        """The sparsity rate of each prediction made at a step: one, or strong and weak."""
        return (self.gamma_strong, self.gamma_weak) if self.guided else (self.gamma_strong,)

    def static(self) -> "Guidance":
        """Return what a compile depends on: the scale itself is traced, only on or off counts."""
        if self.guided:
            return dataclasses.replace(self, scale=2.0)
        return Guidance(gamma_strong=self.gamma_strong)

    def describe(self) -> str:
        """Return a few words for tables and pictures, such as "ω 1.5, γ 0.5 / 0.9"."""
        if not self.guided:
            return f"no guidance, γ {self.gamma_strong:g}"
        null = " null" if self.weak_label == "null" else ""
        return f"ω {self.scale:g}, γ {self.gamma_strong:g} / {self.gamma_weak:g}{null}"


PRESETS = {  # beside each, what the paper measured with SiT-XL/2 + routing on ImageNet-256
    "unguided": Guidance(),  # FID 4.89, 114.42 GFLOPs per step
    "cfg": Guidance(scale=1.5, weak_label="null"),  # FID 2.57, 228.84
    "sg": Guidance(scale=1.5, gamma_weak=0.75),
    "sg_flops": Guidance(scale=1.5, gamma_strong=0.5, gamma_weak=0.9),  # FID 2.14, 97.67
    "cfg_sg": Guidance(scale=1.5, gamma_strong=0.2, gamma_weak=0.7, weak_label="null"),
}


def resolve(guidance: str | Guidance) -> Guidance:
    """Return a preset by name, or the guidance itself."""
    if isinstance(guidance, Guidance):
        return guidance
    if guidance not in PRESETS:
        raise UserError(
            f"guidance={guidance!r} must be a Guidance or a preset: {', '.join(PRESETS)}."
            + nearest(guidance, PRESETS)
        )
    return PRESETS[guidance]


def combine(strong: jax.Array, weak: jax.Array, scale: jax.Array | float) -> jax.Array:
    """Return omega * strong + (1 - omega) * weak                                      (Eq. 7)."""
    return scale * strong + (1 - scale) * weak


def guided_velocity(
    model: Backbone, guidance: Guidance, labels: jax.Array, keys: jax.Array, scale: jax.Array
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Return velocity(x [B, H, W, C], t [], n []) for the integrators.

    Both predictions are made together, so that one compiled step holds both and shares what it can.
    Token ids are fresh at every evaluation n, independent for the two predictions, and depend on
    the image's own key alone.

    Args:
      model: the network.
      guidance: which predictions; its own `scale` only decides whether there are two.
      labels: [B].
      keys: one per image [B].
      scale: omega, traced, so that another value needs no compile.
    """
    null = jnp.full_like(labels, model.null_label)
    ys = [labels, null] if guidance.guided and guidance.weak_label == "null" else [labels]
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))

    def velocity(x, t, n):
        step_keys = fold(keys, n)
        ids = [
            model.draw_ids(fold(step_keys, branch), gamma)
            for branch, gamma in enumerate(guidance.gammas)
        ]
        predictions = model.branches(x, jnp.broadcast_to(t, labels.shape), ys, ids)
        return combine(*predictions, scale) if guidance.guided else predictions[0]

    return velocity
