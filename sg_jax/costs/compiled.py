"""What a program compiled for TPUs costs: memory, collectives, cycles and time per device."""

import importlib.metadata
import re
import time
from typing import Any

import jax

from sg_jax.costs import flops, hlo, kernels
from sg_jax.costs.chips import chip_of
from sg_jax.errors import UserError, one_line

GIB = 2**30
MEANING = """
What this is: the cycles that the TPU compiler expects each operation to take when it schedules
them, with loops multiplied out, divided by the chip's clock. For our own kernels it is the number
of instructions that the compiler schedules, or the time of their memory traffic if that is longer.
What it is not: a measurement. Collectives have no cycles here: the part of them that does not
overlap with other work comes on top, and so do waiting for data, the host and stragglers. It shows
reliably which of two programs is faster, and roughly how fast one is."""


def measure(
    lowered: jax.stages.Lowered, topology: str, model_flops: float, steps: int = 1
) -> dict[str, Any]:
    """Compile a program and return `analyse` of it, with the seconds that compiling took.

    If it does not fit, return only that and the memory that the compiler says it would need.

    Args:
      lowered: the program, for the devices of `topology`.
      topology: see `chips.devices_of`.
      model_flops: FLOPs of one step on one device.
      steps: how many steps the program has.
    """
    began = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return {"fits": False, **overflow(str(error)), "hbm_gib": chip_of(topology).hbm}
    seconds = time.perf_counter() - began
    return {"compile_seconds": seconds, **analyse(compiled, topology, model_flops, steps)}


def analyse(
    compiled: jax.stages.Compiled, topology: str, model_flops: float, steps: int = 1
) -> dict[str, Any]:
    """Return memory, collectives, cycles, time and MFU of a compiled program, per device.

    Args:
      compiled: from `lowered.compile()`.
      topology: the one that it was compiled for.
      model_flops: FLOPs of one step on one device.
      steps: how many steps the program has; cycles and collectives are reported for one.
    """
    memory: Any = compiled.memory_analysis()
    text, chip = _text(compiled), chip_of(topology)
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    peak, peak_flops = sum(parts.values()), flops.peak(chip.kind)
    assert peak_flops, f"no peak is known for {chip.kind}"
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
        "mfu": model_flops / seconds / peak_flops,
    }


def _text(compiled: jax.stages.Compiled) -> str:
    """Return a program's HLO; raise a UserError if jax cannot read what the compiler wrote."""
    try:
        return compiled.as_text() or ""
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"jax {jax.__version__} cannot read the program that libtpu "
            f"{importlib.metadata.version('libtpu')} compiled ({one_line(error)}): install the "
            "matching libtpu, with pip install 'jax[tpu]'."
        ) from None


def cycles_by_kind(text: str, topology: str, loops_only: bool = False) -> dict[str, float]:
    """Return `hlo.cycles_by_kind`, and under "kernel" the cycles of our kernels."""
    cycles: dict[str, float] = {**hlo.cycles_by_kind(text, loops_only)}
    calls, chip = hlo.kernels(text), chip_of(topology)
    if calls:
        found = kernels.count(topology, list(calls), chip.bandwidth / chip.clock)
        cycles["kernel"] = sum(n * c for n, c in zip(calls.values(), found, strict=True))
    return dict(sorted(cycles.items(), key=lambda item: -item[1]))


def render(report: dict[str, Any], remedy: str) -> str:
    """Return a report of --mode=aot as text; `remedy` is what to do if the memory is too small."""
    mesh = " x ".join(f"{axis} {n}" for axis, n in report["mesh"].items() if n > 1) or "1 device"
    lines = [
        f"{report['program']}, on {report['topology']}: {report['devices']} chips, {mesh}.",
        "",
        "Per chip:",
    ]
    room = report["hbm_gib"] - report["peak_gib"]
    verdict = f"fits, {room:.2f} GiB free" if report["fits"] else f"{-room:.2f} GiB too much"
    lines.append(
        f"  memory        {report['peak_gib']:9.2f} GiB of {report['hbm_gib']:g}: {verdict}"
    )
    if "cycles" not in report:
        lines.append(f"\nTry {remedy}.")
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
    ]
    return "\n".join(lines)


def overflow(message: str) -> dict[str, float]:
    """Return the memory that the compiler asks for; raise its message if it says something else."""
    units = {"G": 1.0, "M": 1 / 1024, "K": 1 / 1024**2}
    found = re.search(r"\(([\d.]+)([GMK])\) exceeds", message) or re.search(
        r"Used ([\d.]+)([GMK]) of", message
    )
    if not found:
        raise RuntimeError(message)
    return {"peak_gib": float(found[1]) * units[found[2]]}
