"""What a run that someone else made may reach: nothing outside its folder.

A path in a run's own config.json that leads out of the run is used only if this command names it,
by its key or by giving the run's --config again. Prepared data sets may lie anywhere, because they
are only read. A folder of the run must not be a link to one elsewhere. Nothing is sent to a tracker
that only config.json names.
"""

import os
import shlex
from collections.abc import Collection, Iterable

from ml_collections import ConfigDict

from sg_jax.config import record
from sg_jax.data import hf_source, pictures, prepare, web_shards
from sg_jax.errors import UserError
from sg_jax.runs import files

DATA, IMAGES = "data.data_dir", "evaluate.images"
NAMES = {DATA: "data.name", IMAGES: IMAGES}  # the key that names a data set, by the used key
READ = (DATA, "data.classes")
JUDGES = ("features.path", IMAGES, *(f"evaluate.{n}" for n in ("reference", "inception", "dinov2")))
TRACK = "track.name"
SENT_TO = (TRACK, "track.project", "track.entity")
FOLDERS = (  # that modes write to
    *("checkpoints", "tensorboard", "profile", "wandb"),
    *("samples", "samples/scored", "samples/composed", "control"),
)


def inside(path: str | os.PathLike, folder: str | os.PathLike) -> bool:
    """Return whether a path lies in a folder, with links, ".." and "~" followed."""
    if files.is_remote(path) or files.is_remote(folder):
        given, root = os.fspath(path), os.fspath(folder).rstrip("/")
        return given.startswith(f"{root}/") and ".." not in given.split("/")
    real, root = (os.path.realpath(files.absolute(each)) for each in (path, folder))
    return os.path.commonpath([real, root]) == root


def check(config: ConfigDict, workdir: str, used: Iterable[str], said: Collection[str]) -> None:
    """Raise if a run's own config makes a command use a path outside the run.

    Args:
      config: the run's, with the keys that the command sets.
      workdir: the run.
      used: the keys of the paths that the command uses, such as "features.path".
      said: the keys that the command line sets.
    """
    values = record.flat(config)
    for key in used:
        if key in NAMES:
            _check_name(NAMES[key], str(values.get(NAMES[key], "")), workdir, said)
        if key == TRACK:
            _check_track(values, workdir, said)
        if key in (IMAGES, TRACK):
            continue
        path = values.get(key)  # a setting without this name is reported later
        if not path or key in said or inside(path, workdir):
            continue
        why = ""
        if key == DATA:
            if prepare.is_prepared(config.data.name, path) or _is_elsewhere(config.data.name):
                continue
            why = f" The data set {config.data.name!r} is not there, so it would be written."
        raise UserError(
            f"config.{key}={path!r} is outside the run in --workdir={workdir}. It comes from the "
            f"run's {record.NAME}, which someone else may have written.{why} To allow it, add it "
            f"to the command: --config.{key}={shlex.quote(path)}"
        )


def _check_name(key: str, name: str, workdir: str, said: Collection[str]) -> None:
    """Raise if a data set that the command does not name would be downloaded."""
    if key not in said and hf_source.claims(name) and not hf_source.on_disk(name):
        raise UserError(
            f"config.{key}={name!r} is read from the hub of Hugging Face. It comes from the "
            f"{record.NAME} of the run in --workdir={workdir}, which someone else may have "
            f"written. To allow it, add it to the command: --config.{key}={shlex.quote(name)}"
        )


def _check_track(values: dict[str, object], workdir: str, said: Collection[str]) -> None:
    """Raise if records would be sent somewhere that the command does not name."""
    unsaid = [key for key in SENT_TO if values[key] and key not in said]
    if not values[TRACK] or not unsaid:
        return
    flags = " ".join(f"--config.{key}={shlex.quote(str(values[key]))}" for key in unsaid)
    raise UserError(
        f"config.{TRACK}={values[TRACK]!r} would send the numbers and pictures of this run to your "
        f"account there. This comes from the {record.NAME} of the run in --workdir={workdir}, "
        f"which someone else may have written. To allow it, add it to the command: {flags}. "
        f"--config.{TRACK}= sends nothing."
    )


def _is_elsewhere(name: str) -> bool:
    """Return whether a data set is where its name says, not in data_dir; it is only read."""
    return hf_source.claims(name) or web_shards.claims(name) or pictures.claims(name)


def check_links(workdir: str) -> None:
    """Raise if a folder that commands write to is a link to one outside the run."""
    for name in () if files.is_remote(workdir) else FOLDERS:
        folder = files.path(workdir) / name
        if os.path.islink(folder) and not inside(folder, workdir):
            raise UserError(
                f"{folder} is a link to {os.path.realpath(folder)}, outside the run, so commands "
                "would write there. Put the folder itself into the run; to keep a run on another "
                "disk, link the whole run."
            )
