"""Print the resolved config and its costs, without running anything."""

import math

import jax
from clu import parameter_overview
from etils import epath

from sg_jax.config import geometry
from sg_jax.modes import flops
from sg_jax.modes.base import Job
from sg_jax.weights.checkpoints import named


def run(job: Job) -> list[epath.Path]:
    """Print the resolved config, the parameters and the GFLOPs of each kind of step.

    This is --dry-run, for any mode that has a config; it writes nothing.
    """
    assert job.config is not None
    if not geometry.is_known(job.config):  # of a mode that does not use the network
        print(job.config)
        return []
    model = job.experiment.model
    print(job.config)
    print(parameter_overview.get_parameter_overview(named(model), include_stats=False))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model))
    print(f"Parameters: {count:,}. Tokens: {model.tokens}. Devices: {job.experiment.mesh.size}.\n")
    return flops.run(job)
