"""How tests compile: fast, because they hardly compute."""

import importlib.util
import mmap
import pathlib

WISHES = {  # each roughly halves the time that compiling takes
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": "false",
}


def known(flags):
    """Return those flags that this jaxlib has; any other one in XLA_FLAGS would end the process."""
    package = pathlib.Path(importlib.util.find_spec("jaxlib").origin).parent
    with (package / "libjax_common.so").open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
            return [flag for flag in flags if code.find(flag.encode()) >= 0]


FAST = " ".join(f"--{flag}={WISHES[flag]}" for flag in known(WISHES))  # for XLA_FLAGS
