"""Print what a config resolves to and what it costs, without running anything."""

import math

import jax
from clu import parameter_overview

from sg_jax import flops
from sg_jax.checkpoint import named
from sg_jax.experiment import Experiment


def run(experiment: Experiment) -> None:
    """Print the resolved config, the parameters and the GFLOPs of each kind of step."""
    config, model = experiment.config, experiment.model
    print(config)
    print(parameter_overview.get_parameter_overview(named(model), include_stats=False))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model))
    print(f"Parameters: {count:,}. Tokens: {model.tokens}. Devices: {experiment.mesh.size}.\n")
    batch, gamma = config.train.batch_size, config.objective.gamma
    print(
        "GFLOPs as the program computes them: the paper's count (multiply-adds, attention products "
        "left out), and in full (2 per multiply-add, attention in)."
    )
    rows = [
        (f"training step, batch {batch}, {name}", *(
            flops.training_step(model, g, batch, full=full) for full in (False, True)
        ))
        for name, g in ((f"γ {gamma:g}", gamma), ("dense", 0.0))
    ]  # fmt: skip
    for name in dict.fromkeys((*config.evaluate.guidance, config.sample.guidance)):
        setting = experiment.settings[name]
        costs = (flops.sampling_step(model, setting, full=full) for full in (False, True))
        rows.append((f"sampling step, one image, {name} ({setting.describe()})", *costs))
    width = max(len(name) for name, *_ in rows)
    print(f"{'':{width}}  {'paper':>12}  {'full':>12}")
    for name, paper, full in rows:
        print(f"{name:{width}}  {paper / 1e9:12.4f}  {full / 1e9:12.4f}")
