"""Text to image in ten minutes on two CPU cores: coloured shapes with true captions.

    python -m sg_jax.main --config configs/shapes_t2i.py --workdir runs/shapes
    python -m sg_jax.main --mode sample --workdir runs/shapes --prompts prompts.txt
    python -m sg_jax.main --mode compose --workdir runs/shapes
    python -m sg_jax.main --mode control --workdir runs/shapes --measure

The 20,000 images of 32x32 pixels are drawn on the first start, in 10 to 20 seconds. A step of 16
images takes 0.3 s of a core, so 3,600 take 9 minutes on two free cores, after a minute of
compiling. Steps count more than images here: batches of 16, 32 and 64 have about the same loss
after as many steps, up to 300. So do learning rates of 3e-3 and 6e-3 and, up to 200 steps,
positions by a table instead of rotary ones. With time_mean=-0.7, things come together in about half
of the images that they need with 0.

These 3,600 steps have not been measured. After 2,000, with a rate that falls to 0 there, the loss
is 0.078. Images then show a blob for most things that are asked for, in its colour, also where
shape and colour are held out, but few clear shapes. So the scores of `compose` are low yet: overall
0.03 unguided, 0.02 with CFG and 0.04 with SG and CFG+SG on seen prompts, and 0.01 on held-out ones,
with deviations of up to 0.03 over three seeds of 72 images.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            data=dict(name="shapes"),
            text=dict(encoder="bytes", length=52),  # the longest caption has 49
            model=dict(
                kind="text_dit",
                depth=6,
                width=64,
                heads=4,
                patch=4,
                routes=((1, 4),),
                norm="rms",
                mlp="swiglu",
                positions="both",
                qk_norm=True,
                bias=False,
                mlp_ratio=8 / 3,
            ),
            objective=dict(gamma=0.25, time_mean=-0.7),  # more noise: there the layout is decided
            optimizer=dict(name="muon", learning_rate=4e-3, warmup=50, b2=0.99, schedule="cosine"),
            train=dict(
                steps=6000,
                batch_size=16,
                ema_decay=0.995,
                log_every=50,
                sample_every=1500,
                then=("sample",),
            ),
            checkpoint=dict(every=500, keep_period=1500),
            guidance=dict(
                cfg=dict(scale=2.0, weak_label="null"),
                sg=dict(scale=2.0, gamma_strong=0.0, gamma_weak=0.75),
                cfg_sg=dict(scale=2.0, gamma_strong=0.0, gamma_weak=0.7, weak_label="null"),
            ),
            sampler=dict(shift=2.0),
            sample=dict(guidance="cfg_sg", steps=20, batch_size=64, count=64),
            control=dict(
                attribute="size",
                methods=("difference", "learned"),
                subjects=("circle", "square", "triangle", "star", "cross"),
                neutral=("a {}", "a red {}", "a blue {} left of a yellow cross"),
                positive=("a large {}", "a large red {}", "a large blue {} left of a yellow cross"),
                negative=("a small {}", "a small red {}", "a small blue {} left of a yellow cross"),
                prompts=(
                    "a red {circle} left of a blue square",
                    "a red circle left of a blue {square}",
                ),
            ),
            compose=dict(scales=(1.5, 2.0, 3.0, 4.0), most=8, samples=2),
        )
    )
