"""SiT-XL/2 with masking (MaskDiT's encoder and decoder) on ImageNet-256 latents.

    python -m sg_jax.main --config configs/imagenet256_sit_xl2_masking.py --workdir RUN \\
      --config.data.data_dir=DATA_DIR

The encoder sees half of the tokens. The decoder has 8 blocks, width 512 and 16 heads.
The data are those of imagenet256_sit_xl2_routing.py.
On v5e:4x4 (16 chips) the TPU compiler estimates 2.7 of 15.75 GiB per chip, 56 ms a step and MFU
57%, without the time on the wires (`--mode aot`).
The paper's FID after 160 epochs (arXiv 2601.01608, Table 1): 5.82 with CFG, 5.73 with SG.
"""

from imagenet256_sit_xl2_routing import get_config as xl2


def get_config():
    config = xl2()
    config.model.update(dict(kind="maskdit", routes=(), learn_sigma=False))
    config.evaluate.published = ""  # the paper gives no figures for it
    return config
