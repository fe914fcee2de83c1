"""SiT-S/2 with routing on ImageNet-256 latents.

    python -m sg_jax.main --config configs/imagenet256_sit_s2_routing.py --workdir RUN \\
      --config.data.data_dir=DATA_DIR

Blocks 2 to 8 of 12 are routed at rate 0.5. Everything else, including the data, is as for XL/2 in
imagenet256_sit_xl2_routing.py.
On v5e:4x4 (16 chips) the TPU compiler estimates 0.4 of 15.75 GiB per chip, 7.2 ms a step and MFU
29%, without the time on the wires (`--mode aot`).
The paper (arXiv 2601.01608) gives no FID for this size.
"""

from imagenet256_sit_xl2_routing import get_config as xl2


def get_config():
    config = xl2()
    config.model.update(dict(size="S/2", routes=((2, 8),)))
    config.evaluate.published = ""  # the paper gives no figures for it
    return config
