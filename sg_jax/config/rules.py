"""Rules between sections: what one value requires of another, or of the network and the devices."""

import bisect
import math

from jax.sharding import Mesh

from sg_jax.config import tuples
from sg_jax.config.sections import Config
from sg_jax.config.training import HELDOUT
from sg_jax.encoders.text import Text
from sg_jax.errors import UserError, declared_in, default_of, nearest, shown
from sg_jax.method import distillation, early
from sg_jax.method.candidates import METHODS
from sg_jax.method.checks import check_rate, check_setting
from sg_jax.method.objective import FlowMatching
from sg_jax.method.weak import RAW
from sg_jax.models.backbone import Backbone
from sg_jax.models.kinds import reads, reads_texts


def check(config: Config, model: Backbone, mesh: Mesh) -> None:
    """Raise for the first rule that a config breaks.

    Args:
      config: the sections, each of which is valid on its own.
      model: the shapes of the network.
      mesh: the mesh of the devices to run on.
    """
    check_rate(model, config.objective.gamma, "config.objective.gamma")
    for gamma, _ in config.objective.rates:
        check_rate(model, gamma, "config.objective.rates: gamma")
    for _, gamma in config.train.gammas:
        check_rate(model, gamma, "config.train.gammas")
    _check_objective(config, model)
    _check_tensor(config, mesh.shape["tensor"])
    train = config.train
    last = config.profile.start + config.profile.steps - 1
    if config.profile.start and last > train.steps:
        raise UserError(
            f"config.profile.start={config.profile.start} and steps={config.profile.steps} must "
            f"lie within config.train.steps={train.steps}."
        )
    if reads_texts(config.model.kind):
        _check_texts(config)
    else:
        _check_classes(config, model)
    for key, names in (
        ("sample.guidance", (config.sample.guidance,)),
        ("train.evaluate_guidance", (train.evaluate_guidance,)),
        ("evaluate.guidance", config.evaluate.guidance),
        ("diversity.guidance", config.diversity.guidance),
        ("compose.guidance", config.compose.guidance),
        ("control.guidance", config.control.guidance),
    ):
        for name in names:
            if name not in config.guidance:
                raise UserError(
                    f"config.{key}={shown(name)} is not a guidance setting; the settings are "
                    f"{', '.join(config.guidance)}." + nearest(name, config.guidance)
                )
    _check_tuning(config)
    _check_drawing(config, model)
    _check_best(config)


def _check_texts(config: Config) -> None:
    """Raise if a setting for classes is set, but the network reads texts."""
    for key, value, default in (
        ("sample.labels", config.sample.labels, ()),
        ("evaluate.labels", config.evaluate.labels, "balanced"),
    ):
        if value != default:
            raise UserError(
                f"config.{key}={shown(value)} has no effect: config.model.kind="
                f"{config.model.kind!r} reads texts, and draws captions of the data, or "
                f"prompts (`--mode sample --prompts FILE`). Leave it at {default!r}."
            )


def _check_classes(config: Config, model: Backbone) -> None:
    """Raise if a setting for texts is set, but the network reads classes."""
    model.conditioning.check(config.sample.labels, "config.sample.labels")
    for name in declared_in(Text):
        value, default = getattr(config.text, name), default_of(Text, name)
        if value != default:
            raise UserError(
                f"config.text.{name}={shown(value)} has no effect: config.model.kind="
                f"{config.model.kind!r} reads class labels. Leave it at {default!r}, or choose a "
                "network of texts."
            )


def _check_tuning(config: Config) -> None:
    """Raise if tuning names a method or a setting that does not exist."""
    tune, own = config.tune, dict(config.tune.candidates)
    known = dict.fromkeys([*METHODS, *own])
    for method in tune.methods:
        if method not in known and method != tuples.ALL:
            raise UserError(
                f"config.tune.methods={shown(method)} is not a method of guidance; the methods are "
                f"{', '.join(known)}: name one of them, or give its settings in "
                f"config.tune.candidates.{nearest(method, known)}"
            )
    for method, names in own.items():
        if names[-1] == tuples.OTHERS and method not in METHODS:
            raise UserError(
                f"config.tune.candidates: {tuples.OTHERS!r} stands for the candidates of a method "
                f"of the table, but {shown(method)} is not one: {', '.join(METHODS)}."
            )
        for name in names:
            if name not in (*config.guidance, tuples.OTHERS):
                raise UserError(
                    f"config.tune.candidates={shown(name)} is not a guidance setting; the settings "
                    f"are {', '.join(config.guidance)}." + nearest(name, config.guidance)
                )


