"""EDM preconditioning and noise levels (arXiv 2206.00364) on the digits, like the published TREAD.

python -m sg_jax.main --config configs/digits_edm.py --workdir runs/digits_edm
"""

from digits import get_config as digits


def get_config():
    config = digits()
    config.model.prediction = "edm"
    config.objective.update(dict(time_mean=1.2, time_std=1.2))
    return config
