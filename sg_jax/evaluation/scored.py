"""Draw settings and score them one by one; the first images of each stay in samples/scored."""

import functools
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from sg_jax.config.experiment import Experiment
from sg_jax.costs import flops
from sg_jax.data.asked import Asked
from sg_jax.errors import one_line
from sg_jax.evaluation import drawings, table
from sg_jax.evaluation.judge import Judge
from sg_jax.evaluation.metrics import METRICS, Drawing, Scores
from sg_jax.evaluation.stream import Stream
from sg_jax.evaluation.table import Key
from sg_jax.method import guidance as guidance_lib
from sg_jax.parallel import processes
from sg_jax.programs.sampling import NotFinite, sample_batches
from sg_jax.runs import arrays, files
from sg_jax.runs.progress import Progress, log
from sg_jax.weights import checkpoints, weak_networks

Told = Callable[[Key, dict[str, Any]], object]
MOST_PROGRAMS = 64  # kept at once: on a CPU each has about 200 memory maps, and Linux allows 65,530


def draw_all(
    experiment: Experiment,
    judge: Judge,
    workdir: str | os.PathLike,
    left: Sequence[tuple[Key, bool]],
    no_images: Sequence[Key],
    rows: table.Table,
    shown: int,
    told: Told | None = None,
    tolerant: bool = False,
) -> None:
    """Draw what is `left`: keys, each with whether it is to be scored, or only its images kept.

    `told` is called in the writer with each key that was scored, and its scores of images; by
    default this prints the progress. If it is `tolerant`, samples that are not finite do not end
    the call: every score of theirs is NaN.
    """
    config, networks = experiment.config.sample, None
    programs: set[Any] = set()
    step, samples = left[0][0].checkpoint, left[0][0].samples
    how: dict[str, Any] = dict(mesh=experiment.mesh, like=experiment.model)
    plans = [guidance_lib.plan(k.guidance, experiment.sampler, k.steps)[0] for k, _ in left]
    model = checkpoints.load(workdir, step, **how)
    progress = Progress(0, len(left), samples, unit="drawing")
    for done, ((key, score), plan) in enumerate(zip(left, plans, strict=True), start=1):
        guidance = key.guidance
        log(f"Draw {samples} images: {guidance.describe()}, {key.steps} steps, seed {key.seed}.")
        weak = guidance.weak_workdir, guidance.weak_step, guidance.weak_weights
        if networks != weak:
            networks = weak
            weak_model = weak_networks.load(guidance, workdir, **how, step=step)
        wanted = wanted_by(experiment, key)
        program = (plan, key.steps, guidance.weak_workdir)
        if program not in programs and len(programs) >= MOST_PROGRAMS:
            jax.clear_caches()
            programs.clear()
        draw = functools.partial(
            sample_batches,
            model,
            guidance=guidance,
            weak_model=weak_model,
            **{**experiment.sampling, "seed": key.seed, "steps": key.steps},
        )
        stream = Stream(
            draw,
            wanted,
            judge if score else None,
            keep=functools.partial(keep_images, workdir, key) if key in no_images else None,
            shown=shown,
            compiled=program in programs,
            batch_size=config.batch_size,
            files=_pictures_of(experiment, workdir, key) if score else None,
        )
        programs.add(program)
        about = repr((key, key.decoder, key.labels, key.reference, judge.measures))
        found = None
        try:
            if score:
                found = stream.run(_part_of(workdir, key), about)
            else:
                stream.first()
        except NotFinite as error:  # in all processes
            if not tolerant:
                raise
            log(f"Not counted: {error}")
        if not score or not processes.is_writer():
            continue
        cost = flops.sampling_step(
            model,
            guidance,
            steps=key.steps,
            sampler=experiment.sampler,
            weak_model=weak_model,
        )
        scores: Scores = dict.fromkeys(judge.measures, math.nan)
        if found is not None:
            scores = judge.scores_of(found.sets, Drawing(cost, found.rate))
        rows |= table.add(workdir, {key: scores})
        if found is not None:
            found.finish()
        shares: dict[str, Any] = {n: scores[n] for n in scores if METRICS[n].of_images}
        if told is None:
            progress.update(done, **shares)
        else:
            told(key, shares)


def wanted_by(experiment: Experiment, key: Key) -> np.ndarray | Asked:
    """Return the labels [samples] of a drawing: classes in turn, or drawn uniformly by its seed.

    A network of texts draws captions of the data in a fixed order.
    """
    if key.labels != "uniform":
        return experiment.asked(key.samples)
    drawn = np.random.default_rng([key.seed, key.samples])
    classes = experiment.model.conditioning.num_classes
    return drawn.integers(0, classes, key.samples).astype(np.int32)


def _part_of(workdir: str | os.PathLike, key: Key) -> epath.Path:
    """Return the folder where an interrupted drawing is continued."""
    return files.path(workdir) / "samples" / "scored" / f"{key.digest}.part"


def _pictures_of(experiment: Experiment, workdir: str | os.PathLike, key: Key) -> Any:
    """Return what keeps all images, if `config.evaluate.keep` asks for it; in the writer."""
    keep = experiment.config.evaluate.keep
    if not keep or not processes.is_writer():
        return None
    folder = files.path(workdir) / "samples" / f"evaluate_{key.digest}"
    return drawings.Kept(folder, as_npz=keep == "npz")


def versions() -> str:
    """Return the versions of this project and of jax."""
    project = sys.modules[__name__.partition(".")[0]]
    return f"sg_jax {vars(project)['__version__']}, jax {jax.__version__}"


def images_path(workdir: str | os.PathLike, key: Key) -> epath.Path:
    """Return the file of the first images of a setting."""
    return files.path(workdir) / "samples" / "scored" / f"{key.digest}.npy"


def keep_images(workdir: str | os.PathLike, key: Key, images: np.ndarray) -> None:
    """Write the first images of a setting."""
    buffer = io.BytesIO()
    np.save(buffer, images)
    files.write_atomically(images_path(workdir, key), buffer.getvalue())


def images_of(
    workdir: str | os.PathLike, key: Key, *, shown: int, shape: tuple[int, int, int]
) -> np.ndarray | None:
    """Return the first stored images [shown, *shape] of a setting; None if they are not there."""
    path = images_path(workdir, key)
    if not shown:
        return np.empty(0, np.uint8)
    try:
        images = arrays.from_npy(arrays.read_bytes(path))
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise ValueError(f"{images.dtype} {list(images.shape)}")
    except FileNotFoundError:
        return None
    except Exception as error:  # damaged files raise many kinds of errors
        log(f"{path} cannot be read ({one_line(error)}): these images are drawn again.")
        return None
    return images[:shown] if len(images) >= shown else None
