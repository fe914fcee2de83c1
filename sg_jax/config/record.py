"""config.json of a run: what was trained, and what a later command may not change."""

import json
import os
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from sg_jax.config import parsing, tree
from sg_jax.config.tree import fixed, without_unread
from sg_jax.data import hf_source, identity, origin, pictures, web_shards
from sg_jax.errors import UserError, one_line
from sg_jax.method.guidance import Guidance
from sg_jax.models.kinds import reads
from sg_jax.parallel import processes
from sg_jax.runs import files, lock
from sg_jax.runs.progress import log

NAME = "config.json"
DATA = "data"  # its entry about what the data is
ENCODER = "text_fingerprint"  # therein: that of the frozen text encoder
UNNAMED = ""  # the data set of a run whose weights were imported without naming one


def is_run(workdir: str | os.PathLike) -> bool:
    """Return whether a folder has the config of a run."""
    return bool(workdir) and (files.path(workdir) / NAME).exists()


def read(workdir: str | os.PathLike) -> tuple[ConfigDict, tuple[str, ...]]:
    """Return the completed config of a run and the names of its classes.

    Raises:
      UserError: there is no run in `workdir`, or its config cannot be read.
    """
    return _read(workdir)[:2]


def settings(workdir: str | os.PathLike) -> dict[str, Guidance]:
    """Return the guidance settings of a run by name, as its config has them.

    Raises:
      UserError: there is no run in `workdir`, or its config cannot be read.
    """
    return tree.settings(read(workdir)[0])


def _read(
    workdir: str | os.PathLike,
) -> tuple[ConfigDict, tuple[str, ...], identity.Identity, bool]:
    """Return a run's config, its class names, what its data is, and whether it is exported."""
    path = files.path(workdir) / NAME
    if path.parent.is_file():
        raise UserError(
            f"workdir={str(workdir)!r} is a file: give the folder of a run. (sg_jax.load reads "
            "exported files, and their networks keep the run's guidance settings.)"
        )
    if not path.parent.is_dir():
        raise UserError(f"workdir={str(workdir)!r} does not exist: train there first.")
    if not path.is_file():
        raise UserError(
            f"workdir={str(workdir)!r} has no {NAME}, so it is not a run of sg_jax: give the "
            "folder that --mode train wrote."
        )
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        config = without_unread(parsing.merge(saved["config"]))
        return config, tuple(saved["class_names"]), dict(saved.get(DATA, {})), "exported" in saved
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as a config of sg_jax ({one_line(error)}): give another folder."
        ) from None


