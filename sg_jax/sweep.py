"""Score a grid of gamma_strong x gamma_weak x omega, as in the paper's Figures 6, 8 and A1.

    workdir/sweep.csv          one row per cell; what is there is not drawn again
    workdir/sweep_METRIC.png   one panel per omega
    workdir/sweep_cost.png     Fréchet distance against cost, with the Pareto front

A row holds for the weights of its checkpoint: after training again from the start, delete the file.
"""

import csv
import dataclasses
import functools
import io
import math

import numpy as np
from etils import epath

from sg_jax import checkpoint, distributed, files, flops
from sg_jax.data.sources import Source
from sg_jax.errors import UserError
from sg_jax.evaluation import plots, results, scoring
from sg_jax.experiment import Experiment
from sg_jax.generate import sample
from sg_jax.guidance import Guidance
from sg_jax.sampler import Sampler
from sg_jax.writers import Progress, log

METRICS = ("frechet", "precision", "recall", "accuracy")


@dataclasses.dataclass(frozen=True)
class Key:
    """All that a cell's scores depend on."""

    gamma_strong: float
    gamma_weak: float
    scale: float
    weak_label: str
    sampler: str
    steps: int
    samples: int
    references: int  # real images compared with
    seed: int
    checkpoint: int  # its step


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is measured of a cell; see `results.SettingResult` for the units."""

    frechet: float
    precision: float
    recall: float
    accuracy: float
    gflops_per_step: float
    images_per_second: float


Table = dict[Key, Measured]


def run(experiment: Experiment, source: Source, workdir: str) -> list[epath.Path]:
    """Score each cell of `config.sweep` that sweep.csv lacks, and plot them all.

    All processes draw; the writer scores and writes while they wait.

    Args:
      experiment: the run's objects.
      source: the training images, which the samples are compared with.
      workdir: folder of the run.

    Returns:
      Paths of sweep.csv and of the pictures; of these only in the writer.

    Raises:
      UserError: a bad value in `config.sweep`, or a sweep.csv that is none; before any sampling.
    """
    config, folder = experiment.config, files.path(workdir)
    grid = cells(experiment)
    path = folder / "sweep.csv"
    table = read_table(path)
    step = checkpoint.saved_steps(workdir)[-1]
    writer = distributed.is_writer()
    judge = scoring.open_judge(config, source, folder / "classifier.npz") if writer else None
    keys = {
        guidance: Key(
            guidance.gamma_strong,
            guidance.gamma_weak,
            guidance.scale,
            guidance.weak_label,
            _words(experiment.sampler),
            config.sample.steps,
            config.sweep.samples,
            len(judge.reference) if writer else 0,
            config.seed,
            step,
        )
        for guidance in grid
    }
    # Where nothing guides, omega and gamma_weak change nothing: such cells share one drawing.
    shared: dict[tuple, list[Guidance]] = {}
    for g in grid:
        shared.setdefault((*_program(g), g.scale if g.guided else 1.0), []).append(g)
    for group in shared.values():
        found = [table[keys[g]] for g in group if keys[g] in table]
        table.update({keys[g]: found[0] for g in group if found})
    # The writer says what is left: others may read the file a row later, and draw nothing alone.
    missing = distributed.from_writer([int(keys[g] not in table) for g, *_ in shared.values()])
    left = [group for group, m in zip(shared.values(), missing, strict=True) if m]
    log(f"Sweep: {len(grid)} cells by {len(shared)} drawings, {len(left)} of them left to do.")
    if left:
        _measure(experiment, judge, checkpoint.load(workdir, step, mesh=experiment.mesh),
                 left, keys, table, path)  # fmt: skip
    paths = [path]
    if writer:
        write_table(path, table)
        paths += _plot(experiment, {g: table[keys[g]] for g in grid}, folder)
    distributed.barrier("sweep written")
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


def read_table(path: epath.Path) -> Table:
    """Return the rows of sweep.csv, {} without one; a last line cut short is left out.

    Raises:
      UserError: other columns, or a line that is no row.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    table = {}
    for number, row in enumerate(csv.reader(io.StringIO(whole)), start=1):
        if number == 1:
            if row != _names(Key) + _names(Measured):
                raise UserError(f"{path} has other columns than this version's: move it away.")
            continue
        try:
            count = len(_names(Key))
            table[_parse(Key, row[:count])] = _parse(Measured, row[count:])
        except ValueError as error:
            raise UserError(f"{path}, line {number} is no row of a sweep: {error}.") from None
    return table


def write_table(path: epath.Path, table: Table) -> None:
    """Write all rows, whole or not at all; floats read back as the same number."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_names(Key) + _names(Measured))
    for key, measured in table.items():
        writer.writerow([*dataclasses.astuple(key), *dataclasses.astuple(measured)])
    files.write_atomically(path, buffer.getvalue().encode())


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _parse(kind: type, texts: list[str]):
    fields = dataclasses.fields(kind)
    return kind(*(field.type(text) for field, text in zip(fields, texts, strict=True)))


def _measure(experiment, judge, model, groups, keys, table: Table, path: epath.Path) -> None:
    """Draw and score one image set per group of cells; write each as soon as it is there."""
    config = experiment.config
    labels = np.resize(np.arange(model.num_classes), config.sweep.samples)
    progress = Progress(0, len(groups), len(labels), unit="cell")
    compiled = None
    for done, group in enumerate(groups, start=1):
        guidance = group[0]
        draw = functools.partial(
            sample,
            model,
            guidance=guidance,
            **experiment.sampling,
        )
        if compiled != _program(guidance):
            draw(labels[: config.sample.batch_size])
            compiled = _program(guidance)
        images, rate = scoring.timed(draw, labels, config.sample.batch_size)
        if judge is None:  # not the writer
            continue
        measured = Measured(
            **dataclasses.asdict(judge.score(images, labels)),
            gflops_per_step=flops.sampling_step(model, guidance) / 1e9,  # constant rates
            images_per_second=rate,
        )
        table.update({keys[g]: measured for g in group})
        write_table(path, table)
        progress.update(done, frechet=measured.frechet, accuracy=measured.accuracy)


def _words(sampler: Sampler) -> str:
    """Return a sampler's name and what of it is not the default, such as "euler shift=3.0"."""
    default = Sampler()
    fields = [f.name for f in dataclasses.fields(sampler)[1:]]
    changed = [n for n in fields if getattr(sampler, n) != getattr(default, n)]
    return " ".join([sampler.name, *(f"{n}={getattr(sampler, n)}" for n in changed)])


def _program(guidance: Guidance) -> tuple[float, ...]:
    """Return what of a cell a compile depends on."""
    strong, weak = guidance.gamma_strong, guidance.gamma_weak
    return (strong, weak) if guidance.guided else (strong,)


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
