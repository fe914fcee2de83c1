"""Score a trained network under several guidance settings: a picture, a table, a report."""

import dataclasses

import jax
import numpy as np
from etils import epath

from sg_jax import checkpoint, distributed, files, flops
from sg_jax.data.sources import Source
from sg_jax.evaluation import pictures, report, scoring
from sg_jax.experiment import Experiment
from sg_jax.generate import sample
from sg_jax.guidance import Guidance
from sg_jax.models.backbone import Backbone
from sg_jax.writers import log, read_metrics


def run(
    experiment: Experiment, source: Source, workdir: str, command: str
) -> tuple[epath.Path, epath.Path]:
    """Draw `config.evaluate.samples` images per setting, score them and write the report.

    Image i has the same label and the same noise under every setting. All processes draw; the
    writer scores and writes while they wait.

    Args:
      experiment: the run's objects.
      source: the training images, which the samples are compared with.
      workdir: folder of the run.
      command: printed in the report, so that it can be made again.

    Returns:
      Paths of the picture and of the report.
    """
    config, folder = experiment.config, files.path(workdir)
    model = checkpoint.load(workdir, mesh=experiment.mesh)
    writer = distributed.is_writer()
    judge = scoring.open_judge(config, source, folder / "classifier.npz") if writer else None
    classes = np.resize(np.arange(source.num_classes), config.evaluate.samples)
    rows, shown = [], []
    for name in config.evaluate.guidance:
        guidance = experiment.settings[name]
        weak_model = checkpoint.load_weak(guidance, workdir, experiment.mesh)
        images, rate = _draw(experiment, model, weak_model, classes, guidance, name)
        if not writer:
            continue
        run_of = dict(steps=config.sample.steps, sampler=experiment.sampler)
        cost = flops.sampling_step(model, guidance, **run_of) / 1e9
        rows.append(
            report.SettingResult(
                name=name,
                description=guidance.describe(),
                **dataclasses.asdict(judge.score(images, classes)),
                gflops_per_step=cost,
                images_per_second=rate,
                samples=len(images),
            )
        )
        shown.append(images[: min(config.evaluate.columns, source.num_classes)])
    if writer:
        picture = pictures.grid(
            np.stack(shown),
            row_labels=[f"{row.name}\n{row.description}" for row in rows],
            column_labels=source.class_names[: len(shown[0])],
        )
        pictures.save_png(picture, folder / "guidance.png")
        _report(experiment, source, workdir, command, model, judge, rows)
    distributed.barrier("report written")
    return folder / "guidance.png", folder / "report.html"


def _report(
    experiment: Experiment,
    source: Source,
    workdir: str,
    command: str,
    model: Backbone,
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
        facts=_facts(experiment, model, records),
        rows=rows,
        reference=report.Reference(
            len(judge.reference), len(judge.test_features), judge.scorer.test_accuracy, judge.floor
        ),
        command=f"python -m sg_jax.main {command}",
        picture_path=folder / "guidance.png",
        loss_path=loss_path,
        notes=["Down a column, every image starts from the same noise and has the same label."],
    )


def _facts(experiment: Experiment, model: Backbone, records: list[dict]) -> dict[str, str]:
    """Return what the run was, for the report."""
    config = experiment.config
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
        f"averaged (EMA {config.train.ema_decay:g}), seed {config.seed}",
        "Device": f"{experiment.mesh.size} x {jax.devices()[0].device_kind}",
    }
    if records:
        last = records[-1]
        facts["Training"] = f"{last['step']:,} steps, loss {last['loss']:.4f} at the end"
    return facts


def _draw(
    experiment: Experiment,
    model: Backbone,
    weak_model: Backbone | None,
    classes: np.ndarray,
    guidance: Guidance,
    name: str,
) -> tuple[np.ndarray, float]:
    """Return one image per class label, and images/s with the compile left out."""
    config = experiment.config

    def draw(labels):
        return sample(
            model,
            labels,
            guidance,
            **experiment.sampling,
            weak_model=weak_model,
        )

    draw(classes[: config.sample.batch_size])  # compiles
    images, rate = scoring.timed(draw, classes, config.sample.batch_size)
    log(f"{name}: {len(classes)} images at {rate:.0f} images/s.")
    return images, rate
