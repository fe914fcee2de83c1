"""Score a grid of gamma_strong x gamma_weak x omega, as in the paper's Figures 6, 8 and A1.

workdir/scores.csv         one row per cell; cells in it are not drawn again
workdir/sweep_METRIC.png   one panel per omega
workdir/sweep_cost.png     quality against cost, with the Pareto front
"""

import numpy as np
from etils import epath

from sg_jax.config import trust
from sg_jax.config.experiment import Experiment
from sg_jax.config.measuring import Sweep
from sg_jax.costs.machines import Machine
from sg_jax.data.sources import Source
from sg_jax.evaluation import figures, heatmaps, measure, report, scoring, style, table
from sg_jax.evaluation.figures import Spot
from sg_jax.evaluation.metrics import COST, METRICS, Scores, common_quality, measured
from sg_jax.evaluation.results import SettingResult
from sg_jax.method.guidance import Guidance
from sg_jax.modes import dry_draw
from sg_jax.modes.base import Job, Mode, register
from sg_jax.modes.dry_parts import Lines
from sg_jax.parallel import processes
from sg_jax.runs import files
from sg_jax.runs.progress import log
from sg_jax.weights import checkpoints


def run(job: Job) -> list[epath.Path]:
    """Score the grid of a job; return the paths of scores.csv and of the pictures."""
    assert job.source is not None
    return sweep(job.drawing, job.source, job.workdir)


def sweep(experiment: Experiment, source: Source, workdir: str) -> list[epath.Path]:
    """Score each cell of `config.sweep` that scores.csv lacks, and plot all cells.

    All processes draw; the writer scores and writes while they wait.

    Args:
      experiment: the run's objects.
      source: the training images, which the samples are compared with.
      workdir: folder of the run.

    Returns:
      Paths of scores.csv and, in the writer, of the pictures.

    Raises:
      UserError: the networks cannot run a setting, or scores.csv is invalid; raised before any
        sampling.
    """
    config = experiment.config
    grid = cells(config.sweep)
    step = checkpoints.chosen_step(config.evaluate.step, workdir)
    judge = scoring.open_judge(config, source, workdir, experiment.image_shape[0])
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
    if processes.is_writer():
        cells_found = {g: found.scores[g][0] for g in grid}
        paths += _draw(experiment, cells_found, folder)
        log(summary(cells_found, config.sweep.samples))
    processes.barrier("sweep written")
    return paths


def cells(config: Sweep) -> list[Guidance]:
    """Return the grid, omega innermost: settings that differ only in omega share one program."""
    return [
        Guidance(
            scale=float(scale),
            gamma_strong=float(strong),
            gamma_weak=float(weak),
            weak_label=config.weak_label,
        )
        for strong in config.gamma_strong
        for weak in config.gamma_weak
        for scale in config.scale
    ]


def summary(found: dict[Guidance, Scores], samples: int) -> str:
    """Return a table of the cells that are best by some metric, named by these metrics."""
    grid = list(found)
    wins: dict[Guidance, list[str]] = {}
    for metric in METRICS.values():
        best = metric.winner([found[g].get(metric.name) for g in grid])
        if metric.of_images and best is not None:
            wins.setdefault(grid[best], []).append(metric.header)
    rows = [
        SettingResult(f"best: {', '.join(won)}", g.describe(), found[g], samples)
        for g, won in wins.items()
    ]
    plain = next((g for g in grid if not g.guided and g.gamma_strong == 0), None)
    if plain is not None and plain not in wins:
        rows.append(SettingResult("unguided", plain.describe(), found[plain], samples))
    return f"Best of {len(grid)} settings:\n{report.format_table(rows)}"


def _draw(
    experiment: Experiment, found: dict[Guidance, Scores], folder: epath.Path
) -> list[epath.Path]:
    """Return the paths of a heatmap per metric and of the cost picture."""
    config = experiment.config.sweep
    scales, strong, weak = config.scale, config.gamma_strong, config.gamma_weak
    shape = (len(strong), len(weak), len(scales))
    order = (2, 0, 1)  # panels by omega, gamma_strong upwards, gamma_weak to the right

    def axis(values):
        return np.reshape(values, shape).transpose(order)  # [scales, strong, weak]

    unguided = axis([not g.guided for g in found])
    paths = []
    for metric in METRICS.values():
        values = [scores.get(metric.name) for scores in found.values()]
        if metric.of_images and None not in values and metric.winner(values) is not None:
            figure = heatmaps.heatmaps(axis(values), unguided, scales, strong, weak, metric)
            paths.append(style.save(figure, folder / f"sweep_{metric.name}.png"))
    kinds = {scale: f"ω = {scale:g}" for scale in sorted(scales)}
    # An earlier command may have measured more in some cells.
    spots, ranking = [], common_quality([measured([scores]) for scores in found.values()])
    for guidance, scores in found.items():
        cost, value = scores.get(COST), scores.get(ranking.name)
        if cost is not None and value is not None:
            kind = kinds[guidance.scale] if guidance.guided else "no guidance"
            spots.append(Spot(cost, value, guidance.describe(), kind))
    colours = style.shades(list(kinds.values())) | {"no guidance": style.COLOURS[1]}
    if spots:
        figure = figures.front(spots, METRICS[COST], ranking, colours)
        paths.append(style.save(figure, folder / "sweep_cost.png"))
    return paths


def _dry(job: Job, on: Machine) -> Lines:
    config = job.experiment.config.sweep
    named = {cell.describe(): cell for cell in cells(config)}
    return dry_draw.scores(job, on, named, config.samples, 1)


MODE = register(
    Mode(
        "sweep",
        "score a grid of sparsity rates and scales: heatmaps, the best of each metric",
        run,
        same="scored",
        pixels=True,
        dry=_dry,
        paths=lambda *_: ["autoencoder.path", *trust.JUDGES],
    )
)
