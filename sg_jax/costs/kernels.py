"""Estimate the cycles of our TPU kernels from the schedules that the compiler makes.

The compiler's own estimates leave kernels out. If asked to when it is loaded, it writes down which
instructions a kernel's program runs in each cycle. So this runs in a process of its own.

    python -m sg_jax.costs.kernels v5e:4x4 attention_forward_16 32 128 1152

prints the cycles and bytes of each call as JSON. A call is given by its name, images, tokens and
channels.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

from sg_jax.errors import UserError

Call = tuple[str, tuple[int, ...]]  # name with its heads; images, tokens, channels


def count(topology: str, calls: list[Call], bytes_per_cycle: float) -> list[float]:
    """Return the cycles of each call: of its instructions, or of its memory traffic if more.

    Args:
      topology: see `chips.devices_of`.
      calls: calls of `models.attention_tpu`.
      bytes_per_cycle: bytes of its HBM that a chip reads or writes in a cycle.
    """
    words = [str(word) for name, shape in calls for word in (name, *shape)]
    command = [sys.executable, "-m", "sg_jax.costs.kernels", topology, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the kernels could not be compiled for {topology}:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return [max(cycles, size / bytes_per_cycle) for cycles, size in found]


def _main(topology: str, *words: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        given = os.environ.get("LIBTPU_INIT_ARGS", "")
        os.environ["LIBTPU_INIT_ARGS"] = f"{given} {flags}"
        from sg_jax.costs.chips import devices_of  # it reads the environment

        device = devices_of(topology)[1][0]
        calls = [words[at : at + 4] for at in range(0, len(words), 4)]
        found = [_cycles(device, pathlib.Path(folder), *call) for call in calls]
    print(json.dumps(found))


def _cycles(device: Any, folder: pathlib.Path, name: str, *sizes: str) -> tuple[float, float]:
    """Return the cycles of a call by its instructions, and the bytes that it reads and writes."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from sg_jax.models import attention_tpu

    kernel, heads = name.removeprefix("attention_").split("_")
    images, tokens, channels = map(int, sizes)
    x = jax.ShapeDtypeStruct(
        (images, tokens, channels), jnp.bfloat16, sharding=SingleDeviceSharding(device)
    )
    arrays = [x] * {"forward": 3, "backward": 4}[kernel]

    def call(*arrays: jax.Array) -> Any:
        return getattr(attention_tpu, kernel)(*arrays, int(heads))

    before = set(folder.iterdir()) if folder.exists() else set()
    results = jax.eval_shape(call, *arrays)
    jax.jit(call).lower(*arrays).compile()
    schedules = [
        path
        for path in set(folder.iterdir()) - before
        if name in path.name and path.name.endswith("schedule-analysis_final_bundles.txt")
    ]
    if len(schedules) != 1:
        raise UserError(f"the compiler wrote {len(schedules)} schedules of {name}, not 1.")
    found = re.findall(r"total scheduled bundles:\s+(\d+)", schedules[0].read_text())
    programs = images * attention_tpu.programs(tokens) / (device.num_cores or 1)
    size = sum(y.size * y.dtype.itemsize for y in (*arrays, *jax.tree.leaves(results)))
    return int(found[0]) * programs, size


if __name__ == "__main__":
    _main(*sys.argv[1:])
