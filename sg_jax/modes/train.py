"""Train a network: restore or start, then for each step: data, step, log, sample, save."""

import contextlib
import json
import time
from collections.abc import Callable

import jax

from sg_jax.config import record, trust
from sg_jax.config.experiment import Experiment
from sg_jax.config.sections import Config
from sg_jax.costs import flops
from sg_jax.data import identity, wording
from sg_jax.data.pipeline import seek
from sg_jax.data.sources import Source
from sg_jax.errors import UserError
from sg_jax.evaluation import measure, scoring
from sg_jax.method.objective import Rates, in_words
from sg_jax.models.backbone import Backbone
from sg_jax.modes import dry_train, watching
from sg_jax.modes.base import MODES, Job, Mode, register, weak_paths
from sg_jax.parallel import processes, sharding
from sg_jax.programs.health import Diverged, Health, losses_by_rate
from sg_jax.programs.training import TrainState, abstract_state, init_state, start_state
from sg_jax.runs import lock, tracking
from sg_jax.runs.profiler import Profiler
from sg_jax.runs.progress import Progress, Spent, log
from sg_jax.runs.records import Writer
from sg_jax.runs.tracking import Tracker
from sg_jax.weights import checkpoints, starts, teachers
from sg_jax.weights.rollbacks import Rollbacks
from sg_jax.weights.saver import Saver

POSITION = "data_position"  # a number saved with a state
AHEAD = 4  # steps that may be queued on the devices; a stop signal has to wait for them


def train(
    experiment: Experiment,
    source: Source,
    workdir: str,
    held: lock.Held | None = None,
    tracker: Tracker | None = None,
) -> TrainState:
    """Train to `config.train.steps`, continuing from the latest checkpoint in `workdir`.

    SIGTERM and Ctrl-C, in any process, save before they end the run; the same command then
    continues it.

    Args:
      experiment: the run's objects; its autoencoder decodes what is drawn.
      source: the training images.
      workdir: the folder of the run.
      held: the run's hold of that folder.
      tracker: gets what `Writer` writes.

    Returns:
      The last state.

    Raises:
      UserError: training has diverged, and is set to stop then, or has diverged too often.
    """
    compiled: dict[Rates, Callable] = {}  # one program for each rate, or set of rates to draw from
    rollbacks = Rollbacks(workdir)
    watch = watching.Watch(experiment, source, workdir)
    with processes.stop_signals() as stop:
        while True:
            try:
                return _train(
                    experiment, source, workdir, held, tracker, watch, stop, compiled, rollbacks
                )
            except Diverged as diverged:
                rollbacks.after(diverged, experiment.config)


