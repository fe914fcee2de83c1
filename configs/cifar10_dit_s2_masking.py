"""Masking (MaskDiT's encoder and decoder) on CIFAR-10, else as cifar10_dit_s2_routing.py.

    python -m sg_jax.main --config configs/cifar10_dit_s2_masking.py --workdir runs/cifar10_masking

Half the tokens encoded; decoder of 4 blocks, width 192, 3 heads: in proportion to the encoder about
what the paper's is to XL/2.
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
