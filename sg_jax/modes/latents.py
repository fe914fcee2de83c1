"""Write folders of .npy latents as a data set to train on; data/latents.py describes the files."""

import itertools

from etils import epath

from sg_jax.data.latents import write
from sg_jax.data.npy import read_npy
from sg_jax.data.sources import open_source
from sg_jax.modes.base import Job, Mode, Option, register
from sg_jax.runs.progress import log


def run(job: Job) -> list[epath.Path]:
    """Convert the folders of --from, in their order; return the folder of the data set."""
    given = job.options
    examples = itertools.chain.from_iterable(
        read_npy(folder, given["scale"], given["posterior"] or None) for folder in given["from"]
    )
    folder = write(examples, given["to"], given["name"], given["classes"])
    source = open_source(given["name"], "train", given["to"])
    shape = "x".join(map(str, source.image_shape))
    log(f"{len(source)} latents of {shape}, {source.num_classes} classes. Train on them with")
    log(f"  --config.data.name={source.name} --config.data.data_dir={given['to']}")
    return [epath.Path(folder)]


MODE = register(
    Mode(
        "latents",
        "write folders of .npy latents as a data set to train on",
        run,
        config=False,
        workdir=False,
        options=(
            Option(
                "from",
                "folders of *_features/0.npy, *_labels/0.npy, ...; several are joined",
                many=True,
                required=True,
            ),
            Option(
                "to",
                "folder of prepared data sets: config.data.data_dir",
                required=True,
                written=True,
            ),
            Option("name", "name of the data set: config.data.name", required=True),
            Option(
                "scale",
                "factor to apply: 0.18215 to raw latents of Stable Diffusion, or 1",
                type=float,
                required=True,
            ),
            Option(
                "posterior",
                "std or logvar: files contain means, then these; latents are drawn from both",
                choices=("std", "logvar"),
            ),
            Option("classes", "number of classes", default=1000, type=int),
        ),
    )
)
