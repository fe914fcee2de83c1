"""Write folders of .npy latents as a data set to train on; see data/latents.py for the files."""

import argparse
import itertools
import sys
from collections.abc import Sequence

from sg_jax.data.latents import read_npy, write
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError, run_command
from sg_jax.runs import files


def main(argv: Sequence[str]) -> None:
    """Convert folders of .npy files."""
    parser = argparse.ArgumentParser(
        prog="python -m sg_jax.data.latents",
        description="Write folders of .npy latents as a TFDS data set in ArrayRecord.",
    )
    parser.add_argument(
        "--from", dest="folders", nargs="+", required=True, metavar="DIR",
        help="folders that hold *_features/0.npy ... and *_labels/0.npy ...; several are joined",
    )  # fmt: skip
    parser.add_argument("--to", required=True, help="folder of prepared data sets")
    parser.add_argument("--name", required=True, help="of the data set: config.data.name")
    parser.add_argument(
        "--scale", type=float, required=True,
        help="factor to apply: 0.18215 to latents as Stable Diffusion's autoencoder gives them, 1 "
        "to files that are scaled already",
    )  # fmt: skip
    parser.add_argument(
        "--posterior", choices=("std", "logvar"),
        help="the files hold means, then these, along the channels: latents are drawn from them",
    )  # fmt: skip
    parser.add_argument("--classes", type=int, default=1000, help="number of classes")
    given = parser.parse_args(argv[1:])
    if files.is_remote(given.to):
        raise UserError(
            f"--to={given.to} must be a folder on disk: copy the data set to the bucket then, and "
            f"mount that where it is read."
        )
    examples = itertools.chain.from_iterable(
        read_npy(folder, given.scale, given.posterior) for folder in given.folders
    )
    print(f"Written: {write(examples, given.to, given.name, given.classes)}")
    source = open_source(given.name, "train", given.to)
    shape = "x".join(map(str, source.image_shape))
    print(f"{len(source)} latents of {shape}, {given.classes} classes. Train on them with")
    print(f"  --config.data.name={given.name} --config.data.data_dir={given.to}")


if __name__ == "__main__":
    run_command(main, sys.argv)
