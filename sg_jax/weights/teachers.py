"""Networks that teach another one: that of `config.train.init_from`, and a weak one for guidance.

The steps of their checkpoints are saved with the state that learns from them, so a continued run
has the same target, whatever the teachers' run has trained or kept since.
"""

import dataclasses
import os
from collections.abc import Mapping

from jax.sharding import Mesh

from sg_jax.errors import UserError
from sg_jax.method.checks import check_setting
from sg_jax.method.guidance import Guidance
from sg_jax.models.backbone import Backbone
from sg_jax.weights import checkpoints, networks, starts, weak_networks

STRONG, WEAK = "teacher_step", "weak_teacher_step"  # numbers saved with a state
NUMBERS = (STRONG, WEAK)


def check(source: str | os.PathLike, model: Backbone, guidance: Guidance, name: str) -> None:
    """Raise unless a source has the networks that can teach another one, with their own routes.

    Args:
      source: a run, an exported folder, or a file of weights.
      model: shapes of the network that learns.
      guidance: the setting that the teachers predict with.
      name: of the setting.
    """
    key = f"config.objective.distill={name!r}"
    if networks.is_weights(source):
        if guidance.two_networks and not guidance.weak_workdir:
            raise UserError(
                f"{key}: {guidance.describe()!r} takes its weak prediction from another checkpoint "
                f"or other weights of config.train.init_from={str(source)!r}, which is a file of "
                f"one network: give a run, or set config.guidance.{name}.weak_workdir to one."
            )
        found = starts.from_file(source, model)
    else:
        found = checkpoints.abstract_network(source)
    starts.check_same(source, found, model)
    for words, theirs, ours in (
        ("image size", found.image_size, model.image_size),
        ("classes", starts.classes(found), starts.classes(model)),
    ):
        if theirs != ours:
            raise UserError(
                f"{key}: the network of config.train.init_from={str(source)!r} has {words} "
                f"{theirs}, but this one has {ours}: give a teacher of the same data, or leave "
                "config.objective.distill empty."
            )
    guidance = weak_networks.at_step(guidance, source, tell=False)
    weak = weak_networks.shapes(guidance, found)
    check_setting(found, guidance, weak, key=f"config.guidance.{name}")


def load(
    source: str | os.PathLike,
    model: Backbone,
    guidance: Guidance,
    mesh: Mesh,
    kept: Mapping[str, int],
) -> tuple[list[Backbone], dict[str, int]]:
    """Return the networks that teach another one, and the steps of their checkpoints.

    Args:
      source, guidance: see `check`.
      model: the network that learns.
      mesh: the devices of the weights.
      kept: the steps, if they are known from before; otherwise those of the latest checkpoint. A
        file of weights has step 0.

    Returns:
      The network of the strong prediction, and that of the weak one if it is another; and the
      steps, by their names in `NUMBERS`.

    Raises:
      UserError: a checkpoint is no longer there.
    """
    if networks.is_weights(source):
        found, strong = networks.placed(starts.from_file(source, model), mesh), 0
    else:
        _check_kept(source, kept.get(STRONG), "config.train.init_from")
        found, strong = checkpoints.load_with_step(source, kept.get(STRONG), mesh=mesh)
    teachers, numbers = [found], {STRONG: strong}
    if guidance.two_networks:
        if guidance.other_checkpoint:
            if WEAK in kept:
                folder = guidance.weak_workdir or source
                _check_kept(folder, kept[WEAK], "the weak prediction's run")
                guidance = dataclasses.replace(guidance, weak_step=kept[WEAK])
            else:
                guidance = weak_networks.at_step(guidance, source, strong)
            numbers[WEAK] = int(guidance.weak_step)
        weak = weak_networks.load(guidance, source, mesh=mesh, step=strong)
        assert weak is not None
        teachers.append(weak)
    return [teacher.in_chunks(-1) for teacher in teachers], numbers


def _check_kept(source: str | os.PathLike, step: int | None, words: str) -> None:
    """Raise unless the checkpoint that a run has learnt from so far is still there."""
    if step is not None and step not in (steps := checkpoints.saved_steps(source)):
        raise UserError(
            f"{words}={str(source)!r} no longer has step {step}, which has made the target of "
            f"this run until now; it has {steps}. Put the step back, or start again in a new "
            "--workdir."
        )
