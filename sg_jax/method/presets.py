"""Guidance settings by name, each with what the paper measured.

For SiT-XL/2 with routing on ImageNet-256: FID, and GFLOPs per step (arXiv 2601.01608, Table 3).
"""

from sg_jax.errors import UserError, nearest
from sg_jax.method.guidance import Guidance

PRESETS = {
    "unguided": Guidance(),  # FID 4.89, 114.42 GFLOPs per step
    "cfg": Guidance(scale=1.5, weak_label="null"),  # FID 2.57, 228.84
    "icg": Guidance(scale=1.5, weak_label="random"),  # FID 2.81, 228.84
    "ag": Guidance(scale=1.5, weak_step=50_000),  # FID 2.95, 228.84
    "pdg": Guidance(scale=1.5, gamma_weak=1.0, weak_label="null"),
    "sg": Guidance(scale=2.0, gamma_weak=0.75),  # the scale from RESULTS.md
    "sg_flops": Guidance(scale=3.0, gamma_strong=0.5, gamma_weak=0.9),  # FID 2.14, 97.67
    "sg_fid": Guidance(  # FID 1.58, 173.16
        scale=1.5,
        gamma_strong=("cosine", 0.0, 0.6),
        gamma_weak=("cosine", 0.6, 0.0),
        weak_step=50_000,
    ),
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
