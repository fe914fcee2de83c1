"""How long some FLOPs would take: on named chips, at an assumed share of their peak."""

import dataclasses
import os
import re

import jax

from sg_jax.costs import flops
from sg_jax.costs.chips import CHIPS
from sg_jax.errors import UserError, nearest, shown

SHARE = 0.4  # of the peak, assumed; the TPU compiler's own estimates are higher (tests/benchmarks)
CORE = "cpu"
CORE_PEAK = 80e9  # FLOP/s of a CPU core: 32 per cycle (AVX2) at 2.5 GHz
MOST = 1_000_000  # chips
GPUS = ("A100", "H100", "H200")
EXACT = 1 / 6  # of the bfloat16 peak: TPUs multiply float32 exactly in six passes
TENSOR32 = 1 / 2  # of the bfloat16 peak: float32 products on GPUs by default (TF32)
EXACT_ON = {"A100": 19.5e12, "H100": 67e12, "H200": 67e12}  # FLOP/s without tensor cores; vendors'


@dataclasses.dataclass(frozen=True)
class Machine:
    """Some chips of one kind.

    Attributes:
      kind: name of the device, as in `flops.PEAKS`, or `CORE`.
      number: of chips, or of cores.
      share: share of the peak that programs are assumed to reach.
    """

    kind: str
    number: int
    share: float = SHARE

    def rate(self, dtype: str = "bfloat16", exact: bool = False) -> float:
        """Return the assumed FLOP/s of all chips together; see `peak`."""
        return self.number * self.share * self.peak(dtype, exact)

    @property
    def device(self) -> "Machine":
        """One of its devices: a chip, or all cores of a CPU."""
        return self if self.kind == CORE else dataclasses.replace(self, number=1)

    def peak(self, dtype: str = "bfloat16", exact: bool = False) -> float:
        """Return the most FLOP/s of a chip.

        Args:
          dtype: the type of the products' factors.
          exact: whether factors of float32 keep all their digits, as autoencoders' do; otherwise
            devices round them.
        """
        peak = CORE_PEAK if self.kind == CORE else flops.peak(self.kind)
        assert peak is not None, self.kind
        gpu = next((name for name in GPUS if name in self.kind), None)
        if dtype != "float32" or self.kind == CORE:
            return peak
        if exact:
            peak = EXACT_ON[gpu] if gpu else peak * EXACT
        elif gpu:
            peak *= TENSOR32
        return peak

    def __str__(self) -> str:
        name = next((name for name, chip in CHIPS.items() if chip.kind == self.kind), self.kind)
        name = "CPU core" if name == CORE else name
        return f"{self.number:,} x {name} at {self.share:.0%} of {speed(self.peak())}, assumed"


def machine(text: str = "", share: float = SHARE) -> Machine:
    """Return the chips that a text names, or those of this machine, or else its CPU's cores.

    Args:
      text: such as "16*v5e", "v5e:4x4", "2*v5e:16x16" (as for `--mode aot`), "8*H100" or "4*cpu".
      share: of the peak.

    Raises:
      UserError: there is no such chip, or a number is out of range.
    """
    if not 0 < share <= 1:
        raise UserError(f"--mfu={share:g} must be above 0 and at most 1: a share of the peak.")
    if not text:
        kind = jax.devices()[0].device_kind
        if flops.peak(kind):
            return Machine(kind, jax.device_count(), share)
        return Machine(CORE, os.cpu_count() or 1, share)
    known = {name: chip.kind for name, chip in CHIPS.items()} | {n: n for n in (*GPUS, CORE)}
    found = re.fullmatch(r"(?:(\d{1,9})\*)?(\w+)(?::(\d{1,6}(?:x\d{1,6})*))?", text)
    if not found or found[2] not in known:
        raise UserError(
            f"--chips={shown(text)} must be like 16*v5e, v5e:4x4 or 8*H100, with one of "
            f"{', '.join(known)}." + nearest(text, ["16*v5e", "8*H100", *known])
        )
    number = int(found[1] or 1)
    for side in (found[3] or "1").split("x"):
        number *= int(side)
    if not 1 <= number <= MOST:
        raise UserError(f"--chips={shown(text)} means {number:,} chips: give 1 to {MOST:,}.")
    return Machine(known[found[2]], number, share)


def speed(rate: float) -> str:
    """Return FLOP/s in words, such as "197 TFLOP/s"."""
    return f"{rate / 1e12:.3g} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.3g} GFLOP/s"


def words(seconds: float) -> str:
    """Return a duration in words, such as "2.1 days"."""
    units = (("years", 365.25 * 86400.0), ("days", 86400.0), ("h", 3600.0), ("min", 60.0))
    for unit, size in units:
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
