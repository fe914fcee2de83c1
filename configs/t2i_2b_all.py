"""Text to image with the routed 2.5B network at 512 pixels, first stage: all pairs.

The paper's second result (arXiv 2601.01608): 100 million images of COYO-700M with new captions.
From WebDataset tars to latents, features of their captions, and a trained network:

    python -m sg_jax.main --config configs/t2i_2b_all.py --mode latents --to DATA_DIR \\
      --name coyo512 --config.data.name=wds:./coyo --config.data.image_size=512 \\
      --config.autoencoder.path=./flux_vae
    python -m sg_jax.main --config configs/t2i_2b_all.py --workdir RUN \\
      --config.data.data_dir=DATA_DIR
    python -m sg_jax.main --mode sample --workdir RUN --prompts prompts.txt \\
      --config.text.encoder=OpenGVLab/InternVL3-2B-hf --config.sample.guidance=t2i_hps \\
      --config.mesh.data=-1 --config.mesh.fsdp=1
    python -m sg_jax.main --mode compose --workdir RUN \\
      --config.text.encoder=OpenGVLab/InternVL3-2B-hf \\
      --config.compose.guidance=unguided,cfg,t2i_geneval \\
      --config.compose.prompts=evaluation_metadata.jsonl --config.compose.keep=geneval

t2i_2b_filtered.py is the second stage. ./flux_vae stands for an AutoencoderKL with 16 channels; the
paper does not say which one it used. With --dry-run --chips 256*v5p, each command says what it
would read, compute and write; it needs ./flux_vae and the prompts, and --config as long as there is
no RUN. For sampling, each chip holds all weights and computes four images at a time. None of this
has been run at full size; tests/benchmarks/blocks.md has what the TPU compiler says about it.
"""

from ml_collections import ConfigDict

PREFIX = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, and spatial "
    "relationships of the objects."
)


def get_config():
    return ConfigDict(
        dict(
            data=dict(name="coyo512"),
            text=dict(
                encoder="OpenGVLab/InternVL3-2B-hf", length=256, prefix=PREFIX, dtype="bfloat16"
            ),
            model=dict(
                kind="text_dit",
                size="T2I-2B/2",
                text_length=256,
                text_features=1536,
                image_size=64,
                channels=16,
                dtype="bfloat16",
                remat="selective",
            ),
            mesh=dict(data=1, fsdp=-1),
            objective=dict(gamma=0.5),
            optimizer=dict(learning_rate=5e-5, b2=0.95),
            train=dict(steps=400_000, batch_size=3072, ema_decay=0.9999, log_every=100),
            checkpoint=dict(every=5_000, keep=2, keep_period=50_000),
            guidance=dict(
                t2i_hps=dict(scale=1.8, gamma_strong=0.1, gamma_weak=0.8),
                t2i_geneval=dict(scale=2.5, gamma_strong=0.2, gamma_weak=0.7, weak_label="null"),
            ),
            sample=dict(guidance="t2i_hps", steps=50, batch_size=1024, chunk=4096),
            compose=dict(guidance=("unguided", "cfg", "t2i_hps", "t2i_geneval")),
        )
    )
