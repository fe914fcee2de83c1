"""Guidance settings by name, with the paper's measurements where it has any.

For SiT-XL/2 with routing on ImageNet-256: FID, and GFLOPs per step (arXiv 2601.01608, Table 3).
There the early checkpoint is from step 50,000 of 2,000,000, as in configs/imagenet*.py. Small
networks did best with one from a third of the way through training (RESULTS.md), as here.
"""

from collections.abc import Mapping
from typing import Any

from sg_jax.errors import UserError, nearest, shown
from sg_jax.method.guidance import Guidance

PRESETS = {
    "unguided": Guidance(),  # FID 4.89, 114.42 GFLOPs per step
    "cfg": Guidance(scale=1.5, weak_label="null"),  # FID 2.57, 228.84
    "cfg_late": Guidance(scale=1.25, weak_label="null", interval=(0.5, 1.0)),  # RESULTS.md
    "icg": Guidance(scale=1.5, weak_label="random"),  # FID 2.81, 228.84
    "ag": Guidance(scale=1.5, weak_step=0.33),  # FID 2.95, 228.84
    "pdg": Guidance(scale=1.5, gamma_weak=1.0, weak_label="null"),
    "sg": Guidance(scale=2.0, gamma_weak=0.9),  # larger scales help or harm: RESULTS.md
    "sg_flops": Guidance(scale=3.0, gamma_strong=0.5, gamma_weak=0.9),  # FID 2.14, 97.67
    "sg_fid": Guidance(  # FID 1.58, 173.16
        scale=1.5,
        gamma_strong=("cosine", 0.0, 0.6),
        gamma_weak=("cosine", 0.6, 0.0),
        weak_step=0.33,
    ),
    "ag_sg": Guidance(scale=2.0, gamma_weak=0.5, weak_step=0.33),  # RESULTS.md, section 2
    "cfg_sg": Guidance(scale=1.5, gamma_strong=0.2, gamma_weak=0.7, weak_label="null"),
    "ig": Guidance(inner_scale=1.4),  # arXiv 2512.24176: 1.4 for SiT-XL/2, in an interval
    "slg": Guidance(skip=(3,), skip_scale=1.5),  # the best blocks depend on the network
    "s2": Guidance(  # arXiv 2508.12880: 0.25 on CFG; more blocks in deep networks
        scale=1.15, weak_label="null", skip=1, skip_scale=1.25, interval=(0.5, 1.0)
    ),
    "tsg": Guidance(scale=1.5, time_noise=1.0),  # arXiv 2407.02687 tunes s and alpha by network
    # For the 2.5B text-to-image network with route 2 to 30, in 50 Euler steps.
    "t2i_hps": Guidance(scale=1.8, gamma_strong=0.1, gamma_weak=0.8),  # HPSv3 9.87; CFG 9.21
    "t2i_geneval": Guidance(  # GenEval 0.62; CFG 0.61, unguided 0.48
        scale=2.5, gamma_strong=0.2, gamma_weak=0.7, weak_label="null"
    ),
}


class Named:
    """What a network carries along from its run.

    Any two are equal. So networks that differ only in this have the same structure and share one
    program, which does not depend on it.

    Args:
      settings: the run's guidance settings.
      encoder: fingerprint of the frozen text encoder that it was trained with; "" if not known.
      maker: what made the latents that it was trained on (`data.origin.Maker`); None if not known.
    """

    def __init__(
        self, settings: Mapping[str, Guidance] = PRESETS, encoder: str = "", maker: Any = None
    ):
        self.settings, self.encoder, self.maker = dict(settings), encoder, maker

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named)

    def __hash__(self) -> int:
        return hash(Named)


def resolve(guidance: str | Guidance, settings: Mapping[str, Guidance] = PRESETS) -> Guidance:
    """Return the one of `settings` with this name, or the guidance itself."""
    if isinstance(guidance, Guidance):
        return guidance
    if isinstance(guidance, str) and guidance in settings:
        return settings[guidance]
    made = " Pass sg_jax.Guidance(**guidance)." if isinstance(guidance, Mapping) else ""
    raise UserError(
        f"guidance={shown(guidance)} must be a Guidance or a preset: {', '.join(settings)}."
        + (made or nearest(guidance, settings))
    )
