"""SiT-XL/2 with routing on ImageNet-512 latents: 64x64x4, 1,024 tokens.

    python -m sg_jax.main --config configs/imagenet512_sit_xl2_routing.py --workdir RUN \\
      --config.data.data_dir=DATA_DIR

Blocks 2 to 24 of 28 are routed at rate 0.5, and the batch is 256.
The data are made as for imagenet256_sit_xl2_routing.py, with --name imagenet512_latents and
--config.data.image_size=512.
On v5e:4x4 (16 chips) the TPU compiler estimates 7.8 of 15.75 GiB per chip, 220 ms a step and MFU
65%, without the time on the wires (`--mode aot`).
The paper (arXiv 2601.01608) gives no FID for this resolution.
"""

from imagenet256_sit_xl2_routing import get_config as xl2


def get_config():
    config = xl2()
    config.data.name = "imagenet512_latents"
    config.model.image_size = 64
    config.evaluate.published = ""  # the paper gives no figures for it
    return config