def _check_objective(config: Config, model: Backbone) -> None:
    """Raise if the objective has parts that exclude each other, or that the network lacks."""
    objective, kind = config.objective, config.model.kind
    if objective.rates and config.train.gammas:
        raise UserError(
            f"config.objective.rates={shown(objective.rates)} and config.train.gammas="
            f"{shown(config.train.gammas)} both set the sparsity rate of a step: leave one of them "
            "at ()."
        )
    lacks = {}
    if not model.masks:
        lacks["reconstruction"] = f"config.model.kind={kind!r} masks no tokens"
    if model.masks:
        lacks["route_loss"] = f"config.model.kind={kind!r} has no routes, but masks tokens"
    elif not model.choices:
        lacks["route_loss"] = "config.model.routes is empty"
    if not model.inner:
        lacks["inner"] = "config.model.inner=0 means no inner head"
    for name, reason in lacks.items():
        value, default = getattr(objective, name), default_of(FlowMatching, name)
        if value != default:
            raise UserError(
                f"config.objective.{name}={value} has no effect: {reason}. Leave it at {default}."
            )
    if name := objective.distill:
        if name not in config.guidance:
            raise UserError(
                f"config.objective.distill={shown(name)} is not a guidance setting; the settings "
                f"are {', '.join(config.guidance)}." + nearest(name, config.guidance)
            )
        if not config.train.init_from:
            raise UserError(
                f"config.objective.distill={name!r} needs config.train.init_from: the run, or the "
                "file of weights, whose network makes the target."
            )
        distillation.check(config.guidance[name], name)


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
    """Raise if training could not draw a setting that it is to draw, at its end or in between."""
    train, names = config.train, []
    if "sample" in train.then or train.sample_every:
        names.append(config.sample.guidance)
    if "evaluate" in train.then:
        names += config.evaluate.guidance
    if train.evaluate_every:
        names.append(train.evaluate_guidance)
        if config.guidance[train.evaluate_guidance].other_checkpoint:
            raise UserError(
                f"config.train.evaluate_guidance={train.evaluate_guidance!r} takes its weak "
                "prediction from another checkpoint, which may not be there while the run trains: "
                "give a setting of one network, such as 'unguided' or 'cfg'."
            )
    for name in names:
        guidance = config.guidance[name]
        check_setting(model, guidance, key=f"config.guidance.{name}")
        kept = [f"{decay:g}" for decay in train.ema_decays]
        known = guidance.weak_part in ("ema", "model", *(f"ema_{decay}" for decay in kept))
        if not known and not guidance.weak_workdir:
            raise UserError(
                f"config.guidance.{name}.weak_weights={guidance.weak_weights!r} is not among "
                f"config.train.ema_decays={train.ema_decays}: add it there, or set this to "
                f"{' or '.join(map(repr, (*kept, RAW)))}."
            )
        if train.then and guidance.weak_step and not guidance.weak_workdir:
            _check_weak_step(config, f"config.guidance.{name}", guidance.weak_step)


def _check_best(config: Config) -> None:
    """Raise if the best checkpoint is to be chosen by a number that is not measured."""
    metric, train = config.checkpoint.keep_best, config.train
    key = "heldout_every" if metric == HELDOUT else "evaluate_every"
    if metric and not getattr(train, key):
        raise UserError(
            f"config.checkpoint.keep_best={metric!r} needs config.train.{key}, which is 0: set it "
            "to the number of steps between two measurements."
        )


def _check_weak_step(config: Config, key: str, step: int | float) -> None:
    """Raise unless the checkpoint of a setting exists when training has ended."""
    last, saves, found = config.train.steps, config.checkpoint, kept(config)
    if isinstance(step, int):
        fits, which, remedy = any(step in steps for steps in found), "is not a checkpoint", ""
    else:
        # Of each range, take only the two steps around the wanted one, because it may be long.
        around = [steps[max(0, bisect.bisect(steps, step * last) - 1) :][:2] for steps in found]
        fits = early.nearest(step, last, [s for steps in around for s in steps]) is not None
        which = f"is step {step * last:.0f}, near which there is no checkpoint"
        remedy = f": set {early.advice(step, last, saves.every)}"
    if not fits:
        raise UserError(
            f"{key}.weak_step={step} {which} that this training keeps: it saves every "
            f"config.checkpoint.every={saves.every} of config.train.steps={last} steps, and keeps "
            f"the last {saves.keep} and multiples of "
            f"config.checkpoint.keep_period={saves.keep_period}{remedy}."
        )


def kept(config: Config) -> list[range]:
    """Return the steps of the checkpoints that exist when training has ended."""
    saves, last = config.checkpoint, config.train.steps
    every, period = saves.every, saves.keep_period
    first = last // every - saves.keep + (1 if last % every == 0 else 2)  # of the latest ones
    found = [range(max(1, first) * every, last + 1, every), range(last, last + 1)]
    return found + ([range(m, last + 1, m)] if period and (m := math.lcm(every, period)) else [])
