"""Score images that others made, check the scoring against ADM's figures, and make references.

    --mode evaluate --samples FILE_OR_FOLDER --config.evaluate.reference=REFERENCE.npz
    --mode evaluate --check-adm SAMPLES.npz REFERENCE.npz
    --mode evaluate --reference-to FILE.npz --config.data.name=IMAGES --config.data.image_size=256

None of them needs a run. With --workdir, the first is continued after an interruption.
"""

import contextlib
import dataclasses
import json
import os
import tempfile
import zlib
from collections.abc import Iterator

import numpy as np
from etils import epath

from sg_jax.config import tree
from sg_jax.config.sections import Config
from sg_jax.data import identity
from sg_jax.data.sources import Source, open_source, options_of
from sg_jax.errors import UserError
from sg_jax.evaluation import (
    image_sets,
    networks,
    published,
    real,
    references,
    report,
    scored,
    scoring,
)
from sg_jax.evaluation.metrics import CLASSIFIER, Scores
from sg_jax.evaluation.reading import Reader, in_parts, spread
from sg_jax.evaluation.results import SettingResult
from sg_jax.modes.base import Job, Option
from sg_jax.runs import files, sharing
from sg_jax.runs.progress import log

ADM = ("fid", "sfid", "is", "precision", "recall")  # what its evaluator measures
OPTIONS = (
    Option("samples", "score the images of an .npz file, or of a folder or archive of pictures"),
    Option(
        "check-adm",
        "SAMPLES REFERENCE, as ADM published them: score them, and compare with its own figures",
        many=True,
    ),
    Option("reference-to", "write the statistics of config.data, for config.evaluate.reference"),
)


def run(job: Job) -> list[epath.Path]:
    """Do what the flags of a job ask for; return the paths that were written."""
    assert job.config is not None
    config, given = tree.check(job.config), job.options
    named = "data.name" in job.said
    if sum(bool(given[option.name]) for option in OPTIONS) > 1:
        names = ", ".join(f"--{option.name}" for option in OPTIONS)
        raise UserError(f"Give one of {names}, not several.")
    if not named and not (config.evaluate.reference or given["check-adm"]):
        raise UserError(
            "config.evaluate.reference is empty, and no real images are named: give an .npz file "
            "such as ADM's, or a data set with --config.data.name or --config."
        )
    if given["reference-to"]:
        return [make_reference(config, given["reference-to"])]
    if pair := given["check-adm"]:
        if len(pair) != 2:
            raise UserError(
                f"--check-adm={' '.join(pair)}: give two files, such as "
                "admnet_guided_upsampled_imagenet256.npz VIRTUAL_imagenet256_labeled.npz."
            )
        config = _with(config, metrics=ADM, reference=pair[1], network="")
        scores, count = score(config, pair[0], job.workdir, "--check-adm")
        row = SettingResult("adm", "", scores, count)
        log(published.text("adm", [row]))
        return []
    if not config.evaluate.metrics:
        config = _with(config, metrics=ADM)
    score(config, given["samples"], job.workdir, "--samples")
    return []


def _with(config: Config, **changes) -> Config:
    return dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, **changes))


