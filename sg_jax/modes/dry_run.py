"""Print the resolved config, its costs, and what a mode would do, without doing it."""

import math
import textwrap

import jax
from clu import parameter_overview
from etils import epath

from sg_jax.config import geometry
from sg_jax.costs.machines import Machine
from sg_jax.modes import flops
from sg_jax.modes.base import MODES, Job, Mode
from sg_jax.weights.checkpoints import named

WIDTH = 100  # characters of a line
EXPLANATION = """
Nothing is run or written. FLOPs are counted, 2 per multiply-add. Times are not measurements: they
follow from the FLOPs, at an assumed share of the peak. --chips 16*v5e names other chips, and
--mfu 0.5 another share. They leave out compiling, reading and writing, and small networks or
batches reach a smaller share.
"""


def run(job: Job, mode: Mode, on: Machine) -> list[epath.Path]:
    """Print the config, the parameters, the GFLOPs of each kind of step, and the mode's own lines.

    This is --dry-run, for any mode that has a config; it writes nothing.

    Args:
      job: with its config.
      mode: the mode that is not run.
      on: the chips that times are estimated for.
    """
    assert job.config is not None
    print(job.config)
    if mode.network and geometry.is_known(job.config):
        model = job.experiment.model
        print(parameter_overview.get_parameter_overview(named(model), include_stats=False))
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model))
        devices = job.experiment.mesh.size
        print(f"Parameters: {count:,}. Tokens: {model.tokens}. Devices: {devices}.\n")
        flops.run(job)
    then = job.config.train.then if mode.name == "train" else ()
    for each in (mode, *(MODES[name] for name in then)):
        if each.dry is not None:
            print(f"\nWhat --mode={each.name} would do:")
            for label, text in each.dry(job, on):
                indent = f"  {label:9}"
                lines = textwrap.wrap(
                    text, WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent),
                    break_long_words=False, break_on_hyphens=False,
                )  # fmt: skip
                print("\n".join(lines))
    if mode.dry is not None:
        print(EXPLANATION, end="")
    return []
