"""Compile a program for TPUs ahead of time, without any, and print what the compiler says of it.

The compiler is the real one (libtpu); only the run is missing.
"""

import json
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sg_jax.config.experiment import Experiment, build
from sg_jax.costs import flops, hlo, kernels
from sg_jax.costs.chips import chip_of, devices_of
from sg_jax.method import guidance as guidance_lib
from sg_jax.method import schedule
from sg_jax.parallel import sharding
from sg_jax.programs.sampling import image_keys, integrate
from sg_jax.programs.training import abstract_state
from sg_jax.runs.files import write_atomically

GIB = 2**30


MEANING = """
What this is: cycles that the TPU compiler expects of each operation when it schedules them, loops
multiplied out, over the chip's clock; of our own kernels, the instructions that it schedules, or
what their memory takes if that is more. What it is not: a measurement. Collectives have no cycles
in it: what of them does not run beside other work comes on top, and so do waiting for data, the
host and stragglers. Of two programs it tells well which is faster; of one, about how fast."""


def run(config: ConfigDict, topology: str, purpose: str, json_path: str = "") -> dict[str, Any]:
    """Compile the training or the sampling program of a config and print the report.

    Args:
      config: completed; its `mesh` must fit the topology's devices.
      topology: see `topology.devices_of`.
      purpose: "train": a step of config.train.batch_size images; "sample": the run of
        config.sample.steps steps of config.sample.batch_size images, reported per step.
      json_path: file to write the report to as well; "" for none.

    Returns:
      The report.
    """
    chip, devices = devices_of(topology)
    experiment = build(config, devices)
    if purpose == "sample":
        size = config.sample.batch_size
        sharding.check_batch("config.sample.batch_size", size, experiment.mesh)
    lower, steps = (_lower_train, 1) if purpose == "train" else (_lower_sample, config.sample.steps)
    report = {
        "topology": topology,
        "devices": len(devices),
        "mesh": {axis: int(n) for axis, n in experiment.mesh.shape.items()},
        "program": _describe(experiment, purpose),
        "model_flops": _model_flops(experiment, purpose) / len(devices),
    }
    began = time.perf_counter()
    lowered = lower(experiment)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        report |= {"fits": False, **_overflow(str(error)), "hbm_gib": chip.hbm}
    else:
        report["compile_seconds"] = time.perf_counter() - began
        report |= analyse(compiled, topology, report["model_flops"], steps)
    print(render(report), flush=True)
    if json_path:
        write_atomically(json_path, json.dumps(report, indent=1).encode())
    return report


def analyse(compiled, topology: str, model_flops: float, steps: int = 1) -> dict[str, Any]:
    """Return memory, collectives, cycles, time and MFU of a compiled program, per device.

    Args:
      compiled: from `lowered.compile()`.
      topology: that it was compiled for.
      model_flops: of one step on one device.
      steps: how many the program holds; cycles and collectives are reported of one.
    """
    memory, text, chip = compiled.memory_analysis(), compiled.as_text(), chip_of(topology)
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    peak = sum(parts.values())
    cycles = {kind: n / steps for kind, n in cycles_by_kind(text, topology).items()}
    seconds = sum(cycles.values()) / chip.clock
    return {
        "memory_bytes": parts,
        "peak_gib": peak / GIB,
        "hbm_gib": chip.hbm,
        "fits": peak / GIB <= chip.hbm,
        "collectives": {
            kind: {"count": found.count / steps, "bytes": found.bytes / steps}
            for kind, found in hlo.collectives(text).items()
        },
        "cycles": cycles,
        "step_seconds": seconds,
        "mfu": model_flops / seconds / flops.peak(chip.kind),
    }


def cycles_by_kind(text: str, topology: str, loops_only: bool = False) -> dict[str, float]:
    """Return `hlo.cycles_by_kind`, and under "kernel" those of our kernels."""
    cycles, calls, chip = hlo.cycles_by_kind(text, loops_only), hlo.kernels(text), chip_of(topology)
    if calls:
        each = [(name, *shape) for name, shape in calls]
        found = kernels.count(topology, each, chip.bandwidth / chip.clock)
        cycles["kernel"] = sum(n * c for n, c in zip(calls.values(), found, strict=True))
    return dict(sorted(cycles.items(), key=lambda item: -item[1]))


