"""Measure how far guidance moves each image, as in the paper's Figure 7 (left).

An image and its unguided twin start from the same noise and have the same label. The paper compares
the two by LPIPS; here it is the Euclidean distance of their features, in units of the mean distance
between two different real images of one class. At 1, a guided image is as far from its twin as
another image of the class would be.
"""

import dataclasses
import json
from typing import Any

import numpy as np
from etils import epath

from sg_jax.config import trust
from sg_jax.config.experiment import Experiment
from sg_jax.costs.machines import Machine
from sg_jax.data.sources import Source
from sg_jax.errors import UserError
from sg_jax.evaluation import figures, measure, scoring, style
from sg_jax.evaluation.metrics import CLASSIFIER
from sg_jax.method import checks
from sg_jax.method.guidance import Guidance
from sg_jax.modes import dry_draw
from sg_jax.modes.base import Job, Mode, register, weak_paths
from sg_jax.modes.dry_parts import Lines
from sg_jax.parallel import processes
from sg_jax.programs.sampling import sample
from sg_jax.runs import files
from sg_jax.runs.progress import log
from sg_jax.weights import checkpoints, weak_networks

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MOST_PER_CLASS = 256  # real images per class whose pairs give the unit, which is then exact to 1%


def run(job: Job) -> list[epath.Path]:
    """Compare the settings of a job; return the paths of diversity.png and diversity.json."""
    assert job.source is not None
    return diversity(job.drawing, job.source, job.workdir)


def diversity(experiment: Experiment, source: Source, workdir: str) -> list[epath.Path]:
    """Draw `config.diversity.samples` images per setting and compare them with unguided ones.

    All processes draw; the writer compares and writes while they wait.

    Args:
      experiment: the run's objects.
      source: the training images, whose distances within a class give the unit.
      workdir: folder of the run.

    Returns:
      Paths of diversity.png (densities) and diversity.json (quantiles).

    Raises:
      UserError: the networks cannot run a setting; raised before any sampling.
    """
    config, folder = experiment.config, files.path(workdir)
    step = checkpoints.chosen_step(config.evaluate.step, workdir)
    settings = {
        name: measure.resolved(experiment, experiment.settings[name], workdir, step)
        for name in config.diversity.guidance
    }
    how: dict[str, Any] = dict(mesh=experiment.mesh, like=experiment.model)
    model = checkpoints.load(workdir, step, **how)
    weak_models = {  # load all before sampling, since one may be missing or not fit
        name: weak_networks.load(guidance, workdir, **how, step=step)
        for name, guidance in settings.items()
    }
    for name, guidance in settings.items():
        checks.check_setting(model, guidance, weak_models[name], f"config.guidance.{name}")
    writer = processes.is_writer()
    own = dataclasses.replace(config.evaluate, metrics=(), network="", reference="")
    judge = (
        scoring.open_judge(
            dataclasses.replace(config, evaluate=own), source, workdir, experiment.image_shape[0]
        )
        if writer
        else None
    )
    real = judge.classifier.real if judge else None
    unit = same_class_distance(np.asarray(real.kept), real.labels) if real else 0.0
    wanted = experiment.asked(config.diversity.samples)

    def draw(guidance, weak_model=None):
        images = sample(
            model,
            wanted,
            guidance,
            weak_model=weak_model,
            **experiment.sampling,
        )
        return judge.classifier.network.score(images)[0] if judge else None

    unguided = draw(Guidance())
    moved, quantiles = {}, {}
    for name, guidance in settings.items():
        guided = draw(guidance, weak_models[name])
        if not writer:
            continue
        distances = pair_distances(guided, unguided) / unit
        moved[f"{name}: {guidance.describe()}"] = distances
        found = np.quantile(distances, QUANTILES).tolist()
        quantiles[name] = {
            "description": guidance.describe(),
            "mean": float(distances.mean()),
            "quantiles": {f"{q:g}": value for q, value in zip(QUANTILES, found, strict=True)},
        }
        log(f"{name}: median distance {np.median(distances):.3f} to the unguided image")
    if writer:
        _write(experiment, folder, moved, quantiles, unit)
    processes.barrier("diversity written")
    return [folder / "diversity.png", folder / "diversity.json"]


def _write(
    experiment: Experiment,
    folder: epath.Path,
    moved: dict[str, np.ndarray],
    quantiles: dict[str, dict],
    unit: float,
) -> None:
    """Write the densities of the distances `moved`, and their quantiles, into `folder`."""
    config = experiment.config
    figure = figures.densities(
        moved,
        label="distance to the unguided image of the same noise and label\n"
        "(1: two real images of one class)",
    )
    report = {
        "distance": "Euclidean in the evaluation features, over the mean distance between two "
        "different real images of the same class",
        "unit": unit,
        "samples": config.diversity.samples,
        "steps": config.sample.steps,
        "seed": config.seed,
        "settings": quantiles,
    }
    style.save(figure, folder / "diversity.png")
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    files.write_atomically(folder / "diversity.json", text.encode())


def pair_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return |a_i - b_i| [B] of features a, b [B, F], in float64."""
    return np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64), axis=1)


def same_class_distance(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean distance between two different images of the same class.

    Args:
      features: of real images [N, F]; the first 256 of each class are compared, all with all.
      labels: their classes [N].

    Raises:
      UserError: no class has two images that differ.
    """
    total, pairs = 0.0, 0
    for label in np.unique(labels):
        points = np.asarray(features[labels == label][:MOST_PER_CLASS], np.float64)
        for i in range(1, len(points)):
            total += pair_distances(points[:i], points[i : i + 1]).sum()
        pairs += len(points) * (len(points) - 1) // 2
    if not total > 0:
        raise UserError(
            "config.evaluate.references leaves no class with two different real images: set it "
            "higher, or to 0 for all."
        )
    return float(total / pairs)


def _dry(job: Job, on: Machine) -> Lines:
    config = job.experiment.config.diversity
    named = {name: job.experiment.settings[name] for name in config.guidance}
    every = {"no guidance": Guidance(), **named}
    return dry_draw.scores(job, on, every, config.samples, 1, judged_by=[CLASSIFIER])


MODE = register(
    Mode(
        "diversity",
        "measure how far guidance moves images from their unguided twins",
        run,
        same="scored",
        pixels=True,
        dry=_dry,
        paths=lambda config, _: [
            "features.path",
            trust.IMAGES,
            "autoencoder.path",
            *weak_paths(config.diversity.guidance),
        ],
    )
)
