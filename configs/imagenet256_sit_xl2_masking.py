"""SiT-XL/2 with masking (MaskDiT's encoder and decoder) on ImageNet-256 latents.

    python -m sg_jax.main --config configs/imagenet256_sit_xl2_masking.py --workdir RUN \\
      --config.data.data_dir=DATA_DIR

Half the tokens encoded; decoder of 8 blocks, width 512, 16 heads.
Data: as for imagenet256_sit_xl2_routing.py.
On v5e:4x4 (16 chips), by `--mode aot`: 2.7 of 15.75 GiB per chip, 56 ms a step,
MFU 57%; the compiler's estimate, without what the wires take.
Expected FID after 160 epochs, the paper's (arXiv 2601.01608, Table 1): 5.82 CFG, 5.73 SG.
"""

from imagenet256_sit_xl2_routing import get_config as xl2


def get_config():
    config = xl2()
    config.model.update(dict(kind="maskdit", routes=(), learn_sigma=False))
    return config
