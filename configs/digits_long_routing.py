"""The digits for longer: the networks on which RESULTS.md compares methods of guidance.

    python -m sg_jax.main --config configs/digits_long_routing.py --workdir runs/digits_routing_0

The network is that of digits.py, with more steps and the paper's rate. One core runs 6 training
steps a second. `bash launch/results.sh --data digits` trains this network, the dense and the
masking one, with three seeds each, and tunes every method of guidance on them.
"""

from digits import get_config as digits


def get_config():
    config = digits()
    config.objective.gamma = 0.5  # the paper's
    config.optimizer.learning_rate = 2e-3
    config.train.update(dict(steps=3000, sample_every=0, then=(), ema_decays=(0.97,)))
    config.checkpoint.update(dict(every=500, keep_period=500))
    return config
