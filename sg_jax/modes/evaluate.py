"""Score a trained network under several guidance settings: a picture, a table, a report."""

import dataclasses

import jax
import numpy as np
from etils import epath

from sg_jax.config.experiment import Experiment
from sg_jax.data.sources import Source
from sg_jax.errors import UserError
from sg_jax.evaluation import measure, pictures, report, scoring, table
from sg_jax.parallel import processes
from sg_jax.runs import files
from sg_jax.runs.progress import log
from sg_jax.runs.records import read_metrics
from sg_jax.weights import checkpoints


def run(
    experiment: Experiment, source: Source, workdir: str, command: str
) -> tuple[epath.Path, epath.Path]:
    """Draw `config.evaluate.samples` images per setting and seed, score them, write the report.

    Image i has the same label and, with one seed, the same noise under every setting. What
    scores.csv holds already is not drawn again. All processes draw; the writer scores and writes.

    Args:
      experiment: the run's objects.
      source: the training images, which the samples are compared with.
      workdir: folder of the run.
      command: printed in the report, so that it can be made again.

    Returns:
      Paths of the picture and of the report.

    Raises:
      UserError: a checkpoint that is not there, before any sampling.
    """
    config, folder = experiment.config, files.path(workdir)
    steps = checkpoints.saved_steps(workdir)
    step = config.evaluate.step or steps[-1]
    if step not in steps:
        raise UserError(f"config.evaluate.step={step} is not a checkpoint of {workdir}: {steps}.")
    judge = scoring.open_judge(config, source, workdir) if processes.is_writer() else None
    names = config.evaluate.guidance
    found = measure.run(
        experiment,
        judge,
        workdir,
        [experiment.settings[name] for name in names],
        samples=config.evaluate.samples,
        seeds=config.evaluate.seeds or (config.seed,),
        step=step,
        shown=min(config.evaluate.columns, source.num_classes, config.evaluate.samples),
    )
    if judge is not None:
        rows = [_row(experiment, name, found) for name in names]
        shown = np.stack([found.images[experiment.settings[name]] for name in names])
        picture = pictures.grid(
            shown,
            row_labels=[f"{row.name}\n{row.description}" for row in rows],
            column_labels=source.class_names[: shown.shape[1]],
        )
        pictures.save_png(picture, folder / "guidance.png")
        _report(experiment, source, workdir, command, step, judge, rows)
    processes.barrier("report written")
    return folder / "guidance.png", folder / "report.html"


def _row(experiment: Experiment, name: str, found: measure.Found) -> report.SettingResult:
    """Return a setting's row of the report."""
    guidance = experiment.settings[name]
    scores = found.scores[guidance]
    mean, deviation = table.mean_and_deviation(scores)
    spread = dataclasses.asdict(deviation) if len(scores) > 1 else {}
    spread.pop("gflops_per_step", None)  # the same every time
    return report.SettingResult(
        name=name,
        description=guidance.describe(),
        **dataclasses.asdict(mean),
        samples=experiment.config.evaluate.samples,
        seeds=len(scores),
        deviations=spread,
    )


def _report(
    experiment: Experiment,
    source: Source,
    workdir: str,
    command: str,
    step: int,
    judge: scoring.Judge,
    rows: list[report.SettingResult],
) -> None:
    """Print the table, and write it with the loss curve and the page beside guidance.png."""
    folder = files.path(workdir)
    log(report.format_table(rows))
    records = [r for r in read_metrics(workdir) if "loss" in r]
    loss_path = folder / "loss.png" if records else None
    if records:
        pictures.loss_curve([r["step"] for r in records], [r["loss"] for r in records], loss_path)
    report.write_table(folder / "report.json", rows)
    report.write_report(
        folder / "report.html",
        title=f"{source.name}: {len(rows)} ways to guide one network",
        facts=_facts(experiment, step, records),
        rows=rows,
        reference=report.Reference(
            len(judge.reference), len(judge.test_features), judge.scorer.test_accuracy, judge.floor
        ),
        command=f"python -m sg_jax.main {command}",
        picture_path=folder / "guidance.png",
        loss_path=loss_path,
        notes=["Down a column, every image starts from the same noise and has the same label."],
    )


def _facts(experiment: Experiment, step: int, records: list[dict]) -> dict[str, str]:
    """Return what the run was, for the report."""
    config, model = experiment.config, experiment.model
    seeds = ", ".join(map(str, config.evaluate.seeds or (config.seed,)))
    count = sum(leaf.size for leaf in jax.tree.leaves(model))
    routes = "routes " + (", ".join(f"{i} to {j}" for i, j in model.routes) or "none")
    where = "masked" if model.masks else routes
    facts = {
        "Data": f"{config.data.name}, {config.data.split}, {model.image_size} x "
        f"{model.image_size} x {model.channels}",
        "Network": f"{type(model).__name__}, {model.depth} blocks of width {model.width}, "
        f"{model.tokens} tokens, {count:,} parameters",
        "Sparsity": f"{where}, rate in training {experiment.objective.gamma:g}",
        "Batch": f"{config.train.batch_size} images",
        "Sampling": f"{experiment.sampler.name}, {config.sample.steps} steps, weights "
        f"averaged (EMA {config.train.ema_decay:g}), seed {seeds}",
        "Device": f"{experiment.mesh.size} x {jax.devices()[0].device_kind}",
    }
    known = [r for r in records if r["step"] <= step]
    if known:
        facts["Training"] = f"{step:,} steps, loss {known[-1]['loss']:.4f} at the end"
    return facts