def render(report: dict[str, Any]) -> str:
    """Return a report as text."""
    mesh = " x ".join(f"{axis} {n}" for axis, n in report["mesh"].items() if n > 1) or "1 device"
    lines = [
        f"{report['program']}, on {report['topology']}: {report['devices']} chips, {mesh}.",
        "",
        "Per chip:",
    ]
    room = report["hbm_gib"] - report["peak_gib"]
    verdict = f"fits, {room:.2f} GiB free" if report["fits"] else f"too much by {-room:.2f} GiB"
    lines.append(
        f"  memory        {report['peak_gib']:9.2f} GiB of {report['hbm_gib']:g}: {verdict}"
    )
    if "cycles" not in report:
        lines.append(
            "\nTry config.model.remat='selective' or 'full', config.train.accumulate=2, more "
            "config.mesh.fsdp or a smaller batch."
        )
        return "\n".join(lines)
    for part, size in report["memory_bytes"].items():
        lines.append(f"    {part:12}{size / GIB:9.2f} GiB")
    lines.append(f"  model FLOPs   {report['model_flops'] / 1e12:9.3f} T (padding not counted)")
    for kind, found in report["collectives"].items():
        lines.append(f"  {kind:14}{found['bytes'] / GIB:8.2f} GiB in {found['count']:.4g}")
    total = sum(report["cycles"].values())
    lines.append(f"  cycles        {total / 1e6:9.2f} M, estimated:")
    for kind, cycles in report["cycles"].items():
        lines.append(f"    {kind:12}{cycles / 1e6:9.2f} M {cycles / total:6.1%}")
    lines += [
        f"  step          {1e3 * report['step_seconds']:9.2f} ms, estimated",
        f"  MFU           {report['mfu']:9.1%} of the bf16 peak, estimated",
        f"  compiled in   {report['compile_seconds']:9.1f} s",
        MEANING,
    ]
    return "\n".join(lines)


def _describe(experiment: Experiment, purpose: str) -> str:
    config, model = experiment.config, experiment.model
    name = f"{type(model).__name__} {config.model.size}".strip()
    if purpose == "train":
        return (
            f"Training step of {name}, γ {experiment.objective.gamma:g}, "
            f"{config.train.batch_size} images, {config.model.dtype}, remat {config.model.remat}"
        )
    setting = experiment.settings[config.sample.guidance]
    return (
        f"Sampling step of {name}, {config.sample.guidance} ({setting.describe()}), "
        f"{config.sample.batch_size} images, {config.model.dtype}, one of {config.sample.steps}"
    )


def _model_flops(experiment: Experiment, purpose: str) -> float:
    config, model = experiment.config, experiment.model
    if purpose == "train":
        gamma = experiment.objective.gamma
        return flops.training_step(model, gamma, config.train.batch_size, full=True)
    run_of = dict(steps=config.sample.steps, sampler=experiment.sampler)
    setting = experiment.settings[config.sample.guidance]
    return config.sample.batch_size * flops.sampling_step(model, setting, full=True, **run_of)


def _lower_train(experiment: Experiment):
    config, model, mesh = experiment.config, experiment.model, experiment.mesh
    state = abstract_state(experiment.make_model, experiment.tx, mesh, config.train.ema_decays)
    batch, shape = config.train.batch_size, (model.image_size, model.image_size, model.channels)
    images = {
        "image": _spread((batch, *shape), jnp.float32, mesh),
        "label": _spread((batch,), jnp.int32, mesh),
    }
    step = experiment.compile_train_step(experiment.objective.gamma, state)
    return step.lower(state, images, _key(mesh))


def _lower_sample(experiment: Experiment):
    config, mesh, steps = experiment.config, experiment.mesh, experiment.config.sample.steps
    setting = experiment.settings[config.sample.guidance]
    plan = guidance_lib.plan(setting, np.asarray(experiment.sampler.times(steps)))
    model = sharding.place(experiment.model, mesh)
    keys = jax.eval_shape(lambda: image_keys(0, 0, config.sample.batch_size))
    return integrate.lower(
        model,
        model if plan.two_networks else None,
        _spread((config.sample.batch_size,), jnp.int32, mesh),
        _spread(keys.shape, keys.dtype, mesh),
        jax.ShapeDtypeStruct(
            (len(schedule.values(setting.scale, steps)),),
            jnp.float32,
            sharding=sharding.replicated(mesh),
        ),
        plan=plan,
        sampler=experiment.sampler,
        steps=steps,
        mesh=mesh,
        chunk=config.sample.chunk,
    )


def _spread(shape, dtype, mesh) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.batch_sharding(mesh))


def _key(mesh) -> jax.ShapeDtypeStruct:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=sharding.replicated(mesh))


def _overflow(message: str) -> dict[str, float]:
    """Return the memory that the compiler says it would need, or raise what it says instead."""
    units = {"G": 1.0, "M": 1 / 1024, "K": 1 / 1024**2}
    found = re.search(r"\(([\d.]+)([GMK])\) exceeds", message) or re.search(
        r"Used ([\d.]+)([GMK]) of", message
    )
    if not found:
        raise RuntimeError(message)
    return {"peak_gib": float(found[1]) * units[found[2]]}
