"""Draw and score guidance settings, each once: what `evaluate`, `sweep` and `tune` share.

workdir/scores.csv            one row per setting and seed; settings in it are skipped, unless
                              a metric that can be measured or images to keep are missing
workdir/samples/scored/*.npy  the first images of a setting, for pictures
workdir/samples/scored/*.part what an interrupted drawing had found
workdir/samples/scored/*.lock held by the command that draws it; others draw something else
"""

import dataclasses
import functools
import os
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from sg_jax.config.experiment import Experiment
from sg_jax.evaluation import scored, table
from sg_jax.evaluation.judge import Judge
from sg_jax.evaluation.metrics import Scores
from sg_jax.evaluation.table import Key
from sg_jax.method import checks
from sg_jax.method.guidance import Guidance
from sg_jax.parallel import processes
from sg_jax.programs.sampling import NotFinite
from sg_jax.runs.progress import counted, log
from sg_jax.weights import weak_networks


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of `run`; empty except in the writer.

    Attributes:
      scores: those of each setting, one per seed, in the given order.
      images: the first images of each setting with the first seed, uint8 [shown, H, W, C].
      drawn: each setting as it was drawn; see `resolved`.
      others: the scores of further settings in the table, by the setting as it was drawn, if they
        were measured in the same way with all the seeds; `images` has their images, if any.
      unlike: how many settings in the table were measured in another way.
    """

    scores: dict[Guidance, list[Scores]]
    images: dict[Guidance, np.ndarray]
    drawn: dict[Guidance, Guidance] = dataclasses.field(default_factory=dict)
    others: dict[Guidance, list[Scores]] = dataclasses.field(default_factory=dict)
    unlike: int = 0


def run(
    experiment: Experiment,
    judge: Judge,
    workdir: str | os.PathLike,
    guidances: Sequence[Guidance],
    *,
    samples: int,
    seeds: Sequence[int],
    step: int,
    shown: int = 0,
) -> Found:
    """Score each setting with each seed, and write each score immediately.

    Image i has the same label and noise under every setting: label i modulo the number of classes,
    or one that the seed draws (`config.evaluate.labels`). An interrupted drawing is resumed.
    All processes draw; the writer scores and writes.

    Args:
      experiment: the run's objects.
      judge: scores the images; from `scoring.open_judge`, in all processes.
      workdir: folder of the run.
      guidances: the settings; neighbours that differ only in omega share one compiled program.
      samples: images per setting and seed.
      seeds: seeds of noise and token ids, at least one.
      step: step of the checkpoint.
      shown: how many of the first images to return.

    Raises:
      UserError: a checkpoint is missing; raised before any sampling.
      NotFinite: no setting has finite samples. Otherwise, the scores of one that has none are NaN.
    """
    drawn = {guidance: resolved(experiment, guidance, workdir, step) for guidance in guidances}
    like = conditions(experiment, judge, samples, step)
    keys = {
        (guidance, seed): dataclasses.replace(like, guidance=drawn[guidance], seed=seed)
        for guidance in guidances
        for seed in seeds
    }
    log(f"{counted(len(guidances), 'setting')}, {counted(len(seeds), 'seed')}.")
    pictured = {keys[guidance, seeds[0]] for guidance in guidances}
    rows = score(experiment, judge, workdir, keys.values(), pictured=pictured, shown=shown)
    finite = any(scored.is_finite(judge, rows.get(key, {})) for key in keys.values())
    if not processes.from_writer([finite])[0]:
        raise NotFinite(
            "The samples of all settings contain NaN or infinity: see the log. If they do without "
            "guidance too, the weights are broken."
        )
    if not processes.is_writer():
        return Found({}, {})
    others = _others(rows, keys[guidances[0], seeds[0]], seeds)
    for guidance in drawn.values():
        others.pop(guidance, None)
    stored = functools.partial(scored.images_of, workdir, shown=shown, shape=experiment.image_shape)
    first = {g: keys[g, seeds[0]] for g in guidances}
    first |= {g: dataclasses.replace(first[guidances[0]], guidance=g) for g in others}
    return Found(
        {g: [rows[keys[g, seed]] for seed in seeds] for g in guidances},
        {g: images for g, key in first.items() if (images := stored(key)) is not None},
        drawn,
        others,
        len({key.guidance for key in rows} - {*others, *drawn.values()}),
    )


def conditions(experiment: Experiment, judge: Judge, samples: int, step: int) -> Key:
    """Return the key under which this run's scores are stored, without setting and seed.

    Args:
      experiment: the run's objects.
      judge: scores the images.
      samples: images per drawing.
      step: step of the checkpoint.
    """
    autoencoder = experiment.autoencoder
    return Key(
        sampler=table.words(experiment.sampler),
        steps=experiment.config.sample.steps,
        samples=samples,
        references=judge.references,
        features=judge.digest,
        checkpoint=step,
        compared=judge.compared,
        decoder=autoencoder.fingerprint() if autoencoder else "",
        decoder_name=" ".join(autoencoder.name.splitlines()) if autoencoder else "",
        labels=_labels_in_words(experiment),
        reference=judge.reference,
        real=judge.real_digest,
        networks=judge.networks,
        ema=experiment.config.train.ema_decay,
        versions=scored.versions(),
    )


def _labels_in_words(experiment: Experiment) -> str:
    """Return what a table says about the labels: how classes are drawn, or which captions."""
    if experiment.captions is None:
        return experiment.config.evaluate.labels
    return f"captions of {experiment.captions.source.split}"


def score(
    experiment: Experiment,
    judge: Judge,
    workdir: str | os.PathLike,
    keys: Iterable[Key],
    *,
    pictured: Collection[Key] = (),
    shown: int = 0,
    told: scored.Told | None = None,
) -> table.Table:
    """Draw and score what the run's table lacks, and return the table; {} except in the writer.

    Args:
      experiment: the run's objects.
      judge: scores the images.
      workdir: folder of the run.
      keys: at least one, from `conditions`, all with the same checkpoint and number of samples;
        each has its own setting (see `resolved`), seed and number of steps.
      pictured: the keys whose first images are kept.
      shown: how many of the first images are kept for each.
      told: see `scored.draw_all`.
    """
    rows = table.read(workdir, tell=True)
    jobs = list(dict.fromkeys(keys))
    shape = experiment.image_shape
    # The writer decides what is left, because others may read a later file, and none may draw
    # alone.
    writer = processes.is_writer()
    no_row = processes.from_writer(
        [int(writer and scored.is_left(experiment, judge, workdir, rows, key)) for key in jobs]
    )
    no_images = processes.from_writer(
        [
            int(
                key in pictured
                and scored.is_finite(judge, rows.get(key, {}))
                and scored.images_of(workdir, key, shown=shown, shape=shape) is None
            )
            for key in jobs
        ]
    )
    left = [(k, r) for k, r, i in zip(jobs, no_row, no_images, strict=True) if r or i]
    log(f"{counted(len(jobs), 'drawing')}, {len(left):,} left.")
    if left:
        again = [key for key, is_left in zip(jobs, no_images, strict=True) if is_left]
        scored.draw_all(experiment, judge, workdir, left, again, rows, shown, told)
    return rows if processes.is_writer() else {}


def _others(rows: table.Table, like: Key, seeds: Sequence[int]) -> dict[Guidance, list[Scores]]:
    """Return the scores of each setting that was measured like a key, with all the seeds."""
    found = {}
    for guidance in dict.fromkeys(key.guidance for key in rows):
        keys = [dataclasses.replace(like, guidance=guidance, seed=seed) for seed in seeds]
        if all(key in rows for key in keys):
            found[guidance] = [rows[key] for key in keys]
    return found


def resolved(
    experiment: Experiment,
    guidance: Guidance,
    workdir: str | os.PathLike,
    step: int | None = None,
    tell: bool = True,
) -> Guidance:
    """Return a setting as a table stores it, with the step of its weak checkpoint filled in.

    Args:
      experiment: the run's objects.
      guidance: the setting.
      workdir: folder of the run.
      step: step of the strong network, of which `weak_step` may be a share; the latest by default.
        For another run, `weak_step` is a share of that run's latest step.
      tell: whether to log which step a share stands for, and what is odd about the setting.

    Raises:
      UserError: the networks cannot run the setting, or a checkpoint is missing.
    """
    guidance = table.canonical(guidance)
    guidance = weak_networks.at_step(guidance, workdir, step, tell)
    model = experiment.model
    checks.check_setting(model, guidance, weak_networks.shapes(guidance, model))
    if tell:
        for doubt in checks.doubts(guidance, _untrained_null(experiment)):
            log(f"{guidance.describe()}: {doubt}")
    return guidance


def _untrained_null(experiment: Experiment) -> bool:
    """Return whether the run never drew the null label, nor started from other weights."""
    config = experiment.config
    return config.objective.label_dropout == 0 and not config.train.init_from
