"""Dense finetune of a routed network: every token is computed.

Krause et al. (arXiv 2601.01608) finetune at gamma 0 and learning rate 1e-5 as a baseline to SG.

    python -m sg_jax.main --config configs/digits_finetune.py --workdir runs/digits_finetune

Needs runs/digits (the quick start), or another run as --config.train.init_from.
"""

from digits import get_config as digits


def get_config():
    config = digits()
    config.objective.gamma = 0.0
    config.optimizer.update(dict(learning_rate=1e-5, warmup=0))
    config.train.update(dict(steps=500, init_from="runs/digits"))
    return config
