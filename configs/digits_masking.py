"""Masking (MaskDiT, arXiv 2306.09305) instead of routing: the encoder sees half of the tokens.

python -m sg_jax.main --config configs/digits_masking.py --workdir runs/digits_masking
"""

from digits import get_config as digits

MASKING = dict(kind="maskdit", routes=(), decoder_width=64, decoder_depth=2, decoder_heads=4)


def get_config():
    config = digits()
    config.objective.gamma = 0.5
    config.model.update(MASKING)
    return config
