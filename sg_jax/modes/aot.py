"""Compile a program for TPUs without a TPU, and print the compiler's estimates.

The compiler is the real one (libtpu); nothing is run.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from sg_jax.config.experiment import Experiment, build
from sg_jax.costs import compiled, flops
from sg_jax.costs.chips import devices_of
from sg_jax.errors import UserError
from sg_jax.method import guidance as guidance_lib
from sg_jax.models.backbone import Backbone
from sg_jax.modes.base import Job, Mode, Option, register
from sg_jax.modes.flops import of_other_runs
from sg_jax.parallel import sharding
from sg_jax.programs.integration import image_keys, integrate
from sg_jax.programs.training import abstract_state
from sg_jax.runs.files import absolute, check_writable, write_atomically
from sg_jax.runs.progress import log

REMEDIES = {  # by purpose, if the memory of a chip is too small
    "train": "config.model.remat='selective' or 'full', config.train.accumulate=2, more "
    "config.mesh.fsdp or a smaller config.train.batch_size",
    "sample": "a smaller config.sample.batch_size or more config.mesh.fsdp",
}


@dataclasses.dataclass(frozen=True)
class Program:
    """A program to compile: its name, how to lower it, and its FLOPs on all devices."""

    text: str
    lower: Callable[[], jax.stages.Lowered]
    model_flops: float  # of one step
    steps: int  # number of its steps


def run(job: Job) -> list[epath.Path]:
    """Compile and print; write the report to --json, if given, and return its path.

    The report is one object, or a list of them if training has several sparsity rates.
    """
    if job.options["json"]:
        file = absolute(job.options["json"])
        check_writable(file.parent)
        if file.is_dir():
            raise UserError(f"--json={job.options['json']} is a folder: give a file.")
    reports = compile_ahead(job, job.options["topology"], job.options["for"])
    if not job.options["json"]:
        return []
    found = reports[0] if len(reports) == 1 else reports
    return [write_atomically(job.options["json"], json.dumps(found, indent=1).encode())]


def compile_ahead(job: Job, topology: str, purpose: str) -> list[dict[str, Any]]:
    """Compile the training or the sampling programs of a config, and print a report of each.

    Args:
      job: with its config, whose `mesh` must fit the topology's devices.
      topology: see `chips.devices_of`.
      purpose: "train": a step of config.train.batch_size images, at each sparsity rate of training;
        "sample": the run of config.sample.steps steps of config.sample.batch_size images, reported
        per step.

    Returns:
      The reports.
    """
    assert job.config is not None
    _, devices = devices_of(topology)
    experiment = build(job.config, devices)
    mesh = {axis: int(n) for axis, n in experiment.mesh.shape.items()}
    reports = []
    programs = _training(experiment) if purpose == "train" else _sampling(experiment, job)
    for program in programs:
        log(f"Compiling for {len(devices)} chips: {program.text} ...")
        flops_each = program.model_flops / len(devices)
        report = {
            "topology": topology,
            "devices": len(devices),
            "mesh": mesh,
            "program": program.text,
            "model_flops": flops_each,
            **compiled.measure(program.lower(), topology, flops_each, program.steps),
        }
        log(compiled.render(report, REMEDIES[purpose]) + "\n")
        reports.append(report)
    if any("cycles" in report for report in reports):
        log(compiled.MEANING.lstrip())
    return reports


def _training(experiment: Experiment) -> list[Program]:
    """Return the training steps at the sparsity rates of training, in their order."""
    experiment.check_batch()
    config, model = experiment.config, experiment.model
    name, size = _name(experiment), config.train.batch_size
    return [
        Program(
            f"Training step of {name}, γ {gamma:g}, {size} images, {config.model.dtype}, "
            f"remat {config.model.remat}",
            functools.partial(_lower_training, experiment, gamma),
            flops.training_step(model, gamma, size, full=True, teacher=experiment.taught),
            steps=1,
        )
        for gamma in experiment.training_rates
    ]


def _sampling(experiment: Experiment, job: Job) -> list[Program]:
    """Return the sampling run of config.sample, as the only program."""
    config, mesh = experiment.config, experiment.mesh
    size, steps = config.sample.batch_size, config.sample.steps
    sharding.check_batch("config.sample.batch_size", size, mesh)
    name, model = config.sample.guidance, experiment.model
    setting = experiment.settings[name]
    found, notes = of_other_runs(job, {name: setting})
    for note in notes:
        log(note)
    weak = found.get(name, model)
    cost = flops.sampling_step(
        model, setting, full=True, steps=steps, sampler=experiment.sampler, weak_model=weak
    )
    text = (
        f"Sampling step of {_name(experiment)}, {name} ({setting.describe()}), "
        f"{size} images, {config.model.dtype}, one of {steps}"
    )
    lower = functools.partial(_lower_sampling, experiment, weak)
    return [Program(text, lower, size * cost, steps)]


def _name(experiment: Experiment) -> str:
    return f"{type(experiment.model).__name__} {experiment.config.model.size}".strip()


def _lower_training(experiment: Experiment, gamma: float) -> jax.stages.Lowered:
    config, model, mesh = experiment.config, experiment.model, experiment.mesh
    state = abstract_state(experiment.make_model, experiment.tx, mesh, config.train.ema_decays)
    batch, shape = config.train.batch_size, (model.image_size, model.image_size, model.channels)
    images = {
        "image": _spread((batch, *shape), jnp.float32, mesh),
        "condition": _conditions(experiment, batch),
    }
    teachers = [sharding.place(model, mesh)] * experiment.teachers
    step: Any = experiment.compile_train_step(gamma, state, *teachers)
    return step.lower(state, images, _key(mesh), *teachers)


def _lower_sampling(experiment: Experiment, weak: Backbone) -> jax.stages.Lowered:
    config, mesh, steps = experiment.config, experiment.mesh, experiment.config.sample.steps
    setting = experiment.settings[config.sample.guidance]
    plan, scales = guidance_lib.plan(setting, experiment.sampler, steps)
    model = sharding.place(experiment.model, mesh)
    keys = jax.eval_shape(lambda: image_keys(0, 0, config.sample.batch_size))
    return integrate.lower(
        model,
        sharding.place(weak, mesh) if plan.two_networks else None,
        _conditions(experiment, config.sample.batch_size),
        _spread(keys.shape, keys.dtype, mesh),
        jax.ShapeDtypeStruct(scales.shape, scales.dtype, sharding=sharding.replicated(mesh)),
        plan=plan,
        sampler=experiment.sampler,
        steps=steps,
        mesh=mesh,
        chunk=config.sample.chunk,
    )


def _conditions(experiment: Experiment, count: int) -> Any:
    """Return the shapes of the conditions of `count` images."""

    def shape(x: Any) -> jax.ShapeDtypeStruct:
        return _spread((count, *x.shape[1:]), x.dtype, experiment.mesh)

    return jax.tree.map(shape, experiment.blank(1))


def _spread(shape: tuple[int, ...], dtype: Any, mesh: Mesh) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.batch_sharding(mesh))


def _key(mesh: Mesh) -> jax.ShapeDtypeStruct:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=sharding.replicated(mesh))


MODE = register(
    Mode(
        "aot",
        "compile for TPUs without a TPU: memory, cycles, step time",
        run,
        workdir=False,
        data=False,
        alone=True,
        writes=(),
        options=(
            Option("topology", "such as v5e:16x16, or 2*v5e:16x16 for two slices", required=True),
            Option(
                "for",
                "what to compile: train or sample",
                default="train",
                choices=("train", "sample"),
            ),
            Option("json", "file for the report"),
        ),
    )
)
