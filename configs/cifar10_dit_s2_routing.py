"""DiT-S/2 with routing on CIFAR-10: 32x32x3 pixels, 256 tokens like ImageNet latents.

    python -m sg_jax.main --config configs/cifar10_dit_s2_routing.py --workdir runs/cifar10_routing

Blocks 2 to 9 of 12 are routed at rate 0.5. These are the paper's settings (arXiv 2601.01608) scaled
down, with a higher learning rate and a shorter moving average for a shorter run. A checkpoint is
kept every 5,000 steps for autoguidance. --config.data.data_dir=DIR reads the data from a folder
other than TFDS's own. `bash launch/results.sh` trains this network, the dense and the masking one,
and compares them. One H100 runs 30 training steps a second, so training takes 17 minutes. That rate
comes from a trial of 3,085 steps. RESULTS.md has no results of a whole run yet.
"""

from cifar10_settings import settings
from ml_collections import ConfigDict


def get_config():
    steps = 30_000
    guidance = settings((125, 150, 200, 300), (5_000, 10_000, 15_000, 20_000, 25_000), steps)
    return ConfigDict(
        dict(
            data=dict(name="cifar10", flip=True),
            model=dict(size="S/2", routes=((2, 9),), dtype="bfloat16"),
            objective=dict(gamma=0.5),
            optimizer=dict(learning_rate=3e-4, warmup=500),
            train=dict(steps=steps, batch_size=256, ema_decay=0.9995, log_every=100),
            checkpoint=dict(every=1000, keep=2, keep_period=5000),
            guidance=guidance,
            sample=dict(guidance="sg", steps=40, batch_size=512, count=100),
            # A residual network of 18 layers, which should get 90% of the test images right.
            features=dict(
                width=64,
                blocks=2,
                features=128,
                epochs=24,
                batch=256,
                learning_rate=2e-3,
                mirror=True,
            ),
            evaluate=dict(
                guidance=("unguided", *guidance),
                samples=5000,
                seeds=(0, 1, 2),
                references=10_000,
            ),
            sweep=dict(scale=(1.25, 1.5, 2.0, 3.0), samples=5000),
            tune=dict(samples=1000, report_samples=10_000, report_seeds=(1, 2, 3)),
            diversity=dict(guidance=("cfg_150", "sg_150", "sg_flops_150", "cfg_sg_150")),
        )
    )
