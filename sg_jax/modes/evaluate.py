"""Score a trained network under several guidance settings: a picture, a table and a report.

workdir/scores.csv    one row per setting and seed; those in it are not drawn again
workdir/guidance.png  a row of images per setting; each column starts from the same noise
workdir/report.html   the table, the pictures and the curves of training; report.json for programs
workdir/loss.png      the curves of training
"""

import dataclasses

import jax
import numpy as np
from etils import epath

from sg_jax.config import trust
from sg_jax.config.experiment import Experiment
from sg_jax.costs.machines import Machine
from sg_jax.data.sources import Source
from sg_jax.evaluation import (
    captioned,
    comparison,
    curves,
    measure,
    pictures,
    published,
    report,
    scored,
    scoring,
    style,
    table,
)
from sg_jax.evaluation.judge import Judge
from sg_jax.evaluation.metrics import CLASSIFIER, Scores
from sg_jax.evaluation.results import SettingResult
from sg_jax.method.guidance import Guidance
from sg_jax.method.objective import in_words
from sg_jax.modes import dry_draw, evaluate_files
from sg_jax.modes.base import Job, Mode, register, weak_paths
from sg_jax.modes.dry_parts import Lines
from sg_jax.parallel import processes
from sg_jax.runs import files
from sg_jax.runs.progress import log
from sg_jax.runs.records import read_metrics
from sg_jax.weights import checkpoints

# The facts without which figures cannot be compared; the terminal shows them below the table.
PROTOCOL = ("Samples", "Sampling", "Decoder", "Reference", "Judged by", "Versions")


def run(job: Job) -> list[epath.Path]:
    """Score the settings of a job, or the files that its flags name; return what was written."""
    if any(job.options.get(option.name) for option in evaluate_files.OPTIONS):
        return evaluate_files.run(job)
    assert job.source is not None
    return evaluate(job.drawing, job.source, job.workdir, job.command)


def evaluate(
    experiment: Experiment, source: Source, workdir: str, command: str
) -> list[epath.Path]:
    """Draw `config.evaluate.samples` images per setting and seed, score them, write the report.

    Image i has the same label and, with one seed, the same noise under every setting. Settings in
    scores.csv are not drawn again, and those scored in the same way before are in the report too.
    All processes draw; the writer scores and writes.

    Args:
      experiment: the run's objects.
      source: the training images, which the samples are compared with.
      workdir: folder of the run.
      command: shown in the report, so that the report can be made again.

    Returns:
      Paths of the picture and of the report.

    Raises:
      UserError: a checkpoint is missing; raised before any sampling.
    """
    config, folder = experiment.config, files.path(workdir)
    step = checkpoints.chosen_step(config.evaluate.step, workdir)
    judge = scoring.open_judge(config, source, workdir, experiment.image_shape[0])
    names, samples = config.evaluate.guidance, config.evaluate.samples
    seeds = config.evaluate.seeds or (config.seed,)
    found = measure.run(
        experiment,
        judge,
        workdir,
        [experiment.settings[name] for name in names],
        samples=samples,
        seeds=seeds,
        step=step,
        shown=captioned.shown_of(experiment, source, config.evaluate.columns, samples),
    )
    if processes.is_writer():
        rows, images = [], []
        for name, guidance, scores in _shown(experiment, found, step):
            share = isinstance(guidance.weak_step, float)
            description = (found.drawn[guidance] if share else guidance).describe()
            rows.append(SettingResult.over_seeds(name, description, samples, scores))
            if guidance in found.images:
                images.append((f"{name}\n{description}", found.images[guidance]))
        picture = pictures.grid(
            np.stack([image for _, image in images]),
            row_labels=[label for label, _ in images],
            column_labels=captioned.headings(
                experiment, source, len(images[0][1]), samples, seeds[0]
            ),
        )
        picture = pictures.credited(picture, source.name)
        pictures.save_png(picture, folder / "guidance.png")
        _report(experiment, source, workdir, command, step, judge, rows)
        if found.unlike:
            log(
                f"The report leaves out {found.unlike} settings of {table.NAME} that were measured "
                "with a different checkpoint, sampler, decoder, feature network, set of real "
                "images or labels, or number of steps or images, or that lack a seed."
            )
    processes.barrier("report written")
    return [folder / "guidance.png", folder / "report.html"]


def _shown(
    experiment: Experiment, found: measure.Found, step: int
) -> list[tuple[str, Guidance, list[Scores]]]:
    """Return the rows of the report: a name, its setting, and the scores of each seed.

    The settings of this command come first, then those scored in the same way before: settings
    with a name in the config, and any whose images are kept. The cells of a sweep are neither.
    """
    names = experiment.config.evaluate.guidance
    rows = [(n, g, found.scores[g]) for n in names for g in [experiment.settings[n]]]
    known = {n: table.canonical(g) for n, g in experiment.settings.items()}
    for guidance, scores in found.others.items():
        named = next((n for n, g in known.items() if _is(guidance, g)), "")
        if named or guidance in found.images:
            rows.append((named or comparison.method(guidance, step), guidance, scores))
    return rows


def _is(drawn: Guidance, setting: Guidance) -> bool:
    """Return whether a drawn setting is this canonical one, whatever step a share stands for."""
    share = isinstance(setting.weak_step, float) and drawn.weak_step  # of an early checkpoint
    if share or (setting.weak_workdir and not setting.weak_step):
        setting = dataclasses.replace(setting, weak_step=drawn.weak_step)
    return setting == drawn


