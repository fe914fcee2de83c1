"""Score a trained network under several guidance settings: a picture, a table, a report."""

import pathlib
import time

import jax
import numpy as np

from sg_jax import checkpoint, flops
from sg_jax.data.pipeline import all_images
from sg_jax.data.sources import Source, open_source
from sg_jax.evaluation import distances, features, pictures, report
from sg_jax.experiment import Experiment
from sg_jax.generate import sample
from sg_jax.guidance import Guidance
from sg_jax.models.backbone import Backbone
from sg_jax.writers import log, read_metrics


def run(
    experiment: Experiment, source: Source, workdir: str, command: str
) -> tuple[pathlib.Path, pathlib.Path]:
    """Draw `config.evaluate.samples` images per setting, score them and write the report.

    Image i has the same label and the same noise under every setting.

    Args:
      experiment: the run's objects.
      source: the training images, which the samples are compared with.
      workdir: folder of the run.
      command: printed in the report, so that it can be made again.

    Returns:
      Paths of the picture and of the report.
    """
    config, folder = experiment.config, pathlib.Path(workdir)
    names = config.evaluate.guidance
    model = checkpoint.load(workdir, mesh=experiment.mesh)
    real, labels = all_images(source, limit=config.evaluate.references or None)
    test = open_source(
        source.name,
        config.data.test_split,
        data_dir=config.data.data_dir or None,
        image_size=config.data.image_size or None,
    )
    test_images, test_labels = all_images(test)
    scorer = features.cached_scorer(
        folder / "classifier.npz",
        real,
        labels,
        test_images,
        test_labels,
        name=source.name,
        num_classes=source.num_classes,
        seed=config.seed,
        log=log,
    )
    reference = scorer.features(real)
    floor = distances.frechet_distance(scorer.features(test_images), reference)
    classes = np.resize(np.arange(source.num_classes), config.evaluate.samples)
    rows, shown = [], []
    for name in names:
        guidance = experiment.settings[name]
        images, rate = _draw(experiment, model, classes, guidance, name)
        found = scorer.features(images)
        precision, recall = distances.precision_recall(reference, found)
        rows.append(
            report.SettingResult(
                name=name,
                description=guidance.describe(),
                frechet=distances.frechet_distance(found, reference),
                precision=precision,
                recall=recall,
                accuracy=distances.class_accuracy(scorer.probabilities(images), classes),
                gflops_per_step=flops.sampling_step(model, guidance) / 1e9,
                images_per_second=rate,
                samples=len(images),
            )
        )
        shown.append(images[: min(config.evaluate.columns, source.num_classes)])
    log(report.format_table(rows))
    picture = pictures.grid(
        np.stack(shown),
        row_labels=[f"{n}\n{experiment.settings[n].describe()}" for n in names],
        column_labels=source.class_names[: len(shown[0])],
    )
    pictures.save_png(picture, folder / "guidance.png")
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
        reference=report.Reference(len(real), len(test_images), scorer.test_accuracy, floor),
        command=f"python -m sg_jax.main {command}",
        picture_path=folder / "guidance.png",
        loss_path=loss_path,
        notes=["Down a column, every image starts from the same noise and has the same label."],
    )
    return folder / "guidance.png", folder / "report.html"


def _facts(experiment: Experiment, model: Backbone, records: list[dict]) -> dict[str, str]:
    """Return what the run was, for the report."""
    config = experiment.config
    count = sum(leaf.size for leaf in jax.tree.leaves(model))
    routes = ", ".join(f"blocks {i} to {j}" for i, j in model.routes) or "none"
    facts = {
        "Data": f"{config.data.name}, {config.data.split}, {model.image_size} x "
        f"{model.image_size} x {model.channels}",
        "Network": f"DiT, {model.depth} blocks of width {model.width}, {model.heads} heads, "
        f"{model.tokens} tokens, {count:,} parameters",
        "Routes": f"{routes} (counted from 0), sparsity rate in training "
        f"{experiment.objective.gamma:g}",
        "Batch": f"{config.train.batch_size} images",
        "Sampling": f"Euler, {config.sample.steps} steps, weights averaged (EMA "
        f"{config.train.ema_decay:g}), seed {config.seed}",
        "Device": f"{experiment.mesh.size} x {jax.devices()[0].device_kind}",
    }
    if records:
        last = records[-1]
        facts["Training"] = f"{last['step']:,} steps, loss {last['loss']:.4f} at the end"
    return facts


def _draw(
    experiment: Experiment, model, classes: np.ndarray, guidance: Guidance, name: str
) -> tuple[np.ndarray, float]:
    """Return one image per class label, and images/s with the compile left out."""
    config = experiment.config

    def draw(labels):
        return sample(
            model,
            labels,
            guidance,
            steps=config.sample.steps,
            seed=config.seed,
            batch_size=config.sample.batch_size,
            mesh=experiment.mesh,
        )

    batch = min(config.sample.batch_size, len(classes))
    draw(classes[:batch])  # compiles
    began = time.perf_counter()
    images = draw(classes)
    seconds = time.perf_counter() - began
    filled = -(-len(classes) // batch) * batch  # the last batch costs as much as a whole one
    log(f"{name}: {len(classes)} images in {seconds:.1f} s.")
    return images, filled / seconds
