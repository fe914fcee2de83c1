"""What a dry run prints about making latents and checking data."""

import math
from typing import Any

from sg_jax.config import tree
from sg_jax.costs import autoencoders
from sg_jax.costs.machines import Machine
from sg_jax.encoders import tae
from sg_jax.encoders.text import BYTES
from sg_jax.modes import latent_texts
from sg_jax.modes.base import Job
from sg_jax.modes.dry_parts import Lines, data_of, examples_of, gflops, in_type, lasting, number
from sg_jax.programs.memory import text
from sg_jax.runs.progress import counted
from sg_jax.weights import autoencoder_shapes, decoders

RECORD = 160  # bytes of an example besides its numbers: names, lengths, a checksum
FILE = 2 * 65_536  # bytes of a file besides its examples: ArrayRecord pads blocks of half this


def latents(job: Job, on: Machine) -> Lines:
    """Yield what `--mode latents` reads, computes and writes."""
    assert job.config is not None
    config, given = tree.check(job.config), job.options
    found = data_of(job)
    yield "read", examples_of(found)
    if config.text.encoder != BYTES:
        yield "note", f"text features by {config.text.encoder} are left out"
        if not config.autoencoder.path:
            yield "note", "images are stored as they are, because config.autoencoder.path is empty"
            return
    try:
        autoencoder = autoencoder_shapes.find(config)
    except decoders.Missing as missing:
        yield "note", f"no more can be said. {missing}"
        return
    side = found.source.image_shape[0] if found.source else config.data.image_size
    if not side or side % autoencoder.factor:
        yield (
            "note",
            f"no more can be said. config.data.image_size={side} must be a multiple of "
            f"{autoencoder.factor}, the autoencoder's factor.",
        )
        return
    times = 1 + latent_texts.mirrors(given, config.text.encoder != BYTES)
    work, dtype = times * autoencoders.encoding(autoencoder, side, side), config.autoencoder.dtype
    mirrored = " with its mirror image" if times == 2 else ""
    yield (
        "compute",
        f"{gflops(work)} per image{mirrored}, {side}x{side}: encoding {in_type(dtype, on)}, by "
        f"{autoencoder.name}",
    )
    rate = on.rate(dtype, exact=True) / work
    more = f"{number(rate)} images/s, if they can be read that fast"
    if found.examples:
        yield lasting(found.examples / rate, on, more)
    else:
        yield lasting(1 / rate, on, f"an image; {more}")
    yield from _written(job, autoencoder, side, found.examples * times)


def _written(job: Job, autoencoder: Any, side: int, examples: int) -> Lines:
    """Yield what the data set of latents will contain."""
    given = job.options
    tiny = isinstance(autoencoder.encoder, tae.Encoder)
    stored = "a latent" if tiny or given["store"] == "sample" else "mean and std"
    small = side // autoencoder.factor
    shape = (small, small, autoencoder.channels)
    each = math.prod(shape) * 2 * (2 if stored == "mean and std" else 1)
    what = f"{stored} of {'x'.join(map(str, shape))} in {given['dtype']}, {each:,} bytes an example"
    if not examples:
        yield "write", f"{what}, plus at most {RECORD}"
        return
    per_file = min(examples, given["per_file"])
    files = math.ceil(examples / per_file)
    size = examples * (each + RECORD) + files * FILE
    yield (
        "write",
        f"{text(size)} at most: {counted(examples, 'example')} in {counted(files, 'file')} of "
        f"{text(per_file * (each + RECORD) + FILE)} in {given['to']}/{given['name']}: {what}, "
        f"plus at most {RECORD}",
    )


def data(job: Job, on: Machine) -> Lines:
    """Yield what `--mode data` reads."""
    splits = job.options["check"]
    for split in splits or [data_of(job).split]:
        found = data_of(job, split=split)
        yield "read", examples_of(found) if splits else f"some of {examples_of(found)}"
