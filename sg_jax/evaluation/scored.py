"""Draw settings and score them one by one; the first images of each stay in samples/scored."""

import contextlib
import functools
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
from sg_jax.method.guidance import Guidance
from sg_jax.parallel import processes
from sg_jax.programs.sampling import NotFinite, sample_batches
from sg_jax.runs import arrays, files, sharing
from sg_jax.runs.progress import Progress, counted, log
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
) -> None:
    """Draw the keys that are `left`, each with whether to score it or only keep its images.

    Other commands that score this run share the drawings; see `runs.sharing`. `told` is called in
    the writer with each key that was scored, and its scores of images; by default, progress is
    printed instead. Samples that are not finite do not end the call: all their scores are NaN.
    """
    drawing = _Drawing(experiment, judge, workdir, left, no_images, shown)
    progress = Progress(0, len(left), left[0][0].samples, unit="drawing")
    seen: Any = None

    def finished(job: tuple[Key, bool]) -> bool:
        """Return whether another command has added what is missing."""
        nonlocal seen
        key, score = job
        if (now := table.stamp(workdir)) != seen:
            rows.update(table.read(workdir))
            seen = now
        lacks = score and is_left(experiment, judge, workdir, rows, key)
        return not lacks and not drawing.lacks_images(key)

    jobs = sharing.share(left, lambda job: _place_of(workdir, job[0], "lock"), finished)
    with contextlib.closing(jobs):
        for done, ((key, score), theirs) in enumerate(jobs, start=1):
            found = None if theirs else drawing.draw(key, score)
            if not score or not processes.is_writer():
                continue
            if found is not None:
                rows |= table.add(workdir, {key: found.scores})
                seen = table.stamp(workdir)
                found.finish()
            names = [name for name in judge.measures if METRICS[name].of_images]
            shares: dict[str, Any] = {name: rows[key][name] for name in names}
            if told is None:
                progress.update(done, **shares)
            else:
                told(key, shares)


class _Found(NamedTuple):
    scores: Scores
    finish: Callable[[], object]  # to call once they are stored


class _Drawing:
    """Draws keys one after another, and keeps networks and programs for the next one."""

    def __init__(self, experiment, judge, workdir, left, no_images, shown):
        self._experiment, self._judge, self._workdir = experiment, judge, workdir
        self._no_images, self._shown = set(no_images), shown
        self._step = step = left[0][0].checkpoint
        self._plans = {
            key: guidance_lib.plan(key.guidance, experiment.sampler, key.steps)[0]
            for key, _ in left
        }
        self._how = how = dict(mesh=experiment.mesh, like=experiment.model)
        self._model = functools.cache(lambda: checkpoints.load(workdir, step, **how))
        self._weak: tuple[Any, Any] = None, None  # which network, and the network
        self._programs: set[Any] = set()

    def lacks_images(self, key: Key) -> bool:
        """Return whether the first images of a key are wanted but not there."""
        shown, shape = self._shown, self._experiment.image_shape
        return (
            key in self._no_images
            and images_of(self._workdir, key, shown=shown, shape=shape) is None
        )

    def draw(self, key: Key, score: bool) -> _Found | None:
        """Draw and score a key, or draw its first images; return scores in the writer."""
        guidance, judge, experiment = key.guidance, self._judge, self._experiment
        setting = f"{guidance.describe()}, {key.steps} steps, seed {key.seed}"
        log(f"Draw {counted(key.samples, 'image')}: {setting}.")
        model, weak_model = self._model(), self._weak_model(guidance)
        program = (self._plans[key], key.steps, guidance.weak_workdir)
        if program not in self._programs and len(self._programs) >= MOST_PROGRAMS:
            jax.clear_caches()
            self._programs.clear()
        draw = functools.partial(
            sample_batches,
            model,
            guidance=guidance,
            weak_model=weak_model,
            **{**experiment.sampling, "seed": key.seed, "steps": key.steps},
        )
        keep = functools.partial(keep_images, self._workdir, key)
        stream = Stream(
            draw,
            wanted_by(experiment, key),
            judge if score else None,
            keep=keep if key in self._no_images else None,
            shown=self._shown,
            batch_size=experiment.config.sample.batch_size,
            files=_pictures_of(experiment, self._workdir, key) if score else None,
        )
        self._programs.add(program)
        about = repr((key, key.decoder, key.labels, key.reference, judge.measures))
        about += experiment.config.evaluate.keep  # so that a continued drawing has kept its images
        found = None
        try:
            if score:
                found = stream.run(_place_of(self._workdir, key, "part"), about)
            else:
                stream.first()
        except NotFinite as error:  # in all processes
            log(f"Not counted: {error}")
        if not score or not processes.is_writer():
            return None
        if found is None:
            return _Found(dict.fromkeys(judge.measures, math.nan), lambda: None)
        cost = flops.sampling_step(
            model,
            guidance,
            steps=key.steps,
            sampler=experiment.sampler,
            weak_model=weak_model,
        )
        scores = judge.scores_of(found.sets, Drawing(cost, found.rate))
        return _Found(scores, found.finish)

    def _weak_model(self, guidance: Guidance) -> Any:
        """Return the network of the weak prediction, if it is another one; the last one is kept."""
        which = guidance.weak_workdir, guidance.weak_step, guidance.weak_weights
        if self._weak[0] != which:
            self._weak = None, None  # frees the last one
            model = weak_networks.load(guidance, self._workdir, **self._how, step=self._step)
            self._weak = which, model
        return self._weak[1]


