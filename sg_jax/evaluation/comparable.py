"""Which numbers of a run can be compared, so that one decides which checkpoint is the best."""

import zlib
from typing import Any

from sg_jax.config.experiment import Experiment
from sg_jax.config.training import HELDOUT
from sg_jax.errors import Settings, declared_in, default_of
from sg_jax.evaluation import scoring


def names_of(experiment: Experiment) -> tuple[str, str]:
    """Return what the number that decides which checkpoint is the best is called, in two ways.

    A run may continue with other images to measure, or draw and judge them in another way. Such
    values cannot be compared, and their second names differ. Older runs stored only the first.
    """
    config = experiment.config
    metric, train, evaluate = config.checkpoint.keep_best, config.train, config.evaluate
    rest: list[Any] = [config.data.test_split]
    if metric == HELDOUT:
        name = f"{metric}_gamma_{train.gammas[-1][1]:g}" if train.gammas else metric
        rest += [train.heldout_images]
    else:
        name = f"{metric}_{train.evaluate_samples}_{train.evaluate_guidance}"
        drawn = (experiment.settings[train.evaluate_guidance], config.sampler)
        rest += [config.sample.steps, *map(_changed, (*drawn, config.autoencoder, config.features))]
        real = evaluate.images, evaluate.references, evaluate.reference
        rest += [scoring.kinds_of(config), evaluate.dinov2_dtype, real]
    return name, f"{name}_{zlib.crc32(repr(rest).encode()):08x}"


def _changed(section: Settings) -> list[tuple[str, Any]]:
    """Return the values that are not the defaults, except paths, which may move, and chunks."""
    values = [(name, getattr(section, name)) for name in declared_in(section)]
    return [
        (name, value)
        for name, value in values
        if value != default_of(type(section), name) and name not in ("path", "chunk")
    ]
