"""The network of the weak prediction, if it has another checkpoint or other weights."""

import dataclasses
import os
from collections.abc import Sequence

from jax.sharding import Mesh

from sg_jax.config import record
from sg_jax.errors import UserError
from sg_jax.method import early
from sg_jax.method.guidance import Guidance
from sg_jax.method.weak import RAW
from sg_jax.models.backbone import Backbone
from sg_jax.runs.progress import log
from sg_jax.weights import checkpoints


def at_step(
    guidance: Guidance, workdir: str | os.PathLike, step: int | None = None, tell: bool = True
) -> Guidance:
    """Return a setting with the step of its weak checkpoint filled in, if it has one.

    Args:
      guidance: the setting.
      workdir: the run of the strong prediction.
      step: the step of the strong network; `weak_step` may be a share of it. The latest by default.
        For another run, `weak_step` is a share of that run's latest step.
      tell: log which step stands for a share.

    Raises:
      UserError: a checkpoint is missing, or the run does not keep these weights.
    """
    if not guidance.two_networks:
        return guidance
    folder = guidance.weak_workdir or workdir
    check_weights(guidance, folder)
    if not guidance.other_checkpoint:
        return guidance
    steps = checkpoints.saved_steps(folder)
    own = 0 if guidance.weak_workdir else step or steps[-1]
    if isinstance(guidance.weak_step, float):
        guidance = _at_share(guidance, folder, steps, own, tell)
    weak, others = guidance.weak_step, [each for each in steps if each != own]
    if weak and weak not in steps:
        raise _lacking(guidance, folder, f"step {weak}", others)
    alone = dataclasses.replace(guidance, weak_step=0)
    if weak == own and not alone.differs(alone.gamma_strong, alone.gamma_weak):
        raise _lacking(guidance, folder, f"a step other than {weak}, the strong one's,", others)
    return dataclasses.replace(guidance, weak_step=weak or steps[-1])


def _lacking(
    guidance: Guidance, folder: str | os.PathLike, needs: str, others: Sequence[int], how: str = ""
) -> UserError:
    """Return the error that a run lacks the checkpoint of a setting's weak prediction.

    Args:
      guidance: the setting.
      folder: the run.
      needs: what it needs, in words.
      others: the steps that it has beside that of the strong prediction.
      how: how to train a run that has it.
    """
    if record.is_exported(folder):
        remedy = "was exported with one checkpoint: give the run itself in its weak_workdir"
    else:
        train = f"train with {how or 'config.checkpoint.keep_period'}"
        named = f"has {list(others)} beside its own: set its weak_step to one of them, or {train}"
        remedy = named if others else f"has no other checkpoint: {train}"
    text = f"The weak prediction of {guidance.describe()!r} needs {needs} of {str(folder)!r}, which"
    return UserError(f"{text} {remedy}.")


def shapes(guidance: Guidance, model: Backbone) -> Backbone:
    """Return the shapes of the network that makes the weak prediction.

    Args:
      guidance: the setting.
      model: the network of the strong prediction, whose run has the weak one too unless the setting
        names another run.
    """
    if not guidance.weak_workdir:
        return model
    return checkpoints.abstract_network(guidance.weak_workdir)


def likely_shapes(guidance: Guidance, model: Backbone) -> Backbone:
    """Return what `shapes` does, or those of `model` if the other run is not there, or not yet."""
    try:
        return shapes(guidance, model)
    except UserError:
        return model


def load(
    guidance: Guidance,
    workdir: str | os.PathLike,
    mesh: Mesh | None = None,
    like: Backbone | None = None,
    step: int | None = None,
) -> Backbone | None:
    """Load the network of the weak prediction if it is another one, otherwise return None.

    Args:
      guidance: the setting.
      workdir: the run of the strong prediction.
      mesh, like: see `checkpoints.load`; a network of another run follows that run's config.
      step: of the checkpoint that makes the strong prediction, whose other weights may make the
        weak one; the latest by default.

    Raises:
      UserError: the run does not keep these weights.
    """
    if not guidance.two_networks:
        return None
    like = None if guidance.weak_workdir else like
    own = (guidance.weak_step or None) if guidance.other_checkpoint else step
    assert not isinstance(own, float), "`at_step` finds the checkpoint of a share"
    folder = guidance.weak_workdir or workdir
    check_weights(guidance, folder)
    return checkpoints.load(folder, step=own, weights=guidance.weak_part, mesh=mesh, like=like)


def check_weights(guidance: Guidance, workdir: str | os.PathLike) -> None:
    """Raise unless a run keeps the weights that make the weak prediction of a setting."""
    if not guidance.weak_weights:
        return
    decays = record.read(workdir)[0].train.ema_decays
    if record.is_exported(workdir):
        raise UserError(
            f"The weak prediction of {guidance.describe()!r} needs weights other than the average, "
            f"but {str(workdir)!r} was exported with the average alone: give the run itself."
        )
    if guidance.weak_part not in ("model", *(f"ema_{decay:g}" for decay in decays)):
        kept = ", ".join(f"'{decay:g}'" for decay in decays)
        raise UserError(
            f"The weak prediction of {guidance.describe()!r} needs the average of decay "
            f"{guidance.weak_weights} of {str(workdir)!r}, whose checkpoints have "
            + (f"further averages of {kept}" if kept else "no further averages")
            + f": set its weak_weights to {kept + ' or ' if kept else ''}{RAW!r}, or train with "
            f"config.train.ema_decays=({guidance.weak_weights},)."
        )


def _at_share(
    guidance: Guidance, folder: str | os.PathLike, steps: Sequence[int], own: int, tell: bool
) -> Guidance:
    """Return a setting with the kept step nearest to its share of the steps trained.

    Args:
      guidance: the setting.
      folder: the run of the weak prediction.
      steps: its checkpoints.
      own: the step of the strong prediction; 0 if another run makes that.
      tell: log the step.
    """
    share, last = guidance.weak_step, own or steps[-1]
    found = early.nearest(share, last, steps)
    if found is None:
        every = record.read(folder)[0].checkpoint.every
        needs = f"a checkpoint near step {share * last:.0f}, {share:g} of {last},"
        others = [step for step in steps if step != own]
        raise _lacking(guidance, folder, needs, others, early.advice(share, last, every))
    if tell:
        log(f"{guidance.describe()}: the weak prediction is made by step {found} of {folder}.")
    return dataclasses.replace(guidance, weak_step=found)
