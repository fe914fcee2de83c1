"""Masking (MaskDiT's encoder and decoder) on CIFAR-10, instead of routing.

    python -m sg_jax.main --config configs/cifar10_dit_s2_masking.py --workdir runs/cifar10_masking

The encoder sees half of the tokens. The decoder has 4 blocks, width 192 and 3 heads: its
size relative to the encoder is about that of the paper's decoder relative to XL/2. Everything else
is as in cifar10_dit_s2_routing.py.
"""

from cifar10_dit_s2_routing import get_config as routing
from cifar10_settings import for_masking


def get_config():
    config = routing()
    config.model.update(
        dict(kind="maskdit", routes=(), decoder_width=192, decoder_depth=4, decoder_heads=3)
    )
    config.evaluate.guidance = for_masking(config.evaluate.guidance)
    return config