def score(config: Config, path: str, workdir: str, flag: str) -> tuple[Scores, int]:
    """Score the images at a path, print the table and how it was measured.

    Args:
      config: the sections `evaluate` and, without a reference, `data` are used.
      path: an .npz file, a folder or an archive.
      workdir: the folder from which an interrupted call continues; "": none.
      flag: what the path is called in messages.

    Returns:
      The scores and the number of images.

    Raises:
      UserError: something is missing or damaged; raised before images are looked at.
    """
    kinds, _ = scoring.kinds_of(config)
    if CLASSIFIER in kinds:
        raise UserError(
            f"{flag}: frechet and accuracy need the classifier of a run, but these images belong "
            "to no run: choose config.evaluate.metrics among fid, sfid, is, fd_dinov2, precision, "
            "recall, kid and mind; the last four alone also need config.evaluate.network=inception "
            "or dinov2."
        )
    images = image_sets.open_images(path, flag)
    source = None if config.evaluate.reference else _source(config)
    with _place(workdir) as folder:
        judge = scoring.open_judge(config, source, folder, together=False)
        against = judge.compared_with(config.data.name)
        log(f"{len(images):,} images of {path}, against {against}")
        told = f"{path} {len(images)} {images.version()} {judge.digest} {judge.reference} "
        told += f"{judge.measures}"
        # Other samples may be scored in this folder at the same time.
        name = f"samples_{zlib.crc32(os.fsencode(files.absolute(path))):08x}"
        part, lock = (files.path(folder) / f"{name}.{kind}" for kind in ("part", "lock"))
        with sharing.turn(lock, f"scoring {path} in {folder}", together=False):
            tallies = judge.tallies(len(images), part, told)
            scores = judge.scores_of(references.gather(images, tallies, judge.observe, "image"))
            tallies.remove()
    name = files.path(path).name
    log(report.format_table([SettingResult(name, "", scores, len(images))]))
    log(
        f"Samples: {len(images):,} of {path}; Reference: {against}; Judged by: {judge.networks}; "
        f"Versions: {scored.versions()}."
    )
    return scores, len(images)


@contextlib.contextmanager
def _place(workdir: str) -> Iterator[str]:
    """Yield a folder for intermediate results: `workdir`, or one that is removed at the end."""
    if workdir:
        yield workdir
        return
    with tempfile.TemporaryDirectory(prefix="sg_jax_") as folder:
        yield folder


def _source(config: Config) -> Source:
    """Return the images of `config.data`."""
    data = config.data
    source = open_source(data.name, data.split, **options_of(data))
    if source.latents:
        raise UserError(
            f"config.data.name={data.name!r} contains latents: give the images that they were "
            "made from, with config.data.image_size."
        )
    return source


def make_reference(config: Config, path: str | os.PathLike) -> epath.Path:
    """Write what networks find in the images of `config.data`; an interrupted call continues.

    Args:
      config: the sections `data` and `evaluate` are used; DINOv2's statistics are in the file too
        if `config.evaluate.metrics` needs them.
      path: the .npz file.
    """
    if not os.fspath(path).lower().endswith(".npz"):
        raise UserError(f"--reference-to={path} must end in .npz.")
    source = _source(config)
    if not config.evaluate.metrics:
        config = _with(config, metrics=ADM)
    kinds = [kind for kind in scoring.kinds_of(config)[0] if kind != CLASSIFIER]
    if not kinds:
        raise UserError(
            "config.evaluate.metrics names nothing that Inception or DINOv2 measure, so a "
            "reference would be empty: add fid or fd_dinov2."
        )
    place = files.absolute(path)
    files.check_writable(place.parent)
    found_by = {kind: networks.load(kind, config, together=False) for kind in kinds}
    reader = Reader(source)
    ids = spread(config.evaluate.references or len(source), len(source))
    about = dict(
        images=len(ids),
        data=dict(name=config.data.name, split=config.data.split, **options_of(config.data)),
        identity=identity.of(source) if hasattr(source, "identify") else None,
        networks={kind: network.label for kind, network in found_by.items()},
        versions=scored.versions(),
    )
    about = json.loads(json.dumps(about, default=str))
    log(f"Reference: {' and '.join(kinds)} looks at {len(ids):,} images of {source.name}.")
    part = place.with_suffix(".part")
    found = real.all_found_in(found_by, reader, ids, part, json.dumps(about))
    chosen = ids[spread(real.KEPT, len(ids))]
    shape = (len(chosen), *source.image_shape[:2], 3)  # in colour, or ADM's evaluator fails
    parts = reader.batches(in_parts(chosen))
    images = (np.broadcast_to(each, (len(each), *shape[1:])) for each, _ in parts)
    return references.write(place, found, images, shape, about)
