"""Checkpoints of a run, by Orbax: where they are, how their arrays are named, loading weights.

    workdir/checkpoints/STEP/  step, weights, moving average, optimizer state, data position

`config.record` stores the config next to them, and `weights.saver` writes them.

Arrays are stored under readable names ("model/blocks/stacks/0/mlp/hidden/kernel"), so that a
checkpoint does not depend on how a library orders its trees, and each part can be loaded on its
own.
"""

import contextlib
import glob
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from etils import epath
from etils.epath import gpath
from jax.sharding import Mesh
from orbax.checkpoint import utils as orbax_utils
from orbax.checkpoint import v1 as ocp

from sg_jax.config import geometry, record
from sg_jax.errors import UserError, is_whole, nearest, plain, shown
from sg_jax.method.presets import Named
from sg_jax.models.backbone import Backbone
from sg_jax.parallel import processes, sharding
from sg_jax.programs import memory
from sg_jax.runs import files
from sg_jax.runs.progress import log
from sg_jax.weights import best, integrity

NUMBER = re.compile("[0-9]+")
STORED_AS = ("label_embedding/table", "label_embedding")  # in code, and in all checkpoints so far


class _Local(gpath.PosixGPath):
    """A folder whose own name may contain brackets or stars; epath takes them for a pattern."""

    def glob(self, pattern: str) -> Iterator["_Local"]:
        for found in glob.glob(pattern, root_dir=self):
            yield self / found


def checkpoint_dir(workdir: str | os.PathLike) -> epath.Path:
    """Return where a run's checkpoints are."""
    folder = files.absolute(workdir) / "checkpoints"
    return folder if files.is_remote(folder) else _Local(folder)


def saved_steps(workdir: str | os.PathLike) -> list[int]:
    """Return the steps of a run's checkpoints, ascending; raise a UserError if there are none."""
    if not (steps := steps_of(workdir)):
        record.read(workdir)  # raises if it is no run
        raise UserError(f"workdir={str(workdir)!r} has no checkpoint yet: train longer.")
    return steps


def chosen_step(step: int, workdir: str | os.PathLike, key: str = "config.evaluate.step") -> int:
    """Return the step of a run's checkpoint: `step`, the best for -1, the latest for 0.

    `key` is the one that says which; messages name it.

    Raises:
      UserError: there is no such checkpoint.
    """
    steps = saved_steps(workdir)
    found = best.best_step(workdir) if step == best.BEST else step or steps[-1]
    if found not in steps:
        raise UserError(f"{key}={step} is not a checkpoint of {workdir}: {steps}.")
    return found


def steps_of(workdir: str | os.PathLike) -> list[int]:
    """Return the steps of a run's checkpoints, ascending; an empty list without a run."""
    found = [p for p in files.children(checkpoint_dir(workdir)) if NUMBER.fullmatch(p.name)]
    if files.is_remote(workdir):  # in a bucket a checkpoint has its name before it is complete
        found = [path for path in found if orbax_utils.is_checkpoint_finalized(path)]
    return sorted(int(path.name) for path in found)


def set_aside(workdir: str | os.PathLike, latest: int, why: str) -> None:
    """Rename the checkpoints after step `latest` to STEP.WHY; all processes call this."""
    folder = checkpoint_dir(workdir)
    for step in steps_of(workdir) if processes.is_writer() else ():
        if step > latest:
            names = [f"{step}.{why}", *(f"{step}.{why}.{i}" for i in range(1, 1000))]
            aside = next(p for name in names if not (p := folder / name).exists())
            (folder / str(step)).rename(aside)
            log(f"Checkpoint {step} is now {aside.name}. The run continues from the one before it.")
    processes.barrier("checkpoints set aside")


def load(
    workdir: str | os.PathLike,
    step: int | str | None = None,
    weights: str = "ema",
    mesh: Mesh | None = None,
    like: Backbone | None = None,
) -> Backbone:
    """Load a trained network, ready for `sg_jax.sample`.

    It brings the run's guidance settings: `sample(model, labels, "sg")` takes the run's own "sg".

    Args:
      workdir: the folder that training wrote.
      step: which checkpoint to load, or "best" for the one that config.checkpoint.keep_best kept;
        the latest by default.
      weights: "ema" (the moving average), "model" (the raw weights), or one of the averages of
        config.train.ema_decays, such as "ema_0.999".
      mesh: devices of all processes to spread the weights over; one of this process by default.
      like: a network with the same weights but other settings; by default the trained one.

    Returns:
      The network.

    Raises:
      UserError: there is no run or no such checkpoint in `workdir`.
    """
    return load_with_step(workdir, step, weights, mesh, like)[0]


