"""Whether a finished data set of latents is intact: its files, their sums, and every example."""

import pathlib
from typing import Any

from sg_jax.data import latent_shards, prepare, skipping, wording
from sg_jax.data.origin import NAME as ORIGIN
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError, nearest
from sg_jax.runs import files
from sg_jax.runs.progress import Progress, log

REMEDY = "copy the data set again, or make it again."


def check(data_dir: str, name: str) -> None:
    """Read a whole data set of latents.

    Raises:
      UserError: it is not finished, or a file or an example is damaged; the first one is named.
    """
    unfinished = pathlib.Path(data_dir).expanduser() / f"{name}.unfinished"
    if unfinished.exists():
        raise UserError(
            f"{unfinished} is not finished: repeat the command that began it to continue it."
        )
    if not prepare.is_prepared(name, data_dir):
        known = [path.name for path in files.children(files.path(data_dir)) if path.is_dir()]
        raise UserError(
            f"--name={name}: --to={data_dir} has no such data set; it has "
            f"{', '.join(sorted(known)) or 'none'}." + nearest(name, known)
        )
    source: Any = open_source(name, latent_shards.SPLIT, data_dir, damaged="stop", tried=False)
    if not source.latents and source.described is None:
        raise UserError(f"--name={name}: {data_dir} has a data set of images with that name.")
    folder = pathlib.Path(source.files[0]).parent
    origin = source.origin
    if origin is None:
        log("The data set has no checksums of its files: only its examples are checked.")
    else:
        there = {path.name for path in folder.iterdir() if ".array_record-" in path.name}
        if odd := sorted(there ^ set(origin.shards)):
            what = "missing" if odd[0] not in there else "not part of this data set"
            raise UserError(
                f"{folder / odd[0]} is {what}, according to {ORIGIN} there, as are "
                f"{len(odd) - 1} others: {REMEDY}"
            )
        progress = Progress(0, len(origin.shards), 1, unit="file")
        for done, (file, known) in enumerate(origin.shards.items()):
            progress.sometimes(done)
            if latent_shards.sha256(folder / file) != known.get("sha256"):
                raise UserError(f"{folder / file} is not as it was written: {REMEDY}")
    read = source if source.described is None else wording.Worded(source, features=True)
    if damaged := skipping.find(read, log):
        i, why, _ = damaged[0]
        raise UserError(f"{len(damaged)} examples are damaged; the first is {i}: {why}")
    log(
        f"All {len(source):,} {'latents' if source.latents else 'images'} of {folder} can be read"
        + (", and the files are as written." if origin else ".")
    )
