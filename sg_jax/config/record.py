"""config.json of a run: what was trained, and what a later command may not change."""

import json
import os
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from sg_jax.config import parsing
from sg_jax.config.tree import fixed, without_unread
from sg_jax.errors import UserError
from sg_jax.models.kinds import reads
from sg_jax.parallel import processes
from sg_jax.runs import files
from sg_jax.runs.progress import log

NAME = "config.json"


def is_run(workdir: str | os.PathLike) -> bool:
    """Return whether a folder has the config of a run."""
    return bool(workdir) and (files.path(workdir) / NAME).exists()


def read(workdir: str | os.PathLike) -> tuple[ConfigDict, tuple[str, ...]]:
    """Return the completed config of a run and the names of its classes.

    Raises:
      UserError: there is no run in `workdir`, or its config cannot be read.
    """
    path = files.path(workdir) / NAME
    if not path.parent.is_dir():
        raise UserError(f"workdir={str(workdir)!r} does not exist: train there first.")
    if not path.is_file():
        raise UserError(
            f"workdir={str(workdir)!r} has no {NAME}, so it is not a run of sg_jax: give the "
            "folder that --mode train wrote."
        )
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return without_unread(parsing.merge(saved["config"])), tuple(saved["class_names"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as a config of sg_jax: {error}") from None


def prepare(workdir: str, config: ConfigDict, class_names: Sequence[str], begun: bool) -> None:
    """Make the folder of a new run, or check that it has the same experiment.

    All processes check, so that all end with the same error, and the writer makes the folder.

    Args:
      workdir: the folder.
      config: completed.
      class_names: names of the data's classes.
      begun: whether the folder has checkpoints.
    """
    folder = files.path(workdir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--workdir={workdir} is a file: give a folder.")
    if begun and is_run(workdir):
        check_same(config, workdir, "continued")
        _tell_of_schedule(config, read(workdir)[0])
    # A bucket lists a folder made by hand as a file in itself, which does not exist.
    elif (
        folder.exists() and not is_run(workdir) and any(path.exists() for path in folder.iterdir())
    ):
        raise UserError(
            f"--workdir={workdir} is not empty and has no {NAME}, so it is not a run of sg_jax: "
            "give a new folder."
        )
    processes.barrier("workdir checked")
    if processes.is_writer():
        saved = {
            "config": json.loads(config.to_json_best_effort()),
            "class_names": tuple(class_names),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files.write_atomically(folder / NAME, json.dumps(saved, indent=1).encode())
        except OSError as error:
            raise UserError(
                f"--workdir={workdir} cannot be written ({error}): give another folder."
            ) from None
    processes.barrier("workdir made")


def _tell_of_schedule(config: ConfigDict, saved: ConfigDict) -> None:
    """Log it if another number of steps changes the learning rate of the remaining ones."""
    kind, before, now = config.optimizer.schedule, saved.train.steps, config.train.steps
    if kind != "constant" and before != now:
        log(
            f"config.train.steps={now} was {before}: from here on the learning rate ({kind}) is "
            f"that of training for {now} steps."
        )


def check_same(config: ConfigDict, workdir: str, when: str) -> None:
    """Raise if the run in `workdir` was trained with other values of keys that must not change.

    Args:
      config: completed.
      workdir: the run.
      when: "continued", "scored" or "sampled"; see `errors.setting`.
    """
    saved, _ = read(workdir)
    keys, before, now = fixed(when), flat(saved), flat(config)
    used = {f"model.{key}" for key in (*reads(config.model.kind), "kind", "size")}
    # The kind comes first, because other keys differ with it.
    for path in sorted(keys, key=lambda path: (path != "model.kind", path)):
        if path.startswith("model.") and path not in used:
            continue
        if now[path] != before[path]:
            raise UserError(
                f"config.{path}={now[path]!r} differs from the {before[path]!r} that the run in "
                f"--workdir={workdir} was trained with: set it back, or give another workdir."
            )


def flat(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Return every value by its dotted key, such as "train.steps"."""
    out = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value
    return out
