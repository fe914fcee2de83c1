"""What is drawn and measured during training: sample grids, the held-out loss, a small evaluation.

All of it reads the moving average and has images of its own. So the input pipeline is unaffected,
and a run trains to the same bits with or without it.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from etils import epath
from PIL import Image

from sg_jax.config.experiment import Experiment
from sg_jax.config.sections import Config
from sg_jax.config.training import EVAL, HELDOUT
from sg_jax.data import wording
from sg_jax.data.asked import labels_of
from sg_jax.data.sources import Source, open_source, options_of
from sg_jax.errors import UserError, nearest
from sg_jax.evaluation import comparable, scoring
from sg_jax.evaluation.judge import Judge
from sg_jax.evaluation.metrics import METRICS, Scores
from sg_jax.method.objective import in_words
from sg_jax.models.backbone import Backbone
from sg_jax.models.kinds import reads_texts
from sg_jax.modes import grids
from sg_jax.parallel import processes, sharding
from sg_jax.programs import heldout
from sg_jax.programs.sampling import NotFinite, sample_batches
from sg_jax.programs.training import TrainState
from sg_jax.runs import files
from sg_jax.runs.progress import Spent, log
from sg_jax.runs.records import Writer
from sg_jax.runs.tracking import Tracker
from sg_jax.weights import best
from sg_jax.weights.best import Best


def check(experiment: Experiment, source: Source) -> None:
    """Raise, before any long work, if something asked for cannot be drawn or measured.

    Raises:
      UserError: an unknown metric, or a test split that cannot be opened or is of other images.
    """
    config = experiment.config
    check_metric(config)
    if config.train.heldout_every:
        split = _open_heldout(config, source)
        if experiment.wording is not None:
            wording.check(experiment.wording, split)
    if config.train.evaluate_every:
        scoring.check_ready(config, source, experiment.image_shape[0])


def check_metric(config: Config) -> None:
    """Raise unless the number that the best checkpoint is chosen by will be measured."""
    metric, every = config.checkpoint.keep_best, [m.name for m in METRICS.values() if m.of_images]
    measured = (HELDOUT, *(m.name for m in scoring.measured(config) if m.of_images))
    if not metric or metric in measured:
        return
    if metric in every:
        raise UserError(
            f"config.checkpoint.keep_best={metric!r} is not measured by this run's evaluations, "
            f"which have {', '.join(measured)}: choose one of these, or add it to "
            "config.evaluate.metrics."
        )
    raise UserError(
        f"config.checkpoint.keep_best={metric!r} must be one of {', '.join(measured)}, or ''."
        + nearest(metric, measured)
    )


class Watch:
    """Draw and measure now and then while a run trains.

    Args:
      experiment: the run's objects; its autoencoder decodes what is drawn.
      source: the training images.
      workdir: the folder of the run.
    """

    def __init__(self, experiment: Experiment, source: Source, workdir: str):
        self._experiment, self._source, self._workdir = experiment, source, workdir
        self._images: heldout.Images | None = None
        self._judge: Judge | None = None
        self._programs: dict[float, Callable] = {}  # of the held-out loss, by sparsity rate
        self._opened = False
        self._metric = metric = experiment.config.checkpoint.keep_best
        self._better = -1 if metric in ("", HELDOUT) else METRICS[metric].better
        self._names = comparable.names_of(experiment)

    def open(self, spent: Spent) -> None:
        """Read the held-out images and open the judge, once, before the first step."""
        config, experiment = self._experiment.config, self._experiment
        if self._opened:
            return
        if config.train.heldout_every:
            with spent.on("held-out loss"):
                split = _open_heldout(config, self._source)
                count = min(config.train.heldout_images, len(split))
                # As many at a time as training holds, or fewer if there are not that many.
                parts, at_once = sharding.batch_devices(experiment.mesh), config.train.batch_size
                batch = min(at_once // config.train.accumulate, -(-count // parts) * parts)
                how = (count, batch, config.seed, experiment.mesh, experiment.wording)
                self._images = heldout.read(split, *how)
        if config.train.evaluate_every:
            with spent.on("evaluation"):
                side = experiment.image_shape[0]
                self._judge = scoring.open_judge(config, self._source, self._workdir, side)
        self._opened = True

    def after(
        self,
        step: int,
        state: TrainState,
        writer: Writer,
        spent: Spent,
        *teachers: Backbone,
    ) -> dict[str, float]:
        """Draw and measure whatever is due after a step.

        Args:
          step: the step.
          state: the state after it.
          writer: writes the pictures.
          spent: records the time.
          teachers: the networks that make the target, if there are any.

        Returns:
          The numbers found, for the record of the step; every process has the one that decides
          which checkpoint is the best.
        """
        train, found = self._experiment.config.train, {}
        if train.sample_every and step % train.sample_every == 0:
            with self._timed(spent, "pictures", state):
                grids.draw(self._experiment, state, writer, self._workdir, step)
        if train.heldout_every and step % train.heldout_every == 0:
            with self._timed(spent, "held-out loss", state):
                found[HELDOUT] = self._heldout_loss(step, state, *teachers)
        if train.evaluate_every and step % train.evaluate_every == 0:
            with self._timed(spent, "evaluation", state):
                found |= self._evaluate(step, state)
        return found

    def is_due(self, step: int) -> bool:
        """Return whether anything is due after a step."""
        train = self._experiment.config.train
        every = (train.sample_every, train.heldout_every, train.evaluate_every)
        return any(each and step % each == 0 for each in every)

    def best_of(self, step: int, found: dict[str, float], before: Best | None) -> Best | None:
        """Return the step as the best one so far, if it is; all processes agree.

        Args:
          step: the step.
          found: what `after` returned.
          before: the previous best one.
        """
        name = self._metric if self._metric == HELDOUT else f"{EVAL}{self._metric}"
        plain, metric = self._names
        if before is not None and before.metric == plain:
            before = dataclasses.replace(before, metric=metric)
        if name not in found or not best.improves(found[name], metric, self._better, before):
            return None
        log(f"Step {step} is the best so far: {plain} {found[name]:.4g}.")
        return Best(step, metric, found[name])

    @contextlib.contextmanager
    def _timed(self, spent: Spent, what: str, state: TrainState) -> Iterator[None]:
        jax.block_until_ready(state)  # otherwise the queued steps would count
        with spent.on(what):
            yield

    def _heldout_loss(self, step: int, state: TrainState, *teachers: Backbone) -> float:
        """Return the loss; with several rates, its mean weighted by their shares."""
        model, mesh, images = state.ema, self._experiment.mesh, self._images
        rates = self._experiment.heldout_rates
        assert images is not None
        value = 0.0
        for gamma, share in rates:
            if gamma not in self._programs:
                objective = self._experiment.objective_at(gamma)
                self._programs[gamma] = heldout.compile_sum(objective, model, mesh, *teachers)
            found = heldout.mean(self._programs[gamma], model, images, mesh, *teachers)
            value += share * found
        log(
            f"Step {step}: held-out loss {value:.4g}, of {images.count:,} images at γ "
            f"{in_words(rates)} by the moving average."
        )
        return value

    def _evaluate(self, step: int, state: TrainState) -> dict[str, float]:
        """Draw in all processes and score in the writer; what fails of it does not end training."""
        train, of_images = self._experiment.config.train, {}
        for name, value in self._scores(step, state).items():
            if METRICS[name].of_images and value is not None:
                of_images[name] = float(value)
        if of_images:
            listed = ", ".join(f"{name} {value:.4g}" for name, value in of_images.items())
            log(
                f"Step {step}: {listed}; {train.evaluate_samples:,} images by the moving "
                f"average, {train.evaluate_guidance}."
            )
        found = {f"{EVAL}{name}": value for name, value in of_images.items()}
        if self._metric not in ("", HELDOUT):
            name = f"{EVAL}{self._metric}"
            found[name] = processes.number_from_writer(found.get(name, np.nan))
        return found

    def _scores(self, step: int, state: TrainState) -> Scores:
        """Return the scores of some images in the writer; none in other processes, or if it fails.

        All processes find the same samples, and so agree on whether these are finite.
        """
        experiment, train = self._experiment, self._experiment.config.train
        guidance = experiment.settings[train.evaluate_guidance]
        wanted = experiment.asked(train.evaluate_samples)
        labels = labels_of(wanted)
        assert self._judge is not None
        tallies, done = self._judge.tallies(len(labels)), 0
        how = dict(weak_model=grids.weak_of(state, guidance), **experiment.sampling)
        with _left_out(step, "evaluation", NotFinite):
            for images in sample_batches(state.ema, wanted, guidance, **how):
                seen = self._judge.observe(images)
                if processes.is_writer():
                    tallies.add(seen, labels[done : done + len(images)])
                done += len(images)
        if done == len(labels) and processes.is_writer():
            with _left_out(step, "evaluation", UserError):  # such as too few images
                return self._judge.scores_of(tallies.results())
        return {}


@contextlib.contextmanager
def _left_out(step: int, what: str, error: type[UserError]) -> Iterator[None]:
    """Log an error of this type instead of ending the run."""
    try:
        yield
    except error as failed:
        log(f"Step {step}: this {what} failed and is left out. {failed}")


def send(tracker: Tracker, step: int, workdir: str, paths: Sequence[epath.Path]) -> None:
    """Send what the modes after training wrote to a tracker: the scores, and the pictures.

    Args:
      tracker: where to.
      step: the last one.
      workdir: the folder of the run.
      paths: of what they wrote.
    """
    if not tracker.active:
        return
    for path in paths:
        if path.suffix == ".png":
            with path.open("rb") as file, Image.open(file) as picture:
                tracker.image(step, path.stem, np.asarray(picture.convert("RGB")))
    if any(path.name == "report.html" for path in paths):
        rows = json.loads((files.path(workdir) / "report.json").read_bytes())
        values = {
            f"evaluate/{row['name']}/{name}": row[name]
            for row in rows
            for name, metric in METRICS.items()
            if metric.of_images and row.get(name) is not None
        }
        tracker.scalars(step, values)


def _open_heldout(config: Config, source: Source) -> Source:
    """Return the split for the held-out loss; for latents, it is a split of the latents."""
    data = config.data
    try:
        how = dict(key="test_split", captioned=reads_texts(config.model.kind), **options_of(data))
        found = open_source(source.name, data.test_split, **how)
    except UserError as error:
        raise UserError(
            f"{error} config.train.heldout_every={config.train.heldout_every} reads that split; 0 "
            "turns this off."
        ) from None
    same = found.image_shape == source.image_shape and found.num_classes == source.num_classes
    if not same:
        raise UserError(
            f"config.data.test_split={data.test_split!r} has examples of {found.image_shape} in "
            f"{found.num_classes} classes, but the training split has {source.image_shape} in "
            f"{source.num_classes}."
        )
    return found
