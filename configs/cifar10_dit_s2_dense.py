"""The network of cifar10_dit_s2_routing.py computing every token in training: its baseline.

    python -m sg_jax.main --config configs/cifar10_dit_s2_dense.py --workdir runs/cifar10_dense

Everything else as there. Of the guidance settings, those that a dense network is known for, and SG.
"""

from cifar10_dit_s2_routing import get_config as routing
from cifar10_settings import for_dense


def get_config():
    config = routing()
    config.objective.gamma = 0.0
    config.evaluate.guidance = for_dense(config.evaluate.guidance)
    return config
