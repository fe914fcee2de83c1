"""Print what a config resolves to and what it costs, without running anything."""

import math

import jax
from clu import parameter_overview

from sg_jax.config.experiment import Experiment
from sg_jax.modes import flops
from sg_jax.weights.checkpoints import named


def run(experiment: Experiment) -> None:
    """Print the resolved config, the parameters and the GFLOPs of each kind of step."""
    model = experiment.model
    print(experiment.config)
    print(parameter_overview.get_parameter_overview(named(model), include_stats=False))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model))
    print(f"Parameters: {count:,}. Tokens: {model.tokens}. Devices: {experiment.mesh.size}.\n")
    flops.run(experiment)
