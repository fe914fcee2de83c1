"""SiT-XL/2 that computes every token: the baseline of the routed one.

    python -m sg_jax.main --config configs/imagenet256_sit_xl2_dense.py --workdir RUN \\
      --config.data.data_dir=DATA_DIR

Nothing else differs. The data are those of imagenet256_sit_xl2_routing.py.
On v5e:4x4 (16 chips) the TPU compiler estimates 3.8 of 15.75 GiB per chip, 86 ms a step and MFU
67%, without the time on the wires (`--mode aot`).
The paper's dense baseline (arXiv 2601.01608) is a finetuned routed network, as in
digits_finetune.py. This one is dense from the start.
"""

from imagenet256_sit_xl2_routing import get_config as xl2


def get_config():
    config = xl2()
    config.objective.gamma = 0.0
    config.evaluate.published = ""  # the paper gives no figures for it
    return config
