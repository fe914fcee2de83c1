"""Rules between sections: what one value requires of another, or of the network and the devices."""

from jax.sharding import Mesh

from sg_jax.config.sections import Config
from sg_jax.errors import UserError, default_of, nearest
from sg_jax.method.checks import check_rate, check_setting
from sg_jax.method.objective import FlowMatching
from sg_jax.models.backbone import Backbone
from sg_jax.models.kinds import reads
from sg_jax.parallel import sharding


def check(config: Config, model: Backbone, mesh: Mesh) -> None:
    """Raise for the first rule that a config breaks.

    Args:
      config: the sections, each of which is valid on its own.
      model: the shapes of the network.
      mesh: the mesh of the devices to run on.
    """
    check_rate(model, config.objective.gamma, "config.objective.gamma")
    for _, gamma in config.train.gammas:
        check_rate(model, gamma, "config.train.gammas")
    _check_reconstruction(config, model)
    _check_tensor(config, mesh.shape["tensor"])
    train = config.train
    sharding.check_batch("config.train.batch_size", train.batch_size, mesh, train.accumulate)
    last = config.profile.start + config.profile.steps - 1
    if config.profile.start and last > train.steps:
        raise UserError(
            f"config.profile.start={config.profile.start} and steps={config.profile.steps} must "
            f"lie within config.train.steps={train.steps}."
        )
    model.conditioning.check(config.sample.labels, "config.sample.labels")
    for key, names in (
        ("sample.guidance", (config.sample.guidance,)),
        ("evaluate.guidance", config.evaluate.guidance),
        ("diversity.guidance", config.diversity.guidance),
    ):
        for name in names:
            if name not in config.guidance:
                raise UserError(
                    f"config.{key}={name!r} is not a guidance setting; the settings are "
                    f"{', '.join(config.guidance)}." + nearest(name, config.guidance)
                )
    _check_drawing(config, model)


def _check_reconstruction(config: Config, model: Backbone) -> None:
    """Raise if a loss of masked tokens is set for a network that masks none."""
    default = default_of(FlowMatching, "reconstruction")
    if not model.masks and config.objective.reconstruction != default:
        raise UserError(
            f"config.objective.reconstruction={config.objective.reconstruction} has no effect: "
            f"config.model.kind={config.model.kind!r} masks no tokens. Leave it at {default}."
        )


def _check_tensor(config: Config, size: int) -> None:
    """Raise unless `size` devices can share the heads of a block."""
    for key in ("heads", "decoder_heads"):
        value = getattr(config.model, key)
        if key in reads(config.model.kind) and value % size:
            raise UserError(
                f"config.mesh.tensor={size} must divide config.model.{key}={value}: the devices "
                f"of that axis share the heads."
            )


def _check_drawing(config: Config, model: Backbone) -> None:
    """Raise if training could not draw a setting that it is asked for, at its end or in between."""
    train, names = config.train, []
    if "sample" in train.then or train.sample_every:
        names.append(config.sample.guidance)
    if "evaluate" in train.then:
        names += config.evaluate.guidance
    for name in names:
        guidance = config.guidance[name]
        check_setting(model, guidance, key=f"config.guidance.{name}")
        step = guidance.weak_step
        if train.then and step and not guidance.weak_workdir and not _is_kept(config, step):
            raise UserError(
                f"config.guidance.{name}.weak_step={step} is not a checkpoint that this training "
                f"keeps: it saves every config.checkpoint.every={config.checkpoint.every} of "
                f"config.train.steps={train.steps} steps, and keeps the last "
                f"{config.checkpoint.keep} and multiples of "
                f"config.checkpoint.keep_period={config.checkpoint.keep_period}."
            )


def _is_kept(config: Config, step: int) -> bool:
    """Return whether the checkpoint of `step` exists when training has ended."""
    every, last = config.checkpoint.every, config.train.steps
    period = config.checkpoint.keep_period
    saved = sorted({*range(every, last + 1, every), last})
    periodic = period and step % period == 0
    return step in saved and bool(periodic or step in saved[-config.checkpoint.keep :])
