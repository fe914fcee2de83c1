"""Checkpoints of a run, by Orbax; `config.record` stores the config beside them.

    workdir/checkpoints/STEP/  step, weights, moving average, optimizer state, data position

Arrays are stored under readable names ("model/blocks/stacks/0/mlp/hidden/kernel"), so that a
checkpoint does not depend on how a library orders its trees, and each part can be loaded on its
own.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint import utils as orbax_utils
from orbax.checkpoint import v1 as ocp

from sg_jax.config import geometry, record
from sg_jax.errors import UserError, nearest
from sg_jax.method.guidance import Guidance
from sg_jax.models.backbone import Backbone
from sg_jax.parallel import sharding
from sg_jax.programs.training import TrainState
from sg_jax.runs import files

STORED_AS = ("label_embedding/table", "label_embedding")  # in code, and in all checkpoints so far


def checkpoint_dir(workdir: str | os.PathLike) -> epath.Path:
    """Return where a run's checkpoints are."""
    return files.absolute(workdir) / "checkpoints"


def saved_steps(workdir: str | os.PathLike) -> list[int]:
    """Return the steps of a run's checkpoints, ascending; raise a UserError if there are none."""
    if not (steps := steps_of(workdir)):
        raise UserError(f"workdir={str(workdir)!r} has no checkpoint yet: train longer.")
    return steps


def steps_of(workdir: str | os.PathLike) -> list[int]:
    """Return the steps of a run's checkpoints, ascending; an empty list without a run."""
    found = [path for path in checkpoint_dir(workdir).glob("*") if path.name.isdigit()]
    if files.is_remote(workdir):  # in a bucket a checkpoint has its name before it is complete
        found = [path for path in found if orbax_utils.is_checkpoint_finalized(path)]
    return sorted(int(path.name) for path in found)


def open_checkpoints(
    workdir: str, every: int, keep: int, keep_period: int = 0
) -> ocp.training.Checkpointer:
    """Return a checkpointer that saves every `every` steps and keeps the latest `keep`.

    With `keep_period` above 0 it also keeps every multiple of it.
    """
    save, preserve = ocp.training.save_decision_policies, ocp.training.preservation_policies
    kept = [preserve.LatestN(keep)]
    if keep_period:
        kept.append(preserve.EveryNSteps(keep_period))
    return ocp.training.Checkpointer(
        checkpoint_dir(workdir),
        save_decision_policy=save.FixedIntervalPolicy(every),
        preservation_policy=preserve.AnyPreservationPolicy(kept),
    )


def save(
    checkpoints: ocp.training.Checkpointer, state: TrainState, step: int, position: int
) -> None:
    """Save in the background; saving a step again does nothing."""
    if checkpoints.latest is not None and checkpoints.latest.step == step:
        return
    parts = {part: named(tree) for part, tree in parts_of(state).items()}
    progress = {"step": step, "data_position": position}
    checkpoints.save_checkpointables_async(step, {**parts, "progress": progress}, force=True)


def restore(
    checkpoints: ocp.training.Checkpointer, abstract: TrainState
) -> tuple[TrainState, int] | None:
    """Return the latest state, sharded as `abstract` asks, and the data position; or None."""
    if checkpoints.latest is None:
        return None
    trees = parts_of(abstract)
    wanted = {part: named(tree) for part, tree in trees.items()}
    step, folder = checkpoints.latest.step, checkpoints.directory / str(checkpoints.latest.step)
    _check_shapes(folder, wanted)
    with _reading(folder):
        loaded = checkpoints.load_checkpointables(step, {**wanted, "progress": None})
    parts = {part: unnamed(loaded[part], tree) for part, tree in trees.items()}
    emas = {decay: parts.pop(f"ema_{decay}") for decay in abstract.emas}
    step = jax.device_put(np.int32(loaded["progress"]["step"]), abstract.step.sharding)
    return TrainState(step=step, emas=emas, **parts), int(loaded["progress"]["data_position"])


def parts_of(state: TrainState) -> dict:
    """Return the parts of a state that are stored, and can be loaded, on their own, by name."""
    parts = {"model": state.model, "ema": state.ema, "opt_state": state.opt_state}
    return parts | {f"ema_{decay}": tree for decay, tree in state.emas.items()}


