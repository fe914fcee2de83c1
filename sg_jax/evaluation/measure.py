"""Draw and score guidance settings, each once: what `evaluate` and `sweep` share.

workdir/scores.csv            one row per setting and seed; settings in it are skipped, unless
                              a metric that can be measured is missing
workdir/samples/scored/*.npy  the first images of a setting, for pictures
"""

import dataclasses
import io
import os
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath

from sg_jax.config.experiment import Experiment
from sg_jax.costs import flops
from sg_jax.errors import UserError
from sg_jax.evaluation import scoring, table
from sg_jax.evaluation.metrics import METRICS, Drawing, Scores
from sg_jax.evaluation.table import Key
from sg_jax.method import checks
from sg_jax.method import guidance as guidance_lib
from sg_jax.method.guidance import Guidance
from sg_jax.parallel import processes
from sg_jax.programs.sampling import sample
from sg_jax.runs import files
from sg_jax.runs.progress import Progress, log
from sg_jax.weights import checkpoints


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of `run`; empty except in the writer.

    Attributes:
      scores: of each setting, one per seed, in the given order.
      images: the first images of each setting with the first seed, uint8 [shown, H, W, C].
    """

    scores: dict[Guidance, list[Scores]]
    images: dict[Guidance, np.ndarray]


def run(
    experiment: Experiment,
    judge: scoring.Judge | None,
    workdir: str | os.PathLike,
    guidances: Sequence[Guidance],
    *,
    samples: int,
    seeds: Sequence[int],
    step: int,
    shown: int = 0,
) -> Found:
    """Score each setting with each seed, and write each score at once.

    Image i has the label i modulo the number of classes, and the same noise under every setting.
    All processes draw; the writer scores and writes.

    Args:
      experiment: the run's objects.
      judge: what scores; None in processes that do not write.
      workdir: folder of the run.
      guidances: the settings; neighbours that differ only in omega share one compiled program.
      samples: images per setting and seed.
      seeds: of noise and token ids, at least one.
      step: of the checkpoint.
      shown: how many of the first images to return.

    Raises:
      UserError: a checkpoint is missing; raised before any sampling.
    """
    drawn = {guidance: resolved(experiment, guidance, workdir) for guidance in guidances}
    keys = {
        (guidance, seed): Key(
            guidance=drawn[guidance],
            sampler=table.words(experiment.sampler),
            steps=experiment.config.sample.steps,
            samples=samples,
            references=judge.references if judge else 0,
            features=judge.digest if judge else "",
            seed=seed,
            checkpoint=step,
            compared=judge.compared if judge else 0,
        )
        for guidance in guidances
        for seed in seeds
    }
    rows = table.read(workdir)
    jobs = list(dict.fromkeys(keys.values()))
    # The writer decides what is left, because others may read a later file, and none may draw
    # alone.
    wanted = judge.measures if judge else []
    no_row = processes.from_writer(
        [int(any(rows.get(key, {}).get(name) is None for name in wanted)) for key in jobs]
    )
    no_images = processes.from_writer(
        [int(key.seed == seeds[0] and _images(workdir, key, shown) is None) for key in jobs]
    )
    left = [(k, r) for k, r, i in zip(jobs, no_row, no_images, strict=True) if r or i]
    log(f"{len(guidances)} settings, {len(seeds)} seeds: {len(jobs)} drawings, {len(left)} left.")
    if left:
        _draw_all(experiment, judge, workdir, left, rows, shown)
    if judge is None:
        return Found({}, {})
    return Found(
        {g: [rows[keys[g, seed]] for seed in seeds] for g in guidances},
        {g: i for g in guidances if (i := _images(workdir, keys[g, seeds[0]], shown)) is not None},
    )


def _draw_all(experiment, judge, workdir, left, rows: table.Table, shown: int) -> None:
    config, networks, programs = experiment.config.sample, None, set()
    step, samples = left[0][0].checkpoint, left[0][0].samples
    how = dict(mesh=experiment.mesh, like=experiment.model)
    model = checkpoints.load(workdir, step, **how)
    labels = model.conditioning.in_turn(samples)
    progress = Progress(0, len(left), samples, unit="drawing")
    for done, (key, score) in enumerate(left, start=1):
        guidance = key.guidance
        log(f"Draw {samples} images: {guidance.describe()}, seed {key.seed}.")
        if networks != (guidance.weak_workdir, guidance.weak_step):
            networks = (guidance.weak_workdir, guidance.weak_step)
            weak_model = checkpoints.load_weak(guidance, workdir, **how)
        draw = _drawer(experiment, model, weak_model, key)
        plan, _ = guidance_lib.plan(guidance, experiment.sampler, config.steps)
        program = (plan, guidance.weak_workdir)
        if program not in programs or not score:  # compiles; the first images are always the same
            images = draw(labels[: max(config.batch_size, shown)])
            programs.add(program)
        if score:
            images, rate = scoring.timed(draw, labels, config.batch_size)
        if judge is None:
            continue
        if shown and _images(workdir, key, shown) is None:
            _keep_images(workdir, key, images[:shown])
        if score:
            cost = flops.sampling_step(
                model,
                guidance,
                steps=config.steps,
                sampler=experiment.sampler,
                weak_model=weak_model,
            )
            scores = judge.score(images, labels, Drawing(cost, rate))
            rows |= table.read(workdir)  # which another command may have changed meanwhile
            rows[key] = rows.get(key, {}) | scores  # keep what cannot be measured now
            table.write(workdir, rows)
            shares = {name: scores[name] for name in scores if METRICS[name].of_images}
            progress.update(done, **shares)


def _drawer(experiment, model, weak_model, key: Key) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that draws the images of a key for given labels."""
    how = {**experiment.sampling, "seed": key.seed}
    return lambda labels: sample(model, labels, key.guidance, weak_model=weak_model, **how)


def resolved(experiment: Experiment, guidance: Guidance, workdir: str | os.PathLike) -> Guidance:
    """Return a setting as a table stores it, with the step of its weak network filled in.

    Raises:
      UserError: the networks cannot run the setting, or a checkpoint is missing.
    """
    guidance = table.canonical(guidance)
    if not guidance.two_networks:
        checks.check_setting(experiment.model, guidance)
        return guidance
    folder = guidance.weak_workdir or workdir
    steps = checkpoints.saved_steps(folder)
    if guidance.weak_step and guidance.weak_step not in steps:
        raise UserError(
            f"The weak prediction of {guidance.describe()!r} needs step {guidance.weak_step} of "
            f"{str(folder)!r}, which has {steps}: set its weak_step to one of them, or train with "
            "config.checkpoint.keep_period."
        )
    other = checkpoints.abstract_network(folder) if guidance.weak_workdir else experiment.model
    checks.check_setting(experiment.model, guidance, other)
    return dataclasses.replace(guidance, weak_step=guidance.weak_step or steps[-1])


def _images_path(workdir: str | os.PathLike, key: Key) -> epath.Path:
    return files.path(workdir) / "samples" / "scored" / f"{key.digest}.npy"


def _keep_images(workdir: str | os.PathLike, key: Key, images: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, images)
    files.write_atomically(_images_path(workdir, key), buffer.getvalue())


def _images(workdir: str | os.PathLike, key: Key, shown: int) -> np.ndarray | None:
    """Return the first stored images of a setting, or None if there are fewer."""
    path = _images_path(workdir, key)
    if not shown:
        return np.empty(0, np.uint8)
    if not path.exists():
        return None
    images = np.load(io.BytesIO(path.read_bytes()))
    return images[:shown] if len(images) >= shown else None