def wanted_by(experiment: Experiment, key: Key) -> np.ndarray | Asked:
    """Return the labels [samples] of a drawing: classes in turn, or drawn uniformly by its seed.

    A network of texts draws captions of the data in a fixed order.
    """
    if key.labels != "uniform":
        return experiment.asked(key.samples)
    drawn = np.random.default_rng([key.seed, key.samples])
    classes = experiment.model.conditioning.num_classes
    return drawn.integers(0, classes, key.samples).astype(np.int32)


def _place_of(workdir: str | os.PathLike, key: Key, kind: str) -> epath.Path:
    """Return the folder where an interrupted drawing is continued, "part", or its "lock"."""
    return files.path(workdir) / "samples" / "scored" / f"{key.digest}.{kind}"


def _pictures_of(experiment: Experiment, workdir: str | os.PathLike, key: Key) -> Any:
    """Return what keeps all images, if `config.evaluate.keep` asks for it; in the writer."""
    keep = experiment.config.evaluate.keep
    if not keep or not processes.is_writer():
        return None
    return drawings.Kept(_kept_in(workdir, key), as_npz=keep == "npz")


def _kept_in(workdir: str | os.PathLike, key: Key) -> epath.Path:
    return files.path(workdir) / "samples" / f"evaluate_{key.digest}"


def is_left(
    experiment: Experiment,
    judge: Judge,
    workdir: str | os.PathLike,
    rows: table.Table,
    key: Key,
) -> bool:
    """Return whether a drawing lacks a metric, or images that `config.evaluate.keep` asks for.

    Samples that were not finite have no such images.
    """
    scores = rows.get(key, {})
    if judge.lacks(scores):
        return True
    return is_finite(judge, scores) and _lacks_pictures(experiment, workdir, key)


def is_finite(judge: Judge, scores: Scores) -> bool:
    """Return whether the images with these scores were finite, as far as anyone knows."""
    return any(math.isfinite(scores.get(name) or 0.0) for name in judge.measures)


def _lacks_pictures(experiment: Experiment, workdir: str | os.PathLike, key: Key) -> bool:
    keep, folder = experiment.config.evaluate.keep, _kept_in(workdir, key)
    if not keep:
        return False
    if keep == "npz" and not folder.with_suffix(".npz").exists():
        return True
    return len(files.named(folder, "*.png")) < key.samples


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
