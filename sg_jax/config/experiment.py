"""An experiment: a completed config, and the objects it describes.

Everything that a wrong value could break is built here, before any long work. Nothing is allocated
or compiled.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sg_jax.config import geometry, rules, tree
from sg_jax.config.sections import Config
from sg_jax.data.asked import Asked, Captioned
from sg_jax.data.pipeline import train_iterator
from sg_jax.data.sources import Source
from sg_jax.data.wording import Wording
from sg_jax.encoders.autoencoder import Autoencoder
from sg_jax.encoders.text import Text
from sg_jax.errors import UserError
from sg_jax.method.distillation import Distillation
from sg_jax.method.guidance import Guidance
from sg_jax.method.network import Condition
from sg_jax.method.objective import FlowMatching, Rates, as_rates
from sg_jax.method.sampler import Sampler
from sg_jax.models.backbone import Backbone
from sg_jax.models.kinds import reads_texts
from sg_jax.parallel import processes, sharding
from sg_jax.programs import decoding, memory
from sg_jax.programs.training import (
    TrainState,
    abstract_state,
    compile_train_step,
    make_train_step,
)

SMALLER = (
    "lower config.train.batch_size, raise config.train.accumulate, or spread the state over more "
    "devices with config.mesh.fsdp"
)

KERNELS = {  # those that only some devices run
    "pallas": ("tpu", "TPUs", " (--mode aot compiles it for TPUs without one.)"),
    "cudnn": ("gpu", "NVIDIA GPUs", ""),
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The objects that a completed config describes."""

    config: Config
    model: Backbone  # shapes only
    tx: optax.GradientTransformation
    schedule: Callable[[int], jax.Array]  # the learning rate at a step
    mesh: Mesh
    autoencoder: Autoencoder | None = None  # decodes drawn latents; see `modes.base.Job.drawing`
    pixels: bool = True  # whether drawings are images; otherwise they stay latents
    captions: Captioned | None = None  # what a network of texts draws; see there too

    @property
    def objective(self) -> FlowMatching:
        """The training objective."""
        return self.config.objective

    @property
    def settings(self) -> Mapping[str, Guidance]:
        """The guidance settings by name."""
        return self.config.guidance

    @property
    def sampler(self) -> Sampler:
        """The integrator."""
        return self.config.sampler

    def make_model(self, key: jax.Array) -> Backbone:
        """Return the network with fresh weights."""
        return geometry.make_model(self.config.model, key)

    @property
    def wording(self) -> Wording | None:
        """How the network reads texts; None if it reads class labels."""
        model = self.config.model
        if not reads_texts(model.kind):
            return None
        return Wording(model.text_length, model.text_features, model.text_words)

    @property
    def texts(self) -> Text | None:
        """The section `config.text`; None if the network reads class labels."""
        return self.config.text if reads_texts(self.config.model.kind) else None

    def asked(self, count: int) -> np.ndarray | Asked:
        """Return what an evaluation draws: classes in turn, or captions in a fixed order."""
        if self.captions is None:
            return self.model.conditioning.in_turn(count)
        return self.captions.ask(count)

    def blank(self, count: int) -> Condition:
        """Return conditions of the right shapes, to time or compile a program."""
        return self.wording.blank(count) if self.wording else np.zeros(count, np.int32)

    @property
    def taught(self) -> Guidance | None:
        """The setting that a teacher uses to make the training target, if there is a teacher."""
        name = self.objective.distill
        return self.settings[name] if name else None

    @property
    def teachers(self) -> int:
        """How many frozen networks make the training target: 2 with autoguidance."""
        return 0 if self.taught is None else 1 + self.taught.two_networks

    def objective_at(self, gamma: float) -> Callable:
        """Return the objective at one rate; with `taught`, its last arguments are the teachers."""
        objective = self.objective.at(gamma)
        return objective if self.taught is None else Distillation(objective, self.taught)

    def compile_train_step(
        self, gamma: float | Rates, state: TrainState, *teachers: Backbone
    ) -> Callable:
        """Return the training step, compiled at its first call.

        That call raises a UserError, before it runs anything, if there is too little memory.

        Args:
          gamma: the sparsity rate, or the rates that each step draws from.
          state: arrays or shapes, with the shardings that the step keeps.
          teachers: the frozen networks that make the target; `self.teachers` is their number.
        """
        rates, train = as_rates(gamma), self.config.train
        step = make_train_step(
            [self.objective_at(rate) for rate, _ in rates],
            self.tx,
            train.ema_decay,
            train.accumulate,
            skip=train.on_divergence == "skip",
            shares=[share for _, share in rates],
            examples=processes.examples(sharding.batch_sharding(self.mesh), train.batch_size),
        )
        program = compile_train_step(step, state, self.mesh, *teachers)
        return memory.Checked(program, self._step_in_words, self.mesh, SMALLER)

    @property
    def _step_in_words(self) -> str:
        return f"A training step of config.train.batch_size={self.config.train.batch_size} images"

    def check_batch(self) -> None:
        """Raise unless the devices can share a batch of training; any can draw."""
        train = self.config.train
        sharding.check_batch(
            "config.train.batch_size", train.batch_size, self.mesh, train.accumulate
        )

    def check_training(self) -> None:
        """Raise if these devices cannot train, or cannot draw what training asks for at its end.

        Raises:
          UserError: a kernel needs other devices, or there is too little memory.
        """
        self.check_batch()
        self.check_kernels()
        config, train, mesh = self.config, self.config.train, self.mesh
        memory.check(
            self._step_in_words,
            memory.training(
                abstract_state(self.make_model, self.tx, mesh, train.ema_decays),
                self.model,
                min(self.training_rates),
                train.batch_size,
                train.accumulate,
                mesh,
                teachers=self.teachers,
            ),
            mesh,
            SMALLER,
        )
        counts = {"sample": config.sample.count, "evaluate": config.evaluate.samples}
        drawn = [min(config.sample.batch_size, counts[name]) for name in train.then]
        if train.evaluate_every:
            drawn.append(min(config.sample.batch_size, train.evaluate_samples))
        if drawn:
            what = f"{max(drawn)} images at once (config.sample.batch_size)"
            needs = memory.sampling([self.model], max(drawn), 0, mesh)
            memory.check(f"Drawing {what}", needs, mesh, "lower it")
            if self.autoencoder is not None:
                chunk = config.autoencoder.chunk
                needs = memory.decoding([self.model], self.autoencoder, max(drawn), chunk, 0, mesh)
                memory.check(
                    f"Decoding {what}", needs, mesh, "lower it, or config.autoencoder.chunk"
                )

    def check_kernels(self) -> None:
        """Raise if the network asks for kernels that these devices do not run."""
        platform, asked = self.mesh.devices.flat[0].platform, self.config.model.attention
        needed, devices, hint = KERNELS.get(asked, (platform, "", ""))
        if platform != needed:
            raise UserError(
                f"config.model.attention={asked!r} is for {devices}, but these devices are "
                f"{platform}: set it to 'auto' or 'xla'.{hint}"
            )

    def batches(self, source: Source, **reading: int) -> grain.DatasetIterator:
        """Return this process's endless training batches; see `data.pipeline.train_iterator`.

        Args:
          source: the training images.
          reading: `workers` and `threads`, if they differ from the config's.
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
            wording=self.wording,
            **{"workers": data.workers, "threads": data.threads, **reading},
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """H, W and C of a drawing."""
        return decoding.shape(self.model, self.autoencoder)

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of `programs.sampling.sample` that the config gives, except the guidance."""
        sample = self.config.sample
        return dict(
            steps=sample.steps,
            seed=self.config.seed,
            batch_size=sample.batch_size,
            chunk=sample.chunk,
            mesh=self.mesh,
            sampler=self.sampler,
            pixels=self.pixels,
            autoencoder=self.autoencoder,
            decode_chunk=self.config.autoencoder.chunk,
        )

    def rates_at(self, step: int) -> Rates:
        """Return the sparsity rates that training step `step`, counted from 1, draws from."""
        begun = [gamma for first, gamma in self.config.train.gammas if first < step]
        return as_rates(begun[-1]) if begun else self.objective.drawn

    @property
    def heldout_rates(self) -> Rates:
        """The sparsity rates of the held-out loss, the same at every step.

        Losses at different rates cannot be compared. So the last rate of `config.train.gammas`, at
        which training ends, is used from the beginning. It does not depend on the number of steps,
        since a run may be trained for longer.
        """
        gammas = self.config.train.gammas
        return as_rates(gammas[-1][1]) if gammas else self.objective.drawn

    @property
    def training_mixes(self) -> tuple[Rates, ...]:
        """The rates that training steps draw from, each once, in the order of the steps."""
        train = self.config.train
        first_steps = (1, *(int(first) + 1 for first, _ in train.gammas))
        return tuple(dict.fromkeys(self.rates_at(s) for s in first_steps if s <= train.steps))

    @property
    def training_rates(self) -> tuple[float, ...]:
        """The sparsity rates of the training steps, each once, in the order of the steps."""
        return tuple(dict.fromkeys(rate for mix in self.training_mixes for rate, _ in mix))


def build(config: ConfigDict, devices: Sequence[jax.Device] | int | None = None) -> Experiment:
    """Check a completed config by building what it describes.

    Args:
      config: from `geometry.complete` or `fill_geometry`.
      devices: the devices to run on; all by default. A number means as many that are not here,
        for a dry run.

    Raises:
      UserError: a value is wrong; the first one is reported with its key and what is allowed.
    """
    checked = tree.check(config)
    model = geometry.abstract_model(config)
    sizes = dataclasses.asdict(checked.mesh)
    if isinstance(devices, int):
        mesh = sharding.planned_mesh(devices, **sizes)
    else:
        mesh = sharding.make_mesh(**sizes, devices=devices)
    rules.check(checked, model, mesh)
    steps = checked.train.steps
    optimizer = checked.optimizer
    return Experiment(checked, model, optimizer.make(steps), optimizer.learning_rates(steps), mesh)