def _report(
    experiment: Experiment,
    source: Source,
    workdir: str,
    command: str,
    step: int,
    judge: Judge,
    rows: list[SettingResult],
) -> None:
    """Print the table, and write it with the loss curve and the page next to guidance.png."""
    folder = files.path(workdir)
    log(report.format_table(rows))
    facts, beside = _facts(experiment, step, judge), None
    log("; ".join(f"{key}: {facts[key]}" for key in PROTOCOL if key in facts) + ".")
    name = experiment.config.evaluate.published
    if name and (lines := published.beside(name, rows)):
        log(published.text(name, rows))
        paper = published.TABLES[name]
        beside = f"Compared with {paper.source}: {paper.protocol}", published.HEAD, lines
    measured = read_metrics(workdir)
    records = [r for r in measured if "loss" in r]
    if known := [r for r in records if r["step"] <= step]:
        facts["Training"] = f"{step:,} steps, loss {known[-1]['loss']:.4f} at the end"
    shown = [(folder / "guidance.png", "Generated images, one row per setting.")]
    if (figure := curves.of_run(measured)) is not None:
        shown.append((style.save(figure, folder / "loss.png"), curves.caption(measured)))
    report.write_table(folder / "report.json", rows)
    report.write_report(
        folder / "report.html",
        title=f"{source.name}: {len(rows)} ways to guide one network",
        facts=facts,
        rows=rows,
        reference=_reference(judge),
        command=f"python -m sg_jax.main {command}",
        pictures=shown,
        notes=[
            "All images of a column start from the same noise and have the same "
            f"{'caption' if experiment.captions else 'label'}."
        ],
        beside=beside,
    )


def _reference(judge: Judge) -> report.Reference:
    view = judge.main_view
    assert view is not None
    named = view.network is not getattr(judge.views.get(CLASSIFIER), "network", None)
    return report.Reference(
        real_images=judge.references,
        source=judge.reference,
        test_images=view.test.count if view.test else 0,
        classifier_accuracy=view.network.test_accuracy or 0.0,
        test_scores=judge.of_test_images(),
        compared=judge.compared,
        network=f"the features of {judge.networks}" if named else report.CLASSIFIER_IN_WORDS,
    )


def _facts(experiment: Experiment, step: int, judge: Judge) -> dict[str, str]:
    """Return facts about the run and how it was measured, for the report."""
    config, model = experiment.config, experiment.model
    seeds = ", ".join(map(str, config.evaluate.seeds or (config.seed,)))
    count = sum(leaf.size for leaf in jax.tree.leaves(model))
    routes = "routes " + (", ".join(f"{i} to {j}" for i, j in model.routes) or "none")
    where = "masked" if model.masks else routes
    # Decoded latents may be compared with these; a judge's reference names them where it is set.
    images = config.evaluate.images if experiment.autoencoder and not judge.reference else ""
    facts = {
        "Data": f"{config.data.name}, {config.data.split}, {model.image_size} x "
        f"{model.image_size} x {model.channels}",
        "Network": f"{type(model).__name__}, {model.depth} blocks of width {model.width}, "
        f"{model.tokens} tokens, {count:,} parameters",
        "Sparsity": f"{where}, rate in training {_training_rates(experiment)}",
        "Batch": f"{config.train.batch_size} images",
        "Samples": f"{config.evaluate.samples:,}, {_drawn(experiment)}",
        "Sampling": f"{experiment.sampler.name}, {config.sample.steps} steps, weights "
        f"averaged (EMA {config.train.ema_decay:g}), seed {seeds}",
        "Reference": judge.compared_with(images or config.data.name),
        "Judged by": judge.networks,
        "Versions": scored.versions(),
        "Device": f"{experiment.mesh.size} x {jax.devices()[0].device_kind}",
    }
    if decoder := experiment.autoencoder:
        facts["Decoder"] = f"{decoder.name} ({decoder.fingerprint()})"
    return facts


def _drawn(experiment: Experiment) -> str:
    """Return in words what was drawn."""
    if experiment.captions is not None:
        return f"captions of {experiment.captions.source.split!r}"
    drawn = {"balanced": "each class equally often", "uniform": "classes drawn uniformly"}
    return drawn[experiment.config.evaluate.labels]


def _training_rates(experiment: Experiment) -> str:
    """Return the sparsity rates of training, such as "0.5, then 0"."""
    return ", then ".join(map(in_words, experiment.training_mixes))


def _dry(job: Job, on: Machine) -> Lines:
    config = job.experiment.config.evaluate
    named = {name: job.experiment.settings[name] for name in config.guidance}
    return dry_draw.scores(
        job, on, named, config.samples, max(1, len(config.seeds)), kept=config.columns
    )


MODE = register(
    Mode(
        "evaluate",
        "draw and score guidance settings: pictures, a table, a report",
        run,
        same="scored",
        pixels=True,
        unless=tuple(option.name for option in evaluate_files.OPTIONS),
        keys=True,
        options=evaluate_files.OPTIONS,
        dry=_dry,
        writes=("", "samples/scored"),
        paths=lambda config, _: [
            "autoencoder.path",
            *trust.JUDGES,
            *weak_paths(config.evaluate.guidance),
        ],
    )
)
