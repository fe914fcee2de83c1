"""Measure how well images follow prompts, by GenEval's tasks, under each guidance setting.

workdir/compose.csv        every drawing, by task; those in it are not drawn again
workdir/compose.md         the best scale of each setting, on other seeds
workdir/compose.png        the same as bars
workdir/compose_grid.png   images of some prompts under each setting
workdir/samples/...        all images of the report for other scorers (config.compose.keep)
"""

import numpy as np
from etils import epath

from sg_jax.config.experiment import Experiment
from sg_jax.config.sections import Config
from sg_jax.costs.machines import Machine
from sg_jax.data.asked import tell_cut
from sg_jax.errors import UserError
from sg_jax.evaluation import (
    captioned,
    compose_rows,
    compose_tables,
    composed,
    composing,
    pictures,
    prompts,
    style,
)
from sg_jax.evaluation.clip_score import Clip
from sg_jax.evaluation.prompts import Prompt
from sg_jax.modes.base import Job, Mode, encoder_paths, register, weak_paths
from sg_jax.modes.dry_draw import costs_of
from sg_jax.modes.dry_parts import Lines, gflops, lasting
from sg_jax.modes.sample import recorded
from sg_jax.parallel import processes
from sg_jax.runs import files
from sg_jax.runs.progress import counted, log
from sg_jax.weights import checkpoints, text_encoders

DATA = "shapes"  # the data set whose images can be scored


def run(job: Job) -> list[epath.Path]:
    """Draw and score the prompts of a job; return the paths that were written."""
    return compose(recorded(job).drawing, job.workdir)


def asked(config: Config) -> tuple[list[Prompt], bool]:
    """Return the prompts, and whether the detector of the shapes scores their images.

    Raises:
      UserError: there are no prompts, or their images would be neither scored nor kept.
    """
    own, given = config.data.name == DATA, config.compose
    if not given.prompts and not own:
        raise UserError(
            f"config.compose.prompts is empty, and config.data.name={config.data.name!r} has no "
            "prompts of its own: give a file of prompts, such as GenEval's "
            "evaluation_metadata.jsonl."
        )
    found = prompts.read(given.prompts) if given.prompts else prompts.of_shapes(given.most)
    scores = own and all(prompt.include for prompt in found)
    elsewhere = bool(given.keep or given.clip)
    if scores:
        try:
            composed.check(found)
        except UserError as error:
            if not elsewhere:
                raise UserError(
                    f"{error} To draw it for another scorer, set config.compose.keep."
                ) from None
            scores = False
            log(f"Images are not scored by what they show. {error}")
    elif not elsewhere:
        raise UserError(
            f"The images of config.compose.prompts={given.prompts!r} cannot be scored here: set "
            "config.compose.keep to write them for another scorer, or config.compose.clip."
        )
    if given.scales and not scores:
        raise UserError(
            f"config.compose.scales={given.scales} cannot be compared, because nothing scores the "
            "images here: leave it empty, so that each setting is drawn with its own scale."
        )
    return found, scores


def compose(experiment: Experiment, workdir: str) -> list[epath.Path]:
    """Try the scales of `config.compose`, and report the best of each setting on other seeds.

    All processes draw; the writer scores and writes.

    Args:
      experiment: the run's objects.
      workdir: folder of the run.

    Returns:
      The paths of the files above.
    """
    config = experiment.config
    wording = experiment.wording
    if wording is None:
        raise UserError(
            f"--mode=compose draws prompts, but config.model.kind={config.model.kind!r} reads "
            "class labels: train a network of texts, such as configs/shapes_t2i.py."
        )
    found, scores = asked(config)
    encoder = text_encoders.of_run(config, workdir) if wording.features else None
    texts = [prompt.text for prompt in found]
    cut = encoder.cut(texts) if encoder else map(wording.cuts, texts)
    tell_cut(cut, wording.most)
    step = checkpoints.chosen_step(config.evaluate.step, workdir)
    settings = composing.candidates(experiment, workdir, step)
    clip = Clip(config.compose.clip) if config.compose.clip and processes.is_writer() else None
    composer = composing.Composer(experiment, workdir, found, step, scores, clip, encoder)
    rows, paths = composer.run(settings), []
    if processes.is_writer():
        folder = files.path(workdir)
        if scores or clip:
            log(compose_tables.terminal(rows))
            about = f"The CLIP score is that of {config.compose.clip}." if clip else ""
            text = compose_tables.markdown(rows, len(found), about)
            paths.append(files.write_atomically(folder / "compose.md", text.encode()))
            paths.append(folder / compose_rows.NAME)
        if scores:
            paths.append(style.save(compose_tables.figure(rows), folder / "compose.png"))
        if (grid := _grid(composer, rows, found)) is not None:
            grid = pictures.credited(grid, config.data.name)
            paths.append(pictures.save_png(grid, folder / "compose_grid.png"))
    processes.barrier("compositions written")
    return paths


def _grid(composer: composing.Composer, rows, found: list[Prompt]):
    """Return the picture of some prompts: a row for each setting, a column for each prompt."""
    texts = [captioned.short(found[i].text) for i in composing.shown_prompts(found)]
    shown = {}
    for row in rows:
        if row.stage == compose_rows.REPORT and row.method not in shown:
            if (images := composer.images(row)) is not None:
                shown[row.method] = images, row.key.guidance.describe()
    if not shown:
        return None
    return pictures.grid(
        np.stack([images for images, _ in shown.values()]),
        row_labels=[f"{name}\n{setting}" for name, (_, setting) in shown.items()],
        column_labels=texts,
    )


def _dry(job: Job, on: Machine) -> Lines:
    config = job.experiment.config
    given = config.compose
    found, scores = asked(config)
    named = {name: job.experiment.settings[name] for name in given.guidance}
    costs = costs_of(job, named)
    count = len(found) * given.samples
    tried = {n: max(1, len(given.scales)) if named[n].weak_acts else 1 for n in named}
    search = sum(costs[n] * k * len(given.seeds) for n, k in tried.items() if k > 1)
    drawings = sum(k * len(given.seeds) for k in tried.values() if k > 1)
    report = sum(costs.values()) * len(given.report_seeds)
    drawings += len(named) * len(given.report_seeds)
    work = (search + report) * count
    yield (
        "compute",
        f"{counted(drawings, 'drawing')} of {count:,} images: {counted(len(found), 'prompt')}, "
        f"{', '.join(f'{n} with {k} scales' if k > 1 else n for n, k in tried.items())}; "
        f"{gflops(work)}",
    )
    yield lasting(work / on.rate(config.model.dtype), on, f"{drawings * count:,} images drawn")
    yield "write", "compose.csv, compose.md and pictures of them" if scores else "all images"


MODE = register(
    Mode(
        "compose",
        "measure how well images follow prompts: GenEval's six tasks, on the shapes or for others",
        run,
        same="scored",
        recorded=True,
        pixels=True,
        dry=_dry,
        writes=("", "samples", "samples/composed"),
        paths=lambda config, _: [
            "autoencoder.path",
            "compose.prompts",
            *(["compose.clip"] if config.compose.clip else []),
            *encoder_paths(config),
            *weak_paths(config.compose.guidance),
        ],
    )
)
