"""Masking (MaskDiT, arXiv 2306.09305) instead of routing in digits_long_routing.py.

python -m sg_jax.main --config configs/digits_long_masking.py --workdir runs/digits_masking_0
"""

from digits_long_routing import get_config as routing
from digits_masking import MASKING


def get_config():
    config = routing()
    config.model.update(MASKING)
    return config
