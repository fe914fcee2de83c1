"""Dense finetuning of a routed network: it computes every token.

Krause et al. (arXiv 2601.01608) compare SG with this: gamma 0 and learning rate 1e-5.

    python -m sg_jax.main --config configs/digits_finetune.py --workdir runs/digits_finetune

It starts from runs/digits (the quick start); --config.train.init_from names another run.
"""

from digits import get_config as digits


def get_config():
    config = digits()
    config.objective.gamma = 0.0
    config.optimizer.update(dict(name="adamw", learning_rate=1e-5, warmup=0))
    config.train.update(dict(steps=500, init_from="runs/digits"))
    return config
