"""SiT-XL/2 with routing on ImageNet-256 latents: the paper's network (arXiv 2601.01608, Table 2).

From the images to latents, a trained network, pictures, scores, and weights to share:

    python -m sg_jax.main --config configs/imagenet256_sit_xl2_routing.py --mode latents \\
      --to DATA_DIR --name imagenet256_latents --config.data.name=imagenet2012 \\
      --config.data.image_size=256 --config.autoencoder.path=stabilityai/sd-vae-ft-ema
    python -m sg_jax.main --config configs/imagenet256_sit_xl2_routing.py --workdir RUN \\
      --config.data.data_dir=DATA_DIR
    python -m sg_jax.main --config configs/imagenet256_sit_xl2_routing.py --workdir RUN \\
      --config.data.data_dir=DATA_DIR --mode sample --config.sample.count=50000
    python -m sg_jax.main --config configs/imagenet256_sit_xl2_routing.py --workdir RUN \\
      --config.data.data_dir=DATA_DIR --mode evaluate \\
      --config.evaluate.reference=VIRTUAL_imagenet256_labeled.npz
    python -m sg_jax.main --workdir RUN --mode export --to RUN.safetensors --family sit

It trains on latents of 32x32x4 (sd-vae-ft-ema), with batch 256 and blocks 2 to 24 of 28 routed at
rate 0.5. `evaluate` measures FID, sFID, IS, precision and recall by ADM's protocol and
prints the paper's figures next to ours; configs/README.md says where Inception's weights come from.
The first command encodes ImageNet, from TFDS or a folder of its images; with --from DIR instead it
converts the .npy files that DiT and SiT training runs store (configs/README.md).

With --dry-run --chips 16*v5e, each command says what it would read, compute and write, and how
long that would take at an assumed 40% of the peak. It needs neither data nor weights, but export
needs --config too as long as there is no RUN:

    latents    55 min (9) for 1,281,167 images, 148 GB -> 42.5 GB
    train      1.95 days for 2,000,000 steps -> 41 checkpoints of 10.8 GB
    sample     7.3 min (5.3) for 50,000 images with SG_FLOPS -> at most 20 GB
    evaluate   73 min (61) for the 6 settings of the paper's Table 3, 50,000 images each
    export     -> 2.7 GB

Times in brackets are with --config.autoencoder.dtype=bfloat16, for encoding and decoding images.
As long as there are no latents, which name both, sample and evaluate need
--config.autoencoder.path=stabilityai/sd-vae-ft-ema and --config.evaluate.images=imagenet2012.
On v5e:4x4 (16 chips) the TPU compiler estimates 2.7 of 15.75 GiB per chip, 54 ms a step and MFU
63%, without the time on the wires (`--mode aot`).
The paper's FID after 400 epochs: 4.89 unguided, 2.57 CFG, 2.14 SG_FLOPS, 1.58 SG_FID; after 160
epochs: 2.95 CFG, 2.07 SG.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            data=dict(name="imagenet256_latents"),
            model=dict(
                size="XL/2",
                routes=((2, 24),),
                learn_sigma=True,
                image_size=32,
                channels=4,
                num_classes=1000,
                dtype="bfloat16",
                remat="selective",
            ),
            mesh=dict(data=1, fsdp=-1),
            objective=dict(gamma=0.5),
            optimizer=dict(learning_rate=1e-4),
            train=dict(steps=2_000_000, batch_size=256, ema_decay=0.9999, log_every=100),
            checkpoint=dict(every=10_000, keep=2, keep_period=50_000),
            guidance=dict(ag=dict(weak_step=50_000), sg_fid=dict(weak_step=50_000)),  # the paper's
            sample=dict(guidance="sg_flops", steps=40, batch_size=256, chunk=4096),
            evaluate=dict(
                guidance=("unguided", "cfg", "ag", "icg", "sg_flops", "sg_fid"),
                samples=50_000,
                metrics=("fid", "sfid", "is", "precision", "recall"),
                labels="uniform",
                published="table3",
            ),
        )
    )
