"""The dense baseline of cifar10_dit_s2_routing.py: it computes every token in training.

    python -m sg_jax.main --config configs/cifar10_dit_s2_dense.py --workdir runs/cifar10_dense

Everything else is the same. It is scored with SG and with the settings that suit
a dense network.
"""

from cifar10_dit_s2_routing import get_config as routing
from cifar10_settings import for_dense


def get_config():
    config = routing()
    config.objective.gamma = 0.0
    config.evaluate.guidance = for_dense(config.evaluate.guidance)
    return config
