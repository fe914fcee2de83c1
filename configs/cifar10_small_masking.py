"""Masking (MaskDiT's encoder and decoder) instead of routing in cifar10_small_routing.py.

    python -m sg_jax.main --config configs/cifar10_small_masking.py --workdir runs/small_masking

The encoder has six blocks and the decoder two, all of the same width.
"""

from cifar10_settings import for_masking
from cifar10_small_routing import get_config as routing


def get_config():
    config = routing()
    config.model = dict(
        kind="maskdit", depth=6, width=128, heads=4, patch=2,
        decoder_width=128, decoder_depth=2, decoder_heads=4,
    )  # fmt: skip
    config.evaluate.guidance = for_masking(config.evaluate.guidance)
    return config
