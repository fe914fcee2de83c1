"""Make a data set of latents: of images, by an autoencoder; or of folders of .npy files.

    python -m sg_jax.main --mode latents --config configs/x.py --to DATA_DIR --name NAME \\
      --config.autoencoder.path=stabilityai/sd-vae-ft-ema

encodes the images of `config.data` on all devices, and, if killed, goes on where it stopped. With
--config.text.encoder=NAME it also stores features of their captions, by a frozen text encoder; then
config.autoencoder.path may be empty, and images are stored as they are. With --from DIR it converts
.npy files instead, and with --check it verifies a finished data set; data/latents.py and
data/latent_shards.py describe the files.
"""

import dataclasses
import shlex
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from sg_jax.config import tree
from sg_jax.config.sections import Config
from sg_jax.data import captions, identity, latent_check, latents, wording
from sg_jax.data.latent_shards import Unfinished
from sg_jax.data.npy import read_npy
from sg_jax.data.origin import Origin
from sg_jax.data.section import Data
from sg_jax.data.sources import Source, open_source
from sg_jax.encoders import tae
from sg_jax.encoders.text import BYTES
from sg_jax.errors import UserError, default_of
from sg_jax.modes import dry_latents, latent_images, latent_texts
from sg_jax.modes.base import Job, Mode, Option, register
from sg_jax.parallel import processes, sharding
from sg_jax.programs import decoding
from sg_jax.programs.encoding import Encoding, Records
from sg_jax.runs.progress import Progress, counted, log
from sg_jax.weights import decoders

