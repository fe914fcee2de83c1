"""An experiment: a config completed by the data, and the objects it describes.

Everything a wrong value could break is built here, before any long work: nothing is allocated or
compiled.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import grain
import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sg_jax.config import geometry
from sg_jax.data.pipeline import train_iterator
from sg_jax.data.sources import Source
from sg_jax.errors import UserError, nearest
from sg_jax.evaluation import scoring
from sg_jax.method.checks import check_rate, check_setting
from sg_jax.method.guidance import Guidance
from sg_jax.method.objective import FlowMatching
from sg_jax.method.sampler import Sampler
from sg_jax.models.backbone import Backbone
from sg_jax.parallel import processes, sharding
from sg_jax.programs import optimizer
from sg_jax.programs.training import TrainState, compile_train_step, make_train_step


def guidance_setting(config: ConfigDict, name: str, key: str) -> Guidance:
    """Return the setting `name` that config key `key` asks for."""
    if name not in config.guidance:
        raise UserError(
            f"{key}={name!r} is not a guidance setting; there are {', '.join(config.guidance)}."
            + nearest(name, config.guidance)
        )
    try:
        return Guidance(**config.guidance[name])
    except UserError as error:
        raise UserError(str(error).replace("guidance.", f"config.guidance.{name}.", 1)) from None


def _check_gammas(model: Backbone, gammas: tuple) -> None:
    """Raise unless a schedule of training rates is made of pairs (step, gamma), in order."""
    for pair in gammas:
        numbers = isinstance(pair, tuple) and all(isinstance(v, int | float) for v in pair)
        if not numbers or len(pair) != 2 or not 0 <= pair[1] <= 1 or pair[0] < 0:
            raise UserError(
                f"config.train.gammas={gammas!r} must hold pairs (step, gamma), gamma in [0, 1]."
            )
        check_rate(model, pair[1], "config.train.gammas")
    if list(gammas) != sorted(gammas):
        raise UserError(f"config.train.gammas={gammas!r} must have ascending steps.")


def _sampler(config: ConfigDict) -> Sampler:
    try:
        return Sampler(**config.sampler)
    except UserError as error:
        raise UserError(f"config.{error}") from None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The objects a completed config describes."""

    config: ConfigDict
    model: Backbone  # shapes only
    objective: FlowMatching
    tx: optax.GradientTransformation
    schedule: Callable[[int], jax.Array]  # learning rate of a step
    mesh: Mesh
    settings: dict[str, Guidance]  # by name
    sampler: Sampler

    def make_model(self, key: jax.Array) -> Backbone:
        """Return the network with fresh weights."""
        return geometry.make_model(self.config, key)

    def compile_train_step(self, gamma: float, state: TrainState) -> Callable:
        """Return the training step at one sparsity rate, compiled at its first call.

        Args:
          gamma: the rate.
          state: arrays or shapes, with the shardings that the step keeps.
        """
        objective = dataclasses.replace(self.objective, gamma=gamma)
        train = self.config.train
        step = make_train_step(objective, self.tx, train.ema_decay, train.accumulate)
        return compile_train_step(step, state, self.mesh)

    def batches(self, source: Source, **reading: int) -> grain.DatasetIterator:
        """Return this process's endless training batches; see `data.pipeline.train_iterator`.

        Args:
          source: the training images.
          reading: `workers` and `threads`, where they are not the config's.
        """
        data = self.config.data
        share, shares = processes.share(sharding.batch_sharding(self.mesh))
        return train_iterator(
            source,
            batch_size=self.config.train.batch_size,
            seed=self.config.seed,
            process_index=share,
            process_count=shares,
            flip=data.flip,
            **{"workers": data.workers, "threads": data.threads, **reading},
        )

    @property
    def sampling(self) -> dict[str, Any]:
        """What `generate.sample` takes from the config, whatever the guidance."""
        config = self.config.sample
        return dict(
            steps=config.steps,
            seed=self.config.seed,
            batch_size=config.batch_size,
            chunk=config.chunk,
            mesh=self.mesh,
            sampler=self.sampler,
        )

    def gamma_at(self, step: int) -> float:
        """Return the sparsity rate that training step `step`, counted from 1, runs at."""
        begun = [gamma for first, gamma in self.config.train.gammas if first < step]
        return begun[-1] if begun else self.objective.gamma

    @property
    def training_rates(self) -> tuple[float, ...]:
        """The sparsity rates that training steps run at, each once, in the order of the steps."""
        train = self.config.train
        first_steps = (1, *(int(first) + 1 for first, _ in train.gammas))
        return tuple(dict.fromkeys(self.gamma_at(s) for s in first_steps if s <= train.steps))


