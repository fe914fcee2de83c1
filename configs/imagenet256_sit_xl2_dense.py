"""SiT-XL/2 that computes every token: the baseline of the routed one.

    python -m sg_jax.main --config configs/imagenet256_sit_xl2_dense.py --workdir RUN \\
      --config.data.data_dir=DATA_DIR

Everything else as there.
Data: as for imagenet256_sit_xl2_routing.py.
On v5e:4x4 (16 chips), by `--mode aot`: 3.8 of 15.75 GiB per chip, 86 ms a step,
MFU 67%; the compiler's estimate, without what the wires take.
The paper's dense baseline (arXiv 2601.01608) is a routed network finetuned: digits_finetune.py
shows how. This one is dense from the start.
"""

from imagenet256_sit_xl2_routing import get_config as xl2


def get_config():
    config = xl2()
    config.objective.gamma = 0.0
    return config