PER_FILE = 4096  # examples
MOST_PER_FILE = 1_000_000
OFTEN = 5.0  # seconds between two lines of progress
APPLIED = ("image_size", "channels", "flip")  # of config.data: to images, but not to latents
PLAIN = 1 / 3, 3  # normal bounds of the standard deviation of scaled latents


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
    highest, classes = 0, given["classes"]

    def examples() -> Iterator[tuple[np.ndarray, int]]:
        nonlocal highest
        for folder in given["from"]:
            how = given["scale"], given["posterior"] or None, given["shift"]
            for array, label in read_npy(folder, *how):
                highest = max(highest, label)
                yield array, label

    folder = latents.write(examples(), given["to"], given["name"], classes)
    _tell(given)
    if highest + 1 < classes:
        log(
            f"The highest label is {highest}, so {highest + 1} classes may be enough; a network "
            f"trained on this has {classes} (--classes)."
        )
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
    if not config.autoencoder.path and config.text.encoder == BYTES:
        raise UserError(
            f"config.autoencoder.path is empty, but encoding images needs it: set it. "
            f"To encode, {decoders.REMEDY}. (With config.text.encoder, features of captions are "
            "stored beside images as they are.)"
        )
    if not 2 <= given["per_file"] <= MOST_PER_FILE or given["per_file"] % 2:
        raise UserError(
            f"--per_file={given['per_file']} must be an even number from 2 to {MOST_PER_FILE:,}."
        )
    place = latents.place(given["to"], given["name"])
    autoencoder, about, made = None, dict[str, Any](images=identity.of(source)), None
    if config.autoencoder.path:
        # Its fingerprint is that of float32, so that it is recognized in any compute type.
        plain = decoders.load(config, dtype="float32")
        latent_images.check_images(source, plain)
        autoencoder = plain if config.autoencoder.dtype == "float32" else decoders.load(config)
        about |= dict(autoencoder=plain.fingerprint(), scale=plain.scale, shift=plain.shift)
        made = latent_images.made_by(config, plain)
    else:
        latent_images.check_stored(source)
    text = latent_texts.encoder(config, source)
    mesh = sharding.local_mesh()
    drawn = given["store"] == "sample"
    encoding = Encoding(
        autoencoder=None if autoencoder is None else decoding.place(autoencoder, mesh),
        mesh=mesh,
        dtype=given["dtype"],
        chunk=config.autoencoder.chunk,
        mirror=latent_texts.mirrors(given, text is not None),
        posterior=not (
            drawn or autoencoder is None or isinstance(autoencoder.encoder, tae.Encoder)
        ),
        seed=config.seed if drawn else None,
        threads=max(1, config.data.threads),
        text=text,
    )
    if encoding.mirror and captions.of(source) is not None:
        log("Mirror images keep the captions. If these say left and right, give --mirror no.")
    about |= dict(
        computed_in=config.autoencoder.dtype,
        dtype=encoding.dtype,
        mirror=encoding.mirror,
        posterior=encoding.posterior,
        seed=encoding.seed,
        background=config.data.background,
        per_file=given["per_file"],
        captions=captions.of(source) is not None,
    )
    if text is not None:
        about["text"] = dataclasses.asdict(text.about)
    height, width, channels = source.image_shape
    shape = (height, width, channels)
    if autoencoder is not None:
        factor = autoencoder.factor
        shape = (height // factor, width // factor, autoencoder.channels)
    unfinished = Unfinished(
        place,
        about,
        shape=shape,
        dtype="uint8" if autoencoder is None else encoding.dtype,
        posterior=encoding.posterior,
        classes=latent_images.names(source),
        captions=about["captions"],
        text=None if text is None else (text.about, encoding.dtype),
        examples=len(source) * encoding.times,
        per_file=given["per_file"],
    )
    _write(unfinished, encoding, source)
    if processes.is_writer():
        found = unfinished.finish(made)
        if found is not None:
            _tell_of_channels(found)
        _tell(given, config.data)
    processes.barrier("latents written")
    return epath.Path(place)


def _tell_of_channels(found: Origin) -> None:
    """Log what the latents' channels are like, and whether that is odd."""
    listed = ", ".join(
        f"{mean:.3g} ± {std:.3g}" for mean, std in zip(found.mean, found.std, strict=True)
    )
    log(f"The channels' means and standard deviations: {listed}.")
    if not PLAIN[0] < float(np.mean(found.std)) < PLAIN[1]:
        log(
            f"Scaled latents have a standard deviation of about 1, but these have "
            f"{np.mean(found.std):.3g}: check config.autoencoder.scale before training."
        )


def _write(unfinished: Unfinished, encoding: Encoding, source: Source) -> None:
    """Write this process's files that are not there yet."""
    index, count = jax.process_index(), jax.process_count()
    with unfinished.writing(index):
        left = unfinished.left(index, count)
        images = [len(unfinished.range(k)) // encoding.times for k in left]
        share = "" if count == 1 else f" of process 0 of {count}"
        if finished := len(range(index, unfinished.count, count)) - len(left):
            log(f"Continue {unfinished.folder}: {counted(finished, 'file')}{share} already there.")
        log(
            f"Encode {sum(images):,} images{share} into {counted(len(left), 'file')}, on "
            f"{encoding.mesh.size} x {jax.local_devices()[0].device_kind}, {encoding.size} images "
            "at a time."
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


def _tell(given: Any, data: Data | None = None) -> None:
    """Log how to train on the data set; `data` is the section that its images were read with."""
    source = open_source(given["name"], "train", given["to"])
    shape = "x".join(map(str, source.image_shape))
    also, flags = ", with captions" if captions.of(source) else "", ""
    if made := wording.described(source):
        also += f" and their features ({made.length} tokens of {made.features})"
        # All of them, since the config to train with may have other ones.
        said = dict(encoder=made.encoder, length=made.length, words=0)
        said |= dict(prefix=made.prefix, cut_prefix=made.cut_prefix)
        flags = "".join(
            f" --config.text.{key}={shlex.quote(str(value))}" for key, value in said.items()
        )
    # What was done to the images is not done again, if the config to train with is the same.
    done = ("split", "classes", "aesthetics", *(APPLIED if source.latents else ()))
    for key in done if data is not None else ():
        if getattr(data, key) != (default := default_of(Data, key)):
            flags += f" --config.data.{key}={shlex.quote(str(default))}"
    what = "latents" if source.latents else "images"
    log(f"{len(source)} {what} of {shape}, {source.num_classes} classes{also}. Train on them with")
    folder = shlex.quote(given["to"])
    log(f"  --config.data.name={source.name} --config.data.data_dir={folder}{flags}")


MODE = register(
    Mode(
        "latents",
        "encode images as a data set of latents to train on, or convert folders of .npy latents",
        run,
        unless=("from", "check"),
        network=False,
        workdir=False,
        dry=dry_latents.latents,
        paths=lambda config, _: [
            "autoencoder.path",
            *(["text.encoder"] if config.text.encoder != BYTES else []),
        ],
        options=(
            Option(
                "to",
                "folder of prepared data sets: config.data.data_dir",
                required=True,
                written=True,
            ),
            Option("name", "name of the data set: config.data.name", required=True),
            Option("check", "only verify the finished data set", flag=True, default=False),
            Option(
                "mirror",
                "whether to add each image's mirror image: default yes, but no with text features",
                choices=("yes", "no"),
            ),
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
                "shift",
                "of --from: subtracted before --scale, 0.1159 from raw latents of FLUX.1",
                default=0.0,
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
