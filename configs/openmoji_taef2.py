"""draft"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            data=dict(name="openmoji64", test_split="train[90%:]"),
            model=dict(depth=8, width=192, heads=6, patch=1, routes=((1, 6),)),
            objective=dict(gamma=0.5),
            optimizer=dict(learning_rate=1e-3, warmup=100, schedule="cosine", b2=0.99),
            train=dict(
                steps=2400,
                batch_size=32,
                ema_decay=0.995,
                log_every=50,
                sample_every=600,
            ),
            checkpoint=dict(every=300, keep_period=800),
            sample=dict(guidance="sg", steps=16, batch_size=55, count=110),
            features=dict(width=16, features=32, epochs=12, mirror=True),
            evaluate=dict(samples=330, columns=11),
        )
    )
