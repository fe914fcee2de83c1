"""Tune every method of guidance by one rule: the best settings at each cost of a run.

workdir/scores.csv     every drawing; those in it are not drawn again
workdir/tune.csv       every setting that was tried, and every score of the best ones
workdir/tune.md        the best of each method and budget, and what they gain over no guidance
workdir/tune.json      the same for programs
workdir/tune.png       quality over cost, a line per method
workdir/tune_grid.png  images of each method at the middle budget

    python -m sg_jax.main --mode tune --join RUN... --out DIR

writes DIR/tune.md, tune.json and tune.png: the means over several runs that were tuned alike.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from sg_jax.config import record, tree, trust, tuples
from sg_jax.config.experiment import Experiment
from sg_jax.config.sections import Config
from sg_jax.costs.machines import Machine
from sg_jax.data.sources import Source
from sg_jax.errors import UserError
from sg_jax.evaluation import (
    captioned,
    measure,
    pictures,
    scoring,
    style,
    table,
    trials,
    tuned,
    tuned_figures,
    tuned_rows,
    tuned_tables,
    tuning,
)
from sg_jax.evaluation.tuned_rows import Row
from sg_jax.method import checks
from sg_jax.method.candidates import UNGUIDED, title
from sg_jax.method.guidance import Guidance
from sg_jax.modes.base import Job, Mode, Option, register, weak_paths
from sg_jax.modes.dry_draw import costs_of, judged
from sg_jax.modes.dry_parts import Lines, gflops
from sg_jax.parallel import processes
from sg_jax.runs import files
from sg_jax.runs.progress import counted, log
from sg_jax.weights import checkpoints, weak_networks

OPTIONS = (
    Option("join", "runs that were tuned alike: their mean and spread", many=True),
    Option("out", "folder for what --join finds", written=True),
)


def run(job: Job) -> list[epath.Path]:
    """Tune the run of a job, or join several; return the paths that were written."""
    runs, out = job.options["join"], job.options["out"]
    if bool(runs) != bool(out):
        raise UserError("--join RUN... and --out DIR belong together: give both, or neither.")
    if runs:
        if any(files.same(out, each) for each in runs):
            raise UserError(f"--out {out} is one of the runs, whose tables would be overwritten.")
        rows = tuned_rows.joined(runs)
        return write(out, rows, notes=list(filter(None, [trials.off_budget(_reported(rows))])))
    assert job.source is not None
    return tune(job.drawing, job.source, job.workdir)


def _reported(rows: Sequence[Row]) -> list[trials.Trial]:
    """Return the trials that the report of several runs is about."""
    found = [
        trials.Trial(r.method, r.key.guidance, r.budget, r.key.steps, r.cost)
        for r in rows
        if r.stage == tuned_rows.REPORT
    ]
    return list(dict.fromkeys(found))


def tune(experiment: Experiment, source: Source, workdir: str) -> list[epath.Path]:
    """Try `config.tune.settings` settings of each method at each budget, and report the best.

    All processes draw; the writer scores and writes.

    Args:
      experiment: the run's objects.
      source: the training images, which the samples are compared with.
      workdir: folder of the run.

    Returns:
      The paths of the files above.

    Raises:
      UserError: a method has too few settings, or the metric is not measured; raised before any
        sampling.
    """
    config = experiment.config
    step = checkpoints.chosen_step(config.evaluate.step, workdir)
    trials.metric_of(config)
    if config.tune.winners and files.same(config.tune.winners, workdir):
        raise UserError(
            f"config.tune.winners={config.tune.winners!r} is this run itself, whose search would "
            "be overwritten: name another run, or leave it empty."
        )
    found, notes = _trials(
        experiment, lambda setting: measure.resolved(experiment, setting, workdir, step, tell=False)
    )
    notes += [text] if (text := trials.off_budget(found)) else []
    for note in notes:
        log(note)
    judge = scoring.open_judge(config, source, workdir, experiment.image_shape[0])
    samples = config.tune.report_samples
    shown = captioned.shown_of(experiment, source, config.evaluate.columns, samples)
    folder = files.path(workdir)
    rows, images = tuning.run(
        experiment,
        judge,
        workdir,
        found,
        step=step,
        shown=shown,
        searched=lambda rows: tuned_rows.write(workdir, rows),
    )
    paths = [folder / table.NAME]
    if processes.is_writer():
        paths += [
            tuned_rows.write(workdir, rows),
            *write(workdir, rows, _base(experiment, workdir, step), notes),
        ]
        middle = tuning.middle(config.tune)
        winners = {w.method: w for w in tuned.winners(rows) if w.budget == middle}
        labels = [f"{title(m)}\n{winners[m].settings}\n{winners[m].steps} steps" for m in images]
        if images:
            picture = pictures.grid(
                np.stack(list(images.values())),
                row_labels=labels,
                column_labels=captioned.headings(
                    experiment, source, shown, samples, config.tune.report_seeds[0]
                ),
            )
            picture = pictures.credited(picture, experiment.config.data.name)
            paths.append(pictures.save_png(picture, folder / "tune_grid.png"))
    processes.barrier("tuning written")
    return paths


def _trials(
    experiment: Experiment, able: Callable[[Guidance], Guidance]
) -> tuple[list[trials.Trial], list[str]]:
    """Return the trials, or another run's best settings; and sentences on what is not tried."""
    if experiment.config.tune.winners:
        return trials.winners(experiment, able), []
    settings, notes = trials.candidates(experiment.config, able)
    return trials.trials(experiment, settings), notes


