"""The same routes through state-space blocks: routing does not know what a block computes.

python -m sg_jax.main --config configs/digits_ssm.py --workdir runs/digits_ssm
"""

from digits import get_config as digits


def get_config():
    config = digits()
    config.model.update(dict(kind="ssm", heads=0, state=8))
    return config