def _train(
    experiment: Experiment,
    source: Source,
    workdir: str,
    held: lock.Held | None,
    tracker: Tracker | None,
    watch: watching.Watch,
    stop: Callable[..., str],
    compiled: dict[Rates, Callable],
    rollbacks: Rollbacks,
) -> TrainState:
    """Train until the end or a signal, or raise Diverged."""
    config, mesh = experiment.config, experiment.mesh
    every, total = config.checkpoint.every, config.train.steps
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    spent = Spent()
    abstract = abstract_state(experiment.make_model, experiment.tx, mesh, config.train.ema_decays)
    with (
        Saver(workdir, every, config.checkpoint.keep, config.checkpoint.keep_period) as saver,
        contextlib.ExitStack() as stack,
    ):
        with spent.on("start"):
            state, kept, frozen = _start(experiment, saver, abstract, init_key)
            position = kept.pop(POSITION)
        start = int(state.step)
        if start >= total:
            log(f"{workdir} is trained already: step {start} of {total}.")
            return state
        if start:
            log(f"Continue {workdir} from step {start} of {total}.")
        data = stack.enter_context(contextlib.closing(experiment.batches(source)))
        position = rollbacks.position(start, position)
        watch.open(spent)
        seek(data, position)
        traced, again = config.profile, len(rollbacks) > 0
        profiler = Profiler(traced.start, traced.steps, workdir, resumed=start, again=again)
        stack.callback(profiler.stop)
        writer = stack.enter_context(contextlib.closing(Writer(workdir, start, tracker)))
        names = list(checkpoints.named(experiment.model))
        health = Health(experiment.model, names, config.train.batch_size)
        progress, pending = None, []
        began = time.perf_counter()
        for step in range(start + 1, total + 1):
            profiler.before(step)
            with spent.on("waiting for data"):
                batch = sharding.to_global(next(data), mesh)
            position += 1
            rates = experiment.rates_at(step)
            if fresh := rates not in compiled:
                compiled[rates] = experiment.compile_train_step(rates, abstract, *frozen)
                log(f"Step {step}: training at γ {in_words(rates)}, program {len(compiled)}.")
            with spent.on("compile") if fresh else contextlib.nullcontext():
                state, metrics = compiled[rates](state, batch, step_key, *frozen)
            pending.append(metrics)
            if len(pending) > AHEAD:
                jax.block_until_ready(pending[-1 - AHEAD])
            if progress is None:
                jax.block_until_ready(state)
                log(f"First step, with its compile: {time.perf_counter() - began:.1f} s.")
                progress = Progress(step, total, config.train.batch_size)
            elif fresh:
                jax.block_until_ready(state)
                progress.restart(step)
            if profiler.after(step, state):
                progress.restart(step)
            stopped = stop()  # asked once per step, so that the answer and the checkpoint agree
            last = step == total or bool(stopped)
            found: dict[str, float] = {}
            if step % config.train.log_every == 0 or last:
                seen = jax.device_get(pending)
                means = health.means(step, seen, last=step == total)
                pace = progress.update(step, **means)
                rate = float(experiment.schedule(step - 1))  # counted from 0
                speed = _speed(experiment, rates, pace)
                back = {"rollbacks": len(rollbacks)} if len(rollbacks) else {}
                by_rate = losses_by_rate(rates, seen)
                found = {**means, "learning_rate": rate, **pace, **speed, **back, **by_rate}
                pending = []
            due, saves = watch.is_due(step), last or saver.should_save(step)
            if due or saves:
                # So that nothing spoiled is drawn, or replaces a good checkpoint.
                health.check(step, jax.device_get(pending))
                health.check_state(step, state, mesh)
            if due:
                found |= watch.after(step, state, writer, spent, *frozen)
                progress.restart(step)
            if found:
                writer.scalars(step, found)
            best = watch.best_of(step, found, saver.best)
            if saves or best:
                writer.flush()  # so that a resumed run has all records up to its checkpoint
                if held is not None:
                    held.check()  # or two runs would save into one folder
                with spent.on("checkpoints"):
                    saver.save(state, step, {POSITION: position, **kept}, best)
                    if last:
                        saver.wait()
            if last:
                break
        profiler.close(step)
        log(spent.report("steps"))
        if stopped := stopped or stop(last=True):
            message = (
                f"Stopped by {stopped} at step {step} of {total}; saved. The same command "
                "continues."
            )
            raise SystemExit(message if processes.is_writer() else 1)
    return state


def _start(
    experiment: Experiment, saver: Saver, abstract: TrainState, key: jax.Array
) -> tuple[TrainState, dict[str, int], list[Backbone]]:
    """Return what training starts from: the latest checkpoint's state, or a new one.

    Returns:
      The state; the numbers that are saved with it, which are the data position and the steps of
      the teachers' checkpoints; and the teachers, if there are any.
    """
    config, mesh, decays = experiment.config, experiment.mesh, experiment.config.train.ema_decays
    restored, source = saver.restore(abstract), config.train.init_from
    numbers = restored[1] if restored else {POSITION: 0}
    kept = {name: numbers[name] for name in (POSITION, *teachers.NUMBERS) if name in numbers}
    frozen: list[Backbone] = []
    if (taught := experiment.taught) is not None:
        frozen, steps = teachers.load(source, experiment.model, taught, mesh, kept)
        kept |= steps
        log(f"The target of training is made by {source}: {taught.describe()}.")
    if restored:
        return restored[0], kept, frozen
    state = init_state(experiment.make_model, experiment.tx, mesh, key, decays)
    if source:
        model = starts.load(source, state.model, mesh, kept.get(teachers.STRONG))
        state = start_state(model, state.opt_state, decays)
        log(f"Start from the weights of {source}.")
    return state, kept, frozen