def load_with_step(
    workdir: str | os.PathLike,
    step: int | str | None = None,
    weights: str = "ema",
    mesh: Mesh | None = None,
    like: Backbone | None = None,
) -> tuple[Backbone, int]:
    """Return what `load` returns, and its step: an earlier one if the latest is damaged."""
    config, _ = record.read(workdir)
    sharding.check(mesh)
    if like is not None and not isinstance(like, Backbone):
        raise UserError(f"like={shown(like)} must be a network, or None.")
    model = like or abstract_network(workdir)
    kept = ("ema", "model", *(f"ema_{decay:g}" for decay in config.train.ema_decays))
    if record.is_exported(workdir) and weights in kept[1:]:
        raise UserError(
            f"weights={shown(weights)} cannot be loaded from {str(workdir)!r}, which was exported "
            "with one set of weights: load that with weights='ema', or give the run itself."
        )
    if weights not in kept:
        raise UserError(f"weights={shown(weights)} must be one of {kept}." + nearest(weights, kept))
    folder, steps, asked = checkpoint_dir(workdir), saved_steps(workdir), step
    step = best.best_step(workdir) if step == "best" else plain(step)
    if step is not None and not (is_whole(step) and step in steps):
        raise UserError(
            f"step={shown(step)} is not a checkpoint in {str(workdir)!r}: there are {steps}."
        )
    mesh = mesh or sharding.one_device()
    abstract = sharding.place(model, mesh)
    wanted = {weights: named(abstract)}
    tried = [int(step)] if step is not None else steps[::-1]
    for number in tried:
        try:
            loaded = read(folder / str(number), wanted, mesh)
        except UserError as error:
            if steps_of(workdir)[-1:] > steps[-1:]:  # the run trains on, and may have removed it
                return load_with_step(workdir, asked, weights, mesh, like)
            if not isinstance(error, integrity.Damaged) or number == tried[-1]:
                raise
            log(f"{error} Load the checkpoint before it.")
        else:
            network = unnamed(loaded[weights], abstract)
            network.named = Named(
                record.settings(workdir), record.encoder_of(workdir), record.maker_of(workdir)
            )
            return network, number
    raise AssertionError("there is a checkpoint")


def read(folder: epath.Path, wanted: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Return parts of a checkpoint, after verifying their files.

    Args:
      folder: of the checkpoint.
      wanted: for each part its arrays by name, with shapes and shardings; None for a part of
        numbers, which is returned as stored.
      mesh: the devices of the arrays; all processes that have some of them must call this.

    Raises:
      Damaged: the checkpoint is not as it was written, or cannot be read.
      UserError: it is of another network.
    """
    verified = _verify(folder, list(wanted), mesh)
    arrays = {part: leaves for part, leaves in wanted.items() if leaves is not None}
    check_shapes(folder, arrays, verified, numbers=wanted.keys() - arrays)
    for part, leaves in arrays.items():
        integrity.check_size(folder, part, memory.bytes_of(leaves))
    with _reading(folder, verified):
        return ocp.load_checkpointables(folder, wanted)


def _verify(folder: epath.Path, parts: list[str], mesh: Mesh) -> bool:
    """Verify in the writer alone if the processes load together, so that all decide the same."""
    together = any(d.process_index != jax.process_index() for d in mesh.devices.flat)
    verified, found = False, None
    if not together or processes.is_writer():
        try:
            verified = integrity.verify(folder, parts)
        except UserError as error:
            found = error
    if together:
        damaged = isinstance(found, integrity.Damaged)
        verified, damaged, failed = processes.from_writer([verified, damaged, found is not None])
        if damaged and found is None:
            found = integrity.Damaged(folder, "see process 0")
        elif failed and found is None:
            found = UserError(f"The checkpoint {folder} cannot be read: see process 0.")
    if found is not None:
        raise found
    return bool(verified)


def abstract_network(workdir: str | os.PathLike, **instead: Any) -> Backbone:
    """Return the shapes of the network that a run trained; see `geometry.abstract_model`."""
    return geometry.abstract_model(record.read(workdir)[0], **instead)


def named(tree) -> dict:
    """Return the leaves of a tree as {readable path: leaf}."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unnamed(leaves: dict[str, Any], like: Any) -> Any:
    """Undo `named`, with the structure of `like`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[_name(path)], like)


def _name(path) -> str:
    # A parameter is itself a node with its array under "value", which is left out of the name.
    name = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
    return name.replace(*STORED_AS)


@contextlib.contextmanager
def _reading(folder: epath.Path, verified: bool) -> Iterator[None]:
    """Report which checkpoint cannot be read, instead of an error from inside a library."""
    try:
        yield
    except Exception as error:  # damaged files raise many kinds of errors
        what = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        if verified or isinstance(error, PermissionError | MemoryError):
            message = f"The checkpoint {folder} is whole, but cannot be read here ({what})."
            raise UserError(message) from error
        raise integrity.Damaged(folder, f"it cannot be read ({what})") from error


def check_shapes(
    folder: epath.Path, wanted: dict[str, dict], verified: bool, numbers: Iterable[str] = ()
) -> None:
    """Raise one clear error if a checkpoint lacks the arrays that a network needs.

    It also raises if the parts in `numbers` hold arrays, which would be loaded whatever their size.
    """
    with _reading(folder, verified):
        stored = {part: ocp.metadata(folder, part).metadata for part in [*wanted, *numbers]}
        shapes_of = {
            part: {name: tuple(leaf.shape) for name, leaf in stored[part].items()}
            for part in wanted
        }
        leaves_of = {part: jax.tree.leaves(stored[part]) for part in numbers}
    for part, found in leaves_of.items():
        if any(hasattr(leaf, "shape") for leaf in found):
            raise integrity.Damaged(folder, f"{part} holds arrays instead of numbers")
    for part, leaves in wanted.items():
        shapes = shapes_of[part]
        for name, leaf in leaves.items():
            if shapes.get(name) != tuple(leaf.shape):
                raise UserError(
                    f"The checkpoint {folder} does not fit this network: {part}/{name} is "
                    f"{shapes.get(name, 'missing')} there and {tuple(leaf.shape)} here. It was "
                    f"written by another version or another config."
                )
