"""TPU chips, devices to compile for without having them, and the flags of the compiler."""

import dataclasses
import importlib.util
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from sg_jax.errors import UserError, nearest

# On-chip memory that one fusion may use: 32 MiB, twice the default. By the compiler's estimate,
# SiT-XL/2 samples 5% faster with it on v5e. v4 has no more memory, and its speed does not change.
FLAGS = {"xla_tpu_scoped_vmem_limit_kib": "32768"}


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip: the name of its devices, the HBM that programs get, and its clock."""

    kind: str
    hbm: float  # GiB, as reported by the compiler
    clock: float  # Hz: peak FLOP/s over FLOPs per cycle of the matrix units
    bandwidth: float  # of the HBM, bytes/s
    options: dict[str, str] = dataclasses.field(default_factory=dict)


CHIPS = {
    "v4": Chip("TPU v4", 30.75, 1.05e9, 1.228e12, {"chip_config_name": "megacore"}),
    "v5e": Chip("TPU v5 lite", 15.75, 1.5e9, 0.819e12),
    "v5p": Chip("TPU v5", 95.74, 1.75e9, 2.765e12),
    "v6e": Chip("TPU v6 lite", 31.25, 1.75e9, 1.64e12),
}


def set_flags() -> None:
    """Add our flags to LIBTPU_INIT_ARGS, except those set there already.

    The compiler reads them when jax first uses a TPU, so call this before that.
    """
    given = os.environ.get("LIBTPU_INIT_ARGS", "")
    ours = [f"--{name}={value}" for name, value in FLAGS.items() if name not in given]
    os.environ["LIBTPU_INIT_ARGS"] = " ".join([given, *ours]).strip()


def chip_of(topology: str) -> Chip:
    """Return the chip of a topology that `devices_of` accepts."""
    return next(chip for name, chip in CHIPS.items() if re.search(rf"\b{name}\b", topology))


def devices_of(topology: str) -> tuple[Chip, list[Any]]:
    """Return the chip and the (virtual) devices of a topology such as "v5e:16x16".

    "2*v5e:16x16" means two such slices.

    Raises:
      UserError: there is no such topology, or libtpu is not installed.
    """
    found = re.fullmatch(r"(?:(\d+)\*)?(v\w+):(\d+(?:x\d+)+)", topology)
    if not found or found[2] not in CHIPS:
        raise UserError(
            f"--topology={topology!r} must be like v5e:16x16, or 2*v5e:16x16 for two slices, with "
            f"one of {', '.join(CHIPS)}."
            + nearest(topology, ("v4:4x4x4", "v5e:16x16", "v5p:4x4x4", "v6e:16x16"))
        )
    if not importlib.util.find_spec("libtpu"):
        raise UserError(
            "--mode=aot needs libtpu, the TPU compiler: pip install 'jax[tpu]' (no TPU is needed)."
        )
    jax.config.update("jax_platforms", "cpu")  # the TPUs to compile for are not this host's
    set_flags()
    # Otherwise libtpu looks for a TPU machine around it.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # otherwise only one process at a time
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    chip, slices = CHIPS[found[2]], int(found[1] or 1)
    options = {**chip.options, **({"num_slices": slices} if slices > 1 else {})}
    try:
        described = topologies.get_topology_desc(f"{found[2]}:{found[3]}", "tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--topology={topology!r} is not a topology of TPUs: {reason}") from None
    return chip, list(described.devices)
