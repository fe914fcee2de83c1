"""Score a grid of gamma_strong x gamma_weak x omega, as in the paper's Figures 6, 8 and A1.

workdir/scores.csv         one row per cell; what is there is not drawn again
workdir/sweep_METRIC.png   one panel per omega
workdir/sweep_cost.png     Fréchet distance against cost, with the Pareto front
"""

import math

import numpy as np
from etils import epath

from sg_jax.config.experiment import Experiment
from sg_jax.data.sources import Source
from sg_jax.errors import UserError
from sg_jax.evaluation import measure, plots, results, scoring, table
from sg_jax.evaluation.table import Measured
from sg_jax.method.guidance import Guidance
from sg_jax.parallel import processes
from sg_jax.runs import files
from sg_jax.weights import checkpoints

METRICS = ("frechet", "precision", "recall", "accuracy")


def run(experiment: Experiment, source: Source, workdir: str) -> list[epath.Path]:
    """Score each cell of `config.sweep` that scores.csv lacks, and plot them all.

    All processes draw; the writer scores and writes while they wait.

    Args:
      experiment: the run's objects.
      source: the training images, which the samples are compared with.
      workdir: folder of the run.

    Returns:
      Paths of scores.csv and of the pictures; of these only in the writer.

    Raises:
      UserError: a bad value in `config.sweep`, or a scores.csv that is none; before any sampling.
    """
    config = experiment.config
    grid = cells(experiment)
    step = checkpoints.saved_steps(workdir)[-1]
    judge = scoring.open_judge(config, source, workdir) if processes.is_writer() else None
    found = measure.run(
        experiment,
        judge,
        workdir,
        grid,
        samples=config.sweep.samples,
        seeds=(config.seed,),
        step=step,
    )
    folder = files.path(workdir)
    paths = [folder / table.NAME]
    if judge is not None:
        paths += _plot(experiment, {g: found.scores[g][0] for g in grid}, folder)
    processes.barrier("sweep written")
    return paths


def cells(experiment: Experiment) -> list[Guidance]:
    """Return the grid of `config.sweep`, omega innermost: two omegas share one compiled program.

    Raises:
      UserError: an axis that is empty, or holds a value twice or one that guidance does not take.
    """
    config = experiment.config.sweep
    axes = {name: config[name] for name in ("gamma_strong", "gamma_weak", "scale")}
    for name, values in axes.items():
        numbers = all(isinstance(v, int | float) and math.isfinite(v) for v in values)
        if not values or not numbers or len(set(values)) < len(values):
            raise UserError(
                f"config.sweep.{name}={values!r} must be one or more numbers, none of them twice, "
                f"such as (0.0, 0.5)."
            )
    if config.samples < 10:
        raise UserError(f"config.sweep.samples={config.samples} must be at least 10.")
    try:
        return [
            Guidance(
                scale=float(scale),
                gamma_strong=float(strong),
                gamma_weak=float(weak),
                weak_label=config.weak_label,
            )
            for strong in axes["gamma_strong"]
            for weak in axes["gamma_weak"]
            for scale in axes["scale"]
        ]
    except UserError as error:
        raise UserError(str(error).replace("guidance.", "config.sweep.", 1)) from None


def _plot(experiment: Experiment, found: dict[Guidance, Measured], folder: epath.Path):
    """Return the paths of a heatmap per metric and of the cost picture."""
    config, columns = experiment.config, {c.field: c for c in results.COLUMNS}
    scales, strong, weak = (config.sweep[n] for n in ("scale", "gamma_strong", "gamma_weak"))
    shape = (len(strong), len(weak), len(scales))
    order = (2, 0, 1)  # panels by omega, gamma_strong upwards, gamma_weak to the right

    def axis(values):
        return np.reshape(values, shape).transpose(order)  # [scales, strong, weak]

    unguided = axis([not g.guided for g in found])
    paths = []
    for metric in METRICS:
        values = axis([getattr(m, metric) for m in found.values()])
        figure = plots.heatmaps(values, unguided, scales, strong, weak, columns[metric])
        paths.append(plots.save(figure, folder / f"sweep_{metric}.png"))
    figure = plots.cost_quality(
        [m.gflops_per_step for m in found.values()],
        [m.frechet for m in found.values()],
        [g.scale if g.guided else None for g in found],
        [g.describe() for g in found],
        columns["gflops_per_step"],
        columns["frechet"],
    )
    return [*paths, plots.save(figure, folder / "sweep_cost.png")]