def load(
    workdir: str | os.PathLike,
    step: int | None = None,
    weights: str = "ema",
    mesh: Mesh | None = None,
    like: Backbone | None = None,
) -> Backbone:
    """Load a trained network, ready for `sg_jax.sample`.

    Args:
      workdir: the folder that training wrote.
      step: which checkpoint to load; the latest by default.
      weights: "ema" (the moving average), "model" (the raw weights), or one of the averages of
        config.train.ema_decays, such as "ema_0.999".
      mesh: the devices of all processes to spread the weights over; one of this process by default.
      like: a network with the same weights but other settings; by default the trained one.

    Returns:
      The network.

    Raises:
      UserError: there is no run or no such checkpoint in `workdir`.
    """
    config, _ = record.read(workdir)
    model = like or abstract_network(workdir)
    kept = ("ema", "model", *(f"ema_{decay:g}" for decay in config.train.ema_decays))
    if weights not in kept:
        raise UserError(f"weights={weights!r} must be one of {kept}." + nearest(weights, kept))
    folder, steps = checkpoint_dir(workdir), saved_steps(workdir)
    step = steps[-1] if step is None else step
    if step not in steps:
        raise UserError(f"step={step} is not a checkpoint in {str(workdir)!r}: there are {steps}.")
    mesh = mesh or sharding.one_device()
    abstract = sharding.place(model, mesh)
    wanted = {weights: named(abstract)}
    _check_shapes(folder / str(step), wanted)
    with _reading(folder / str(step)):
        loaded = ocp.load_checkpointables(folder / str(step), wanted)
    return unnamed(loaded[weights], abstract)


def abstract_network(workdir: str | os.PathLike) -> Backbone:
    """Return the shapes of the network that a run trained."""
    return geometry.abstract_model(record.read(workdir)[0])


def load_weak(
    guidance: Guidance,
    workdir: str | os.PathLike,
    mesh: Mesh | None = None,
    like: Backbone | None = None,
) -> Backbone | None:
    """Load the network of the weak prediction if it is another one, otherwise return None.

    Args:
      guidance: the setting.
      workdir: the run of the strong prediction.
      mesh, like: see `load`; a network of another run follows that run's config.
    """
    if not guidance.two_networks:
        return None
    like = None if guidance.weak_workdir else like
    step = guidance.weak_step or None
    return load(guidance.weak_workdir or workdir, step=step, mesh=mesh, like=like)


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


def check_start(workdir: str | os.PathLike, model: Backbone) -> None:
    """Raise unless the latest checkpoint of a run has the weights that a network starts from."""
    record.read(workdir)
    folder = checkpoint_dir(workdir) / str(saved_steps(workdir)[-1])
    _check_shapes(folder, {"ema": named(model)})


@contextlib.contextmanager
def _reading(folder: epath.Path) -> Iterator[None]:
    """Report which checkpoint cannot be read, instead of an error from inside a library."""
    try:
        yield
    except Exception as error:  # damaged files raise many kinds of errors
        what = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"The checkpoint {folder} cannot be read ({type(error).__name__}: {what}). If it is "
            "damaged, delete that folder: the run then continues from the checkpoint before."
        ) from error


def _check_shapes(folder: epath.Path, wanted: dict[str, dict]) -> None:
    """Raise one clear error if a checkpoint lacks the arrays that a network needs."""
    with _reading(folder):
        stored = ocp.checkpointables_metadata(folder).metadata
        shapes_of = {
            part: {name: tuple(leaf.shape) for name, leaf in stored[part].items()}
            for part in wanted
        }
    for part, leaves in wanted.items():
        shapes = shapes_of[part]
        for name, leaf in leaves.items():
            if shapes.get(name) != tuple(leaf.shape):
                raise UserError(
                    f"The checkpoint {folder} does not fit this network: {part}/{name} is "
                    f"{shapes.get(name, 'missing')} there and {tuple(leaf.shape)} here. It was "
                    f"written by another version or another config."
                )
