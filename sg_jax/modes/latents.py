"""Make a data set of latents: of images, by an autoencoder; or of folders of .npy files.

    python -m sg_jax.main --mode latents --config configs/x.py --to DATA_DIR --name NAME \\
      --config.autoencoder.path=stabilityai/sd-vae-ft-ema

encodes the images of `config.data` on all devices, and, if killed, goes on where it was. With
--from DIR it converts .npy files instead, and with --check it verifies a finished data set;
data/latents.py and data/latent_shards.py describe the files.
"""

import dataclasses
import itertools
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from sg_jax.config import tree
from sg_jax.config.sections import Config
from sg_jax.data import captions, identity, latent_check, latents, pictures
from sg_jax.data.latent_shards import Unfinished
from sg_jax.data.npy import read_npy
from sg_jax.data.sources import Source, open_source, options_of
from sg_jax.encoders import tae
from sg_jax.encoders.autoencoder import Autoencoder
from sg_jax.errors import UserError
from sg_jax.modes import dry_latents
from sg_jax.modes.base import Job, Mode, Option, register
from sg_jax.parallel import processes, sharding
from sg_jax.programs import decoding
from sg_jax.programs.encoding import Encoding, Records
from sg_jax.runs import files
from sg_jax.runs.progress import Progress, log
from sg_jax.weights import decoders

PER_FILE = 4096  # examples
MOST_PER_FILE = 1_000_000
OFTEN = 5.0  # seconds between two lines of progress
PLAIN = 1 / 3, 3  # between which the standard deviation of scaled latents lies


def run(job: Job) -> list[epath.Path]:
    """Convert folders, check a data set, or encode images; return the folder that was written."""
    given = job.options
    if given["check"]:
        latent_check.check(given["to"], given["name"])
        return []
    if given["from"]:
        return [_convert(given)]
    assert job.config is not None and job.source is not None
    return [encode(tree.check(job.config), job.source, given)]


def _convert(given: Any) -> epath.Path:
    """Convert the folders of --from, in their order."""
    if given["scale"] is None:
        raise UserError(
            "--scale is missing: give the factor that the files' latents are multiplied by, "
            "0.18215 for raw ones of Stable Diffusion, or 1 for scaled ones."
        )
    examples = itertools.chain.from_iterable(
        read_npy(folder, given["scale"], given["posterior"] or None) for folder in given["from"]
    )
    folder = latents.write(examples, given["to"], given["name"], given["classes"])
    _tell(given)
    return epath.Path(folder)


