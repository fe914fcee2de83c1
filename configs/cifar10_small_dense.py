"""The dense baseline of cifar10_small_routing.py: it computes every token in training.

python -m sg_jax.main --config configs/cifar10_small_dense.py --workdir runs/small_dense
"""

from cifar10_settings import for_dense
from cifar10_small_routing import get_config as routing


def get_config():
    config = routing()
    config.objective.gamma = 0.0
    config.evaluate.guidance = for_dense(config.evaluate.guidance)
    return config
