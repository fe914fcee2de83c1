"""What `--mode sample` asks a network of texts for: prompts or captions, and their control."""

import math
from collections.abc import Sequence

from sg_jax.config import record, trust
from sg_jax.config.experiment import Experiment
from sg_jax.data import asked as asked_lib
from sg_jax.data import directions, prompt_file
from sg_jax.data.asked import Asked
from sg_jax.data.directions import Direction
from sg_jax.errors import UserError, shown
from sg_jax.modes.base import Job
from sg_jax.runs.progress import log
from sg_jax.weights import text_encoders

FORM = "SUBJECT=FILE:SCALE, such as circle=size.npz:1.5"  # of --control
PART = 1000  # texts that are read at a time


def check(job: Job) -> None:
    """Raise if prompts are given to a network that reads class labels."""
    if job.options.get("prompts") and job.experiment.wording is None:
        kind = job.experiment.config.model.kind
        raise UserError(
            f"--prompts={job.options['prompts']} has no effect: config.model.kind={kind!r} reads "
            "class labels, such as --config.sample.labels=0,1,2."
        )


def asked(job: Job, experiment: Experiment) -> Asked:
    """Return what to draw: the prompts of --prompts, or `config.sample.count` captions of the data.

    Args:
      job: its flags are read.
      experiment: of a network of texts, with its captions unless there is a file.

    Raises:
      UserError: the file cannot be read, or has features of another encoder; or the encoder of the
        run cannot be loaded.
    """
    workdir, path = job.workdir, job.options.get("prompts", "")
    config, wording = experiment.config, experiment.wording
    assert wording is not None
    if not path:
        assert experiment.captions is not None
        found = experiment.captions.ask(config.sample.count)
        log(f"Captions of split {experiment.captions.source.split!r}; --prompts FILE gives others.")
        return found
    prompts = prompt_file.read(path)
    if prompts.features is not None:
        wanted = record.encoder_of(workdir)
        text_encoders.check(prompts.fingerprint, wanted, f"--prompts={path!r}", workdir)
        if wanted and not prompts.fingerprint:
            log(
                f"--prompts={path!r} has no fingerprint, so nothing says whether its features "
                "come from the text encoder that the run was trained with."
            )
        found = asked_lib.of_features(prompts.features, prompts.texts)
        experiment.model.conditioning.check(found.prompts, "prompts")
        return found
    if not wording.features:
        asked_lib.tell_cut(map(wording.cuts, prompts.texts), wording.most, prompts.lines)
        return asked_lib.of_texts(prompts.texts)
    assert job.config is not None
    trust.check(job.config, workdir, ["text.encoder"], job.said)
    encoder = text_encoders.of_run(config, workdir)
    parts = range(0, len(prompts.texts), PART)
    cut = [c for first in parts for c in encoder.cut(prompts.texts[first : first + PART])]
    asked_lib.tell_cut(cut, wording.most, prompts.lines)
    return asked_lib.of_texts(prompts.texts, encoder)


def control(given: Sequence[str]) -> list[tuple[str, Direction, float]]:
    """Return the directions of --control, read from their files.

    Raises:
      UserError: a value has another form, or a file does not hold a direction.
    """
    found = []
    for value in given:
        subject, _, rest = value.partition("=")
        path, _, scale = rest.rpartition(":")
        try:
            number = float(scale)
        except ValueError:
            number = math.nan
        if not subject.strip() or not path or not math.isfinite(number):
            raise UserError(f"--control={shown(value)} must have the form {FORM}.")
        found.append((subject.strip(), directions.load(path, "--control's file"), number))
    return found
