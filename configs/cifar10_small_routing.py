"""A small routed DiT for two CPU cores, on CIFAR-10 at 16x16 pixels: 64 tokens, 2.4M parameters.

    python -m sg_jax.main --config configs/cifar10_small_routing.py --workdir runs/small_routing

Blocks 1 to 6 of 8 are routed at rate 0.5. Two cores run 3.6 training steps a second, so training
takes half an hour. One core draws 18 images a second in 20 unguided steps. The feature network
trains for 5 minutes and gets 70.9% of the test images right.
"""

from cifar10_dit_s2_routing import get_config as cifar10
from cifar10_settings import settings


def get_config():
    config = cifar10()
    config.data.image_size = 16
    config.model = dict(depth=8, width=128, heads=4, patch=2, routes=((1, 6),))
    config.optimizer.learning_rate = 1e-3
    config.train.update(dict(steps=6000, batch_size=64, ema_decay=0.999))
    config.checkpoint.keep_period = 1000
    scales, weak_steps = (150, 200, 300, 400), (1000, 2000, 4000)
    config.guidance = guidance = settings(scales, weak_steps, config.train.steps)
    config.sample.update(dict(steps=20, batch_size=100))
    config.features = dict(width=32, features=64, epochs=5, batch=128, mirror=True)
    config.evaluate.update(
        dict(guidance=("unguided", *guidance), samples=500, seeds=(0, 1, 2), references=5000)
    )
    config.sweep = dict(
        gamma_strong=(0.0, 0.5), gamma_weak=(0.0, 0.5, 0.75, 0.9), scale=(1.25, 1.5, 2.0, 3.0),
        samples=500,
    )  # fmt: skip
    config.diversity.samples = 500
    config.tune = dict(samples=200, report_samples=1000)
    return config