def _check_training_draws(config: ConfigDict, model: Backbone, settings: dict) -> None:
    """Raise where training could not draw in the end, or on its way, what it is asked to."""
    train, names = config.train, []
    if "sample" in train.then or train.sample_every:
        names.append(config.sample.guidance)
    if "evaluate" in train.then:
        names += config.evaluate.guidance
    for name in names:
        check_setting(model, settings[name], key=f"config.guidance.{name}")
        step = settings[name].weak_step
        if train.then and step and not settings[name].weak_workdir and not _is_kept(config, step):
            raise UserError(
                f"config.guidance.{name}.weak_step={step} is no checkpoint that this training "
                f"keeps: it saves each config.checkpoint.every={config.checkpoint.every} of "
                f"config.train.steps={train.steps}, and keeps the last {config.checkpoint.keep}, "
                f"and multiples of config.checkpoint.keep_period={config.checkpoint.keep_period}."
            )


def _is_kept(config: ConfigDict, step: int) -> bool:
    """Return whether a checkpoint of `step` is there when training has ended."""
    every, last = config.checkpoint.every, config.train.steps
    period = config.checkpoint.keep_period
    saved = sorted({*range(every, last + 1, every), last})
    periodic = period and step % period == 0
    return step in saved and bool(periodic or step in saved[-config.checkpoint.keep :])


def _check_tensor(config: ConfigDict, size: int) -> None:
    """Raise unless `size` devices can share the heads of a block."""
    model = config.model
    keys = [key for key in ("heads", "decoder_heads") if key in geometry.KINDS[model.kind][1]]
    for key in keys:
        if model[key] % size:
            raise UserError(
                f"config.mesh.tensor={size} must divide config.model.{key}={model[key]}: the "
                f"devices of that axis share the heads."
            )


def build(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Experiment:
    """Check every section of a completed config by building what it describes.

    Args:
      config: from `complete` or `fill_geometry`.
      devices: to run on; all by default.
    """
    model = jax.eval_shape(lambda key: geometry.make_model(config, key), jax.random.key(0))
    check_rate(model, config.objective.gamma, "config.objective.gamma")
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    _check_tensor(config, mesh.shape["tensor"])
    at_least = {
        "train.steps": 1, "train.accumulate": 1, "train.log_every": 1, "train.sample_every": 0,
        "checkpoint.every": 1, "checkpoint.keep": 1, "checkpoint.keep_period": 0,
        "sample.steps": 1, "sample.count": 1, "sample.batch_size": 1,
        "evaluate.samples": 10, "evaluate.columns": 1,
        "evaluate.step": 0, "bench.repeats": 3,
        "bench.images_per_second": 0,
        "data.workers": 0, "data.threads": 0, "data.image_size": 0,
        "sample.chunk": -1, "profile.start": 0, "profile.steps": 1,
    }  # fmt: skip
    for path, low in at_least.items():
        section, key = path.split(".")
        if config[section][key] < low:
            raise UserError(f"config.{path}={config[section][key]} must be at least {low}.")
    if config.evaluate.references in (1, 2, 3) or config.evaluate.references < 0:
        raise UserError(
            f"config.evaluate.references={config.evaluate.references} must be at least 4, or 0 for "
            f"all real images."
        )
    sharding.check_batch(
        "config.train.batch_size", config.train.batch_size, mesh, config.train.accumulate
    )
    last = config.profile.start + config.profile.steps - 1
    if config.profile.start and last > config.train.steps:
        raise UserError(
            f"config.profile.start={config.profile.start} and steps={config.profile.steps} must "
            f"lie within config.train.steps={config.train.steps}."
        )
    seeds = config.evaluate.seeds
    for key, seed in (("seed", config.seed), *(("evaluate.seeds", s) for s in seeds)):
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise UserError(f"config.{key}={seed!r} must satisfy 0 <= seed < 2**32.")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"config.evaluate.seeds={seeds} must not hold a seed twice.")
    for key in ("ema_decay", "ema_decays"):
        value = config.train[key]
        for decay in value if key == "ema_decays" else (value,):
            if not isinstance(decay, int | float) or not 0.0 <= decay < 1.0:
                raise UserError(f"config.train.{key}={value!r} must lie in [0, 1).")
    scoring.recipe(config)
    _check_gammas(model, config.train.gammas)
    for mode in config.train.then:
        if mode not in ("sample", "evaluate"):
            raise UserError(
                f"config.train.then={config.train.then!r} may hold 'sample' and 'evaluate', "
                f"not {mode!r}." + nearest(mode, ("sample", "evaluate"))
            )
    model.conditioning.check(config.sample.labels, "config.sample.labels")
    if not config.evaluate.guidance:
        raise UserError(
            f"config.evaluate.guidance=() must name at least one of {', '.join(config.guidance)}."
        )
    settings = {n: guidance_setting(config, n, "config.guidance") for n in config.guidance}
    for key, names in (
        ("config.sample.guidance", (config.sample.guidance,)),
        ("config.evaluate.guidance", config.evaluate.guidance),
        ("config.diversity.guidance", config.diversity.guidance),
    ):
        for name in names:
            guidance_setting(config, name, key)
    _check_training_draws(config, model, settings)
    rate = config.optimizer
    schedule = optimizer.make_schedule(
        rate.learning_rate, rate.schedule, rate.warmup, config.train.steps
    )
    return Experiment(
        config,
        model,
        FlowMatching(**config.objective),
        optimizer.make_optimizer(**rate, steps=config.train.steps),
        schedule,
        mesh,
        settings,
        _sampler(config),
    )
