"""The dense baseline of digits_long_routing.py: it computes every token in training.

python -m sg_jax.main --config configs/digits_long_dense.py --workdir runs/digits_dense_0
"""

from digits_long_routing import get_config as routing


def get_config():
    config = routing()
    config.objective.gamma = 0.0
    return config
