"""Text to image on real pictures: OpenMoji's emoji under the names of their characters.

    pip install 'sg_jax[emoji]'
    python -m sg_jax.main --config configs/emoji_t2i.py --workdir runs/emoji
    python -m sg_jax.main --mode sample --workdir runs/emoji --prompts prompts.txt

The pictures are OpenMoji's, under CC BY-SA 4.0. Name both when you show them, or anything that a
network has learned from them.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            data=dict(name="emoji", image_size=32),
            text=dict(encoder="bytes", length=104, words=25),  # longest name: 102 bytes, 25 words
            model=dict(
                kind="text_dit",
                depth=8,
                width=128,
                heads=4,
                patch=4,
                routes=((1, 6),),
                norm="rms",
                mlp="swiglu",
                positions="rotary",
                qk_norm=True,
                bias=False,
                mlp_ratio=8 / 3,
            ),
            objective=dict(gamma=0.25, time_mean=-0.4),
            optimizer=dict(name="muon", learning_rate=4e-3, warmup=50, b2=0.99, schedule="cosine"),
            train=dict(
                steps=6000,
                batch_size=32,
                ema_decay=0.997,
                log_every=50,
                sample_every=1000,
                then=("sample",),
            ),
            checkpoint=dict(every=500, keep_period=2000),
            guidance=dict(
                cfg=dict(scale=2.0, weak_label="null"),
                sg=dict(scale=2.0, gamma_strong=0.0, gamma_weak=0.75),
                cfg_sg=dict(scale=2.0, gamma_strong=0.0, gamma_weak=0.7, weak_label="null"),
            ),
            sample=dict(guidance="cfg_sg", steps=20, batch_size=64, count=64),
            compose=dict(keep="hpsv3"),
        )
    )
