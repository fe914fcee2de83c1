"""How tests compile: fast, because they hardly compute."""

import importlib.util
import mmap
import pathlib

WISHES = {  # together they take four fifths off the time that compiling takes
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": "false",
    "xla_cpu_parallel_codegen_split_count": "1",
}


def _known():
    """Return the wishes that this jaxlib has flags for; any other would end the process."""
    package = pathlib.Path(importlib.util.find_spec("jaxlib").origin).parent
    with (package / "libjax_common.so").open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
            return {flag: value for flag, value in WISHES.items() if code.find(flag.encode()) >= 0}


_FLAGS = _known()
FAST = " ".join(f"--{flag}={value}" for flag, value in _FLAGS.items())  # for XLA_FLAGS
FUSED = {flag: True for flag in _FLAGS if "fusion" in flag}  # options of one program: as users have
