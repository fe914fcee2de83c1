"""The quick start: a routed DiT on scikit-learn's handwritten digits, real 8x8 images.

python -m sg_jax.main --config configs/digits.py --workdir runs/digits
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            data=dict(name="digits"),
            model=dict(depth=6, width=64, heads=4, patch=1, routes=((1, 4),)),
            objective=dict(gamma=0.25),  # keeps the weak prediction weaker than 0.5 does
            optimizer=dict(name="muon", learning_rate=3e-3, warmup=100, b2=0.99),
            train=dict(
                steps=1000,
                batch_size=64,
                ema_decay=0.997,
                log_every=50,
                sample_every=500,
                then=("sample", "evaluate"),
            ),
            checkpoint=dict(every=250, keep_period=500),  # 500 makes autoguidance's weak prediction
            guidance=dict(
                cfg=dict(scale=1.25, interval=(0.5, 1.0)),
                sg=dict(scale=1.5, gamma_strong=0.0, gamma_weak=0.9),
                sg_flops=dict(scale=3.0, gamma_strong=0.5, gamma_weak=0.9),
            ),
            sample=dict(guidance="sg", steps=20, batch_size=100, count=100),
            evaluate=dict(guidance=("unguided", "cfg", "sg", "sg_flops"), samples=500),
        )
    )
