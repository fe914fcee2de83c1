"""Text to image with the routed 2.5B network, second stage: aesthetic and synthetic pairs.

    python -m sg_jax.main --config configs/t2i_2b_filtered.py --mode latents --to DATA_DIR \\
      --name filtered512 --config.data.name=wds:./coyo,./journeydb,./flux6m \\
      --config.data.aesthetics=5 --config.data.image_size=512 --config.autoencoder.path=./flux_vae
    python -m sg_jax.main --config configs/t2i_2b_filtered.py --workdir RUN2 \\
      --config.data.data_dir=DATA_DIR --config.train.init_from=RUN

It continues from the network of t2i_2b_all.py, in RUN. From COYO it takes only images with an
aesthetics score of at least 5, as in the paper. JourneyDB and FLUX-6M have no scores, so it takes
all of their images. ./journeydb@2 would use its images twice in an epoch.
"""

from ml_collections import ConfigDict
from t2i_2b_all import get_config as all_pairs


def get_config():
    config: ConfigDict = all_pairs()
    config.data.name = "filtered512"
    config.train.steps = 100_000
    return config