def encode(config: Config, source: Source, given: Any) -> epath.Path:
    """Encode all images of a source into a data set of latents.

    Args:
      config: the sections `data`, `autoencoder` and `seed` are used.
      source: the images.
      given: the values of this mode's flags, by name.

    Raises:
      UserError: there is no autoencoder, the images do not fit it, or the data set exists or was
        begun with something else; raised before anything is encoded.
    """
    if not config.autoencoder.path:
        raise UserError(
            f"config.autoencoder.path is empty, and images are to be encoded: set it. "
            f"To encode, {decoders.REMEDY}."
        )
    if not 2 <= given["per_file"] <= MOST_PER_FILE or given["per_file"] % 2:
        raise UserError(
            f"--per_file={given['per_file']} must be an even number from 2 to {MOST_PER_FILE:,}."
        )
    place = latents.place(given["to"], given["name"])
    # Its fingerprint is that of float32, so that it is known in whatever type it computes.
    plain = decoders.load(
        dataclasses.replace(
            config, autoencoder=dataclasses.replace(config.autoencoder, dtype="float32")
        )
    )
    _check_images(source, plain)
    fingerprint, scale, shift = plain.fingerprint(), plain.scale, plain.shift
    autoencoder = plain if config.autoencoder.dtype == "float32" else decoders.load(config)
    mesh = sharding.local_mesh()
    drawn = given["store"] == "sample"
    encoding = Encoding(
        autoencoder=decoding.place(autoencoder, mesh),
        mesh=mesh,
        dtype=given["dtype"],
        chunk=config.autoencoder.chunk,
        mirror=given["mirror"] == "yes",
        posterior=not drawn and not isinstance(autoencoder.encoder, tae.Encoder),
        seed=config.seed if drawn else None,
        threads=max(1, config.data.threads),
    )
    height, width, _ = source.image_shape
    factor = autoencoder.factor
    about = dict(
        images=identity.of(source),
        autoencoder=fingerprint,
        computed_in=config.autoencoder.dtype,
        scale=scale,
        shift=shift,
        dtype=encoding.dtype,
        mirror=encoding.mirror,
        posterior=encoding.posterior,
        seed=encoding.seed,
        background=config.data.background,
        per_file=given["per_file"],
        captions=captions.of(source) is not None,
    )
    unfinished = Unfinished(
        place,
        about,
        shape=(height // factor, width // factor, autoencoder.channels),
        dtype=encoding.dtype,
        posterior=encoding.posterior,
        classes=_names(source),
        captions=about["captions"],
        examples=len(source) * encoding.times,
        per_file=given["per_file"],
    )
    _write(unfinished, encoding, source)
    if processes.is_writer():
        path = config.autoencoder.path
        found = unfinished.finish(
            dict(
                autoencoder=str(files.absolute(path)) if files.path(path).exists() else path,
                fingerprint=fingerprint,
                scale=scale,
                shift=shift,
                factor=factor,
                images=_images_of(config),
            )
        )
        listed = ", ".join(
            f"{mean:.3g} ± {std:.3g}" for mean, std in zip(found.mean, found.std, strict=True)
        )
        log(f"The channels' means and standard deviations: {listed}.")
        if not PLAIN[0] < float(np.mean(found.std)) < PLAIN[1]:
            log(
                f"Scaled latents have a standard deviation of about 1, but these have "
                f"{np.mean(found.std):.3g}: check config.autoencoder.scale before training."
            )
        _tell(given)
    processes.barrier("latents written")
    return epath.Path(place)


def _check_images(source: Source, autoencoder: Autoencoder) -> None:
    """Raise unless an autoencoder encodes the images of a source."""
    height, width, channels = source.image_shape
    name = f"config.data.name={source.name!r}"
    if source.latents:
        raise UserError(f"{name} contains latents already, and images are to be encoded.")
    if autoencoder.encoder is None:
        raise UserError(f"{autoencoder.name} has only the decoder: load the encoder too.")
    if channels not in (1, 3):
        raise UserError(f"{name} has images of {channels} channels, which must be 1 or 3.")
    if height != width or height % autoencoder.factor:
        raise UserError(
            f"config.data.image_size: the images of {name} are {height}x{width}, but they must be "
            f"square, with a side that is a multiple of {autoencoder.factor}, the autoencoder's "
            "factor. Set config.data.image_size, such as 256."
        )


def _write(unfinished: Unfinished, encoding: Encoding, source: Source) -> None:
    """Write this process's files that are not there yet."""
    index, count = jax.process_index(), jax.process_count()
    with unfinished.writing(index):
        left = unfinished.left(index, count)
        images = [len(unfinished.range(k)) // encoding.times for k in left]
        share = "" if count == 1 else f" of process 0 of {count}"
        if finished := len(range(index, unfinished.count, count)) - len(left):
            log(f"Continue {unfinished.folder}: {finished} files{share} are there already.")
        log(
            f"Encode {sum(images):,} images{share} into {len(left)} files, on {encoding.mesh.size} "
            f"x {jax.local_devices()[0].device_kind}, {encoding.size} images at once."
        )
        progress, done = Progress(0, sum(images), 1, unit="image"), 0
        for k in left:
            examples = unfinished.range(k)

            def told(examples: range = examples, before: int = done) -> Records:
                for n, record in enumerate(encoding.records(source, examples)):
                    if time.perf_counter() - progress.time > OFTEN:
                        progress.update(before + n // encoding.times)
                    yield record

            unfinished.write(k, told())
            done += len(examples) // encoding.times
        progress.update(done)
        processes.barrier("latents encoded")


def _names(source: Source) -> Any:
    """Return the names of the classes, or their number if they cannot be stored."""
    names = source.class_names
    if len(set(names)) < len(names) or any(not n.strip() or len(n.splitlines()) > 1 for n in names):
        log("The names of the classes are not stored: some are equal, or empty, or have two lines.")
        return len(names)
    return names


def _images_of(config: Config) -> dict[str, Any]:
    """Return how the images are opened again, from any folder."""
    data = config.data
    found = dict(name=data.name, split=data.split, **options_of(data))
    for key in ("name", "data_dir", "classes"):
        if found[key] and (key != "name" or pictures.claims(data.name)):
            found[key] = str(files.absolute(found[key]))
    return found


def _tell(given: Any) -> None:
    """Say how to train on the data set."""
    source = open_source(given["name"], "train", given["to"])
    shape = "x".join(map(str, source.image_shape))
    also = ", with captions" if captions.of(source) else ""
    log(f"{len(source)} latents of {shape}, {source.num_classes} classes{also}. Train on them with")
    log(f"  --config.data.name={source.name} --config.data.data_dir={given['to']}")


MODE = register(
    Mode(
        "latents",
        "encode images as a data set of latents to train on, or convert folders of .npy latents",
        run,
        unless=("from", "check"),
        network=False,
        workdir=False,
        dry=dry_latents.latents,
        paths=lambda *_: ["autoencoder.path"],
        options=(
            Option(
                "to",
                "folder of prepared data sets: config.data.data_dir",
                required=True,
                written=True,
            ),
            Option("name", "name of the data set: config.data.name", required=True),
            Option("check", "only verify the finished data set", flag=True, default=False),
            Option("mirror", "whether each image's mirror image follows", "yes", ("yes", "no")),
            Option(
                "store", "mean and std, or one latent drawn", "posterior", ("posterior", "sample")
            ),
            Option("dtype", "of what is stored", "float16", ("float16", "bfloat16")),
            Option("per_file", "examples of a file", default=PER_FILE, type=int),
            Option(
                "from",
                "convert folders of *_features/0.npy, *_labels/0.npy, ...; several are joined",
                many=True,
            ),
            Option(
                "scale",
                "of --from: factor to apply, 0.18215 to raw latents of Stable Diffusion, or 1",
                default=None,
                type=float,
            ),
            Option(
                "posterior",
                "of --from: std or logvar: files contain means, then these; none: only latents",
                choices=("std", "logvar", "none"),
            ),
            Option("classes", "of --from: number of classes", default=1000, type=int),
        ),
    )
)