def prepare(
    workdir: str,
    config: ConfigDict,
    class_names: Sequence[str],
    begun: bool,
    data: identity.Identity | None = None,
) -> None:
    """Make the folder of a new run, or check that it has the same experiment.

    All processes check, so that all end with the same error, and the writer makes the folder.

    Args:
      workdir: the folder.
      config: completed.
      class_names: names of the data's classes.
      begun: whether the folder has checkpoints.
      data: what the training data is, by `data.identity.of`. An older run, which does not say
        what its data was, takes this value.
    """
    folder = files.path(workdir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--workdir={workdir} is a file: give a folder.")
    known: identity.Identity = {}
    if is_run(workdir):
        saved, _, found, _ = _read(workdir)  # which refuses the config of another program
        if begun:
            known = found
            check_same(config, workdir, "continued")
            check_data(workdir, config, class_names, data)
            _tell_of_changes(config, saved)
    elif {p.name for p in files.children(folder)} - {lock.NAME}:
        raise UserError(
            f"--workdir={workdir} is not empty and has no {NAME}, so it is not a run of sg_jax: "
            "give a new folder."
        )
    processes.barrier("workdir checked")
    if processes.is_writer():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write(folder, config, class_names, {**known, **(data or {})})
        except OSError as error:
            raise UserError(
                f"--workdir={workdir} cannot be written ({error}): give another folder."
            ) from None
    processes.barrier("workdir made")
    if not processes.is_writer():  # this host may have another copy of the data
        check_data(workdir, config, class_names, data)


def write(
    folder: str | os.PathLike,
    config: ConfigDict,
    class_names: Sequence[str],
    data: identity.Identity,
    **about: Any,
) -> None:
    """Write config.json of a run.

    Args:
      folder: of the run.
      config: completed.
      class_names: names of the data's classes; empty if they are not known.
      data: what the training data is; {} if it is not known.
      about: further entries, which JSON can hold.
    """
    saved = {
        "config": json.loads(config.to_json_best_effort()),
        "class_names": tuple(class_names),
        DATA: dict(data),
        **about,
    }
    files.write_atomically(files.path(folder) / NAME, json.dumps(saved, indent=1).encode())


def data_of(workdir: str | os.PathLike) -> identity.Identity:
    """Return what the data of a run is, as far as its config.json says."""
    return _read(workdir)[2]


def encoder_of(workdir: str | os.PathLike) -> str:
    """Return the fingerprint of the frozen text encoder of a run; "" if none is on record."""
    return str(data_of(workdir).get(ENCODER, ""))


def maker_of(workdir: str | os.PathLike) -> origin.Maker | None:
    """Return the autoencoder that made the latents of a run; None if none is on record.

    Raises:
      UserError: the record of it is damaged.
    """
    found = data_of(workdir).get(origin.ENTRY)
    return None if found is None else origin.from_record(found, files.path(workdir) / NAME)


def is_exported(workdir: str | os.PathLike) -> bool:
    """Return whether a run has only what --mode export keeps, and so cannot be continued."""
    return is_run(workdir) and _read(workdir)[3]


def is_path(name: str) -> bool:
    """Return whether a text says where something is, and is not a data set's name or hub id."""
    on_disk = web_shards.claims(name) or hf_source.on_disk(name)
    return on_disk or pictures.claims(name.removeprefix(hf_source.PREFIX))


def _is_moved(before: str, now: str) -> bool:
    """Return whether two names of data sets are paths; the first one may no longer exist."""
    return is_path(now) and (is_path(before) or "/" in before or hf_source.claims(before))


def check_data(
    workdir: str,
    config: ConfigDict,
    class_names: Sequence[str],
    data: identity.Identity | None,
) -> None:
    """Raise if the data is not what the run in `workdir` was trained with.

    Another split is another part of the same data set, so only the classes are compared then.

    Args:
      workdir: the run.
      config: completed.
      class_names: names of the data's classes.
      data: what the data is, by `data.identity.of`.
    """
    saved, names, known, _ = _read(workdir)
    differs = ""
    if names and tuple(class_names) != names:
        differs = f"{len(class_names)} classes instead of {len(names)}"
        for i, (name, before) in enumerate(zip(class_names, names, strict=False)):
            if name != before:
                differs = f"class {i} is {name!r} instead of {before!r}"
                break
    elif data and saved.data.split == config.data.split:
        differs = identity.differences(known, data)
    if differs:
        name = config.data.name
        key = "name" if is_path(name) or hf_source.claims(name) else "data_dir"
        place = "" if key == "name" else f" in config.data.data_dir={config.data.data_dir!r}"
        named = names and tuple(class_names) != names and pictures.claims(name)
        also = ", config.data.classes to the file of its classes, if it had one" if named else ""
        raise UserError(
            f"config.data.name={name!r}{place} is not the data that the run was trained with, "
            f"according to {files.path(workdir) / NAME}: {differs}. Set config.data.{key} to that "
            f"data{also}, or give another --workdir."
        )


def _tell_of_changes(config: ConfigDict, saved: ConfigDict) -> None:
    """Log what changes about the remaining steps: other rates, or another number of steps."""
    for key in ("learning_rate", "weight_decay"):
        rate, old = config.optimizer[key], saved.optimizer[key]
        if rate != old:
            times = f", {rate / old:.3g} times that" if old else ""
            log(f"config.optimizer.{key} was {old:g}; from here on it is {rate:g}{times}.")
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
    if when == "continued" and (taught := saved.objective.distill):
        # The setting that makes the target of training.
        keys |= {path for path in before if path.startswith(f"guidance.{taught}.")} & now.keys()
    used = {f"model.{key}" for key in (*reads(config.model.kind), "kind", "size")}
    # The kind comes first, because other keys differ with it.
    for path in sorted(keys, key=lambda path: (path != "model.kind", path)):
        if path.startswith("model.") and path not in used:
            continue
        if path == "data.name" and (before[path] == UNNAMED or _is_moved(before[path], now[path])):
            continue  # `check_data` compares the images
        if now[path] != before[path]:
            raise UserError(
                f"config.{path}={now[path]!r} differs from the {before[path]!r} that the run was "
                f"trained with, according to {files.path(workdir) / NAME}: set it back, or give "
                "another --workdir."
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