def _base(experiment: Experiment, workdir: str, step: int) -> tuned_tables.Base:
    """Return what the run in a folder draws with if its flags do not say otherwise."""
    config, settings = experiment.config, [experiment.settings]
    more: dict[str, Any] = {}
    if record.is_run(workdir):
        saved, _ = record.read(workdir)
        settings.append(tree.settings(saved))
        sampler = vars(experiment.sampler).items()
        more = {f"sampler.{n}": v for n, v in sampler if v != saved.sampler[n]}
    if config.evaluate.step:
        more |= {"sample.checkpoint": step, "evaluate.step": step}
    return tuned_tables.Base(settings, more)


def write(
    workdir: str | os.PathLike,
    rows: Sequence[Row],
    base: tuned_tables.Base = tuned_tables.NO_FLAGS,
    notes: Sequence[str] = (),
) -> list[epath.Path]:
    """Print the best of each budget, and write tables and curves; return their paths.

    Args:
      workdir: the folder to write to.
      rows: of one run, or of several.
      base: of the one run; see `tuned_tables.flags`.
      notes: sentences for the page.
    """
    folder = files.path(workdir)
    log(tuned_tables.terminal(rows, base))
    text = tuned_tables.markdown(rows, base, notes)
    figure = tuned_figures.curves(tuned.winners(rows), tuned_rows.columns(rows))
    return [
        files.write_atomically(folder / "tune.md", text.encode()),
        files.write_atomically(folder / "tune.json", tuned_tables.as_json(rows, base)),
        style.save(figure, folder / "tune.png"),
    ]


def _paths(config: Config, workdir: str) -> list[str]:
    named = [name for _, names in config.tune.candidates for name in names if name != tuples.OTHERS]
    return ["autoencoder.path", "tune.winners", *trust.JUDGES, *weak_paths(named)]


def _dry(job: Job, on: Machine) -> Lines:
    experiment, tune = job.experiment, job.experiment.config.tune
    trials.metric_of(experiment.config)
    begun = bool(job.workdir and checkpoints.steps_of(job.workdir))
    asked = experiment.config.evaluate.step
    step = checkpoints.chosen_step(asked, job.workdir) if begun else None

    def able(setting: Guidance) -> Guidance:
        if step is not None:
            return measure.resolved(experiment, setting, job.workdir, step, tell=False)
        weak = weak_networks.likely_shapes(setting, experiment.model)
        checks.check_setting(experiment.model, setting, weak)
        return table.canonical(setting)

    found, notes = _trials(experiment, able)
    methods = dict.fromkeys(t.method for t in found)
    best = {(t.method, t.budget): t for t in found}  # or another one of the same budget
    whole = sum(costs_of(job, {UNGUIDED: Guidance()}).values())
    budgets = ", ".join(f"{budget:g}" for budget in tune.budgets)
    yield (
        "compute",
        f"{len(methods)} methods ({', '.join(methods)}), "
        f"{1 if tune.winners else tune.settings} settings of each, "
        f"budgets of {budgets} times {gflops(whole)} per image, {min(t.steps for t in found)} to "
        f"{max(t.steps for t in found)} steps",
    )
    work, images, rows = 0.0, 0, 0
    for name, each, samples, seeds in (
        ("search", [] if tune.winners else found, tune.samples, tune.seeds),
        ("report", list(best.values()), tune.report_samples, tune.report_seeds),
    ):
        drawings = len(each) * len(seeds)
        yield (
            "compute",
            f"{name}: {counted(drawings, 'drawing')} of {samples:,} images, "
            f"{drawings * samples:,} images",
        )
        work += sum(t.cost for t in each) * whole * samples * len(seeds)
        images += drawings * samples
        rows += drawings
    yield from judged(job, on, work, images)
    yield (
        "write",
        f"{rows:,} rows of scores.csv; tune.csv, tune.md, tune.json, and pictures of them",
    )
    for note in [*notes, *([text] if (text := trials.off_budget(found)) else [])]:
        yield "note", note


MODE = register(
    Mode(
        "tune",
        "find the best settings of each method of guidance at equal cost, by one rule for all",
        run,
        same="scored",
        pixels=True,
        unless=("join",),
        options=OPTIONS,
        dry=_dry,
        writes=("", "samples/scored"),
        paths=_paths,
    )
)