def _speed(experiment: Experiment, rates: Rates, pace: dict[str, float]) -> dict[str, float]:
    """Return TFLOP/s, and their share of the devices' peak (MFU) if the peak is known."""
    if not pace:
        return {}
    batch, taught = experiment.config.train.batch_size, experiment.taught
    cost = flops.training_step(experiment.model, rates, batch, full=True, teacher=taught)
    speed = cost * pace["steps_per_second"]
    found = {"tflops_per_second": speed / 1e12}
    if peak := flops.peak(jax.devices()[0].device_kind):
        found["mfu"] = speed / (peak * experiment.mesh.size)
    return found


def run(job: Job) -> list:
    """Train the network of a job, then run the modes in `config.train.then`."""
    source, workdir = job.source, job.workdir
    assert job.config is not None and source is not None
    config = (experiment := job.experiment).config.train
    tracking.check(experiment.config.track)
    drawn = config.sample_every or config.evaluate_every or "evaluate" in config.then
    experiment = job.drawing if drawn else experiment
    begun = bool(steps := checkpoints.steps_of(workdir))
    if begun and record.is_exported(workdir):
        raise UserError(
            f"--workdir={workdir} was exported without the state of its training, so it cannot be "
            "continued: start a new run from it, with another --workdir and "
            f"--config.train.init_from={workdir}."
        )
    if begun and steps[-1] > config.steps:
        raise UserError(
            f"config.train.steps={config.steps} is less than the {steps[-1]} that {workdir} has: "
            "raise it. config.sample.checkpoint and config.evaluate.step choose earlier weights."
        )
    if config.init_from and not begun:
        starts.check(config.init_from, experiment.model)
    if (taught := experiment.taught) is not None:
        teachers.check(config.init_from, experiment.model, taught, experiment.objective.distill)
    _check_evaluation(experiment, source)
    if experiment.wording is not None:
        wording.check(experiment.wording, source)
        if experiment.config.data.flip:
            log("config.data.flip=True mirrors images, whose captions may say left and right.")
    watching.check(experiment, source)
    experiment.check_training()
    with contextlib.ExitStack() as stack:
        # What is trained already holds the folder only for a moment, and so may the same command.
        with lock.hold(workdir, patience=60 * (steps[-1:] == [config.steps])) as held:
            about = identity.of(source, experiment.texts)
            record.prepare(workdir, job.config, source.class_names, begun, about)
            settings = json.loads(job.config.to_json_best_effort())
            tracker = Tracker(experiment.config.track, workdir, settings)
            train(experiment, source, workdir, held, stack.enter_context(tracker))
        paths = [path for name in config.then for path in MODES[name].run(job)]
        watching.send(tracker, config.steps, workdir, paths)
    return paths


def _paths(config: Config, workdir: str) -> list[str]:
    """Return the keys of the paths that training uses.

    A run that has begun starts from itself, but its teachers stay where they are.
    """
    used = config.objective.distill or not checkpoints.steps_of(workdir)
    keys = ["train.init_from"] if used else []
    keys += weak_paths([config.objective.distill]) if config.objective.distill else []
    drawn = config.train.sample_every or config.train.evaluate_every
    keys += ["autoencoder.path"] if drawn else []
    keys += trust.JUDGES if config.train.evaluate_every else []
    keys += [trust.TRACK] if config.track.name else []
    return keys + [key for name in config.train.then for key in MODES[name].paths(config, workdir)]


def _check_evaluation(experiment: Experiment, source: Source) -> None:
    """Raise if the modes that follow training would find something missing."""
    config = experiment.config
    drawn = [config.sample.guidance] if "sample" in config.train.then else []
    if "evaluate" in config.train.then:
        drawn += config.evaluate.guidance
        scoring.check_ready(config, source, experiment.image_shape[0])
    for name in drawn:
        guidance = experiment.settings[name]
        if guidance.weak_workdir:
            measure.resolved(experiment, guidance, guidance.weak_workdir)


MODE = register(
    Mode(
        "train",
        "train, or continue; then run the modes in config.train.then",
        run,
        handles_stop=True,
        dry=dry_train.train,
        writes=("", "checkpoints", "tensorboard", "samples", "samples/scored"),
        paths=_paths,
    )
)
