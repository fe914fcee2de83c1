"""Train a network: restore or start, then for each step: data, step, log, sample, save."""

import contextlib
import math
import time

import jax
import numpy as np

from sg_jax.config import record
from sg_jax.config.experiment import Experiment
from sg_jax.costs import flops
from sg_jax.data.pipeline import seek
from sg_jax.data.sources import Source
from sg_jax.errors import UserError
from sg_jax.evaluation import measure, pictures, scoring
from sg_jax.method.guidance import Guidance
from sg_jax.modes.base import MODES, Job, Mode, register
from sg_jax.parallel import processes, sharding
from sg_jax.programs.sampling import sample
from sg_jax.programs.training import TrainState, abstract_state, init_state, start_state
from sg_jax.runs import files
from sg_jax.runs.profiler import Profiler
from sg_jax.runs.progress import Progress, Spent, log
from sg_jax.runs.records import Writer
from sg_jax.weights import checkpoints
from sg_jax.weights.saver import Saver

AHEAD = 4  # steps that may be queued on the devices; a stop signal has to wait for them


def train(experiment: Experiment, source: Source, workdir: str) -> TrainState:
    """Train to `config.train.steps`, continuing from the latest checkpoint in `workdir`.

    SIGTERM and Ctrl-C, in any process, save before they end the run; the same command then
    continues it.

    Returns:
      The last state.
    """
    config, mesh = experiment.config, experiment.mesh
    every, total = config.checkpoint.every, config.train.steps
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    decays = config.train.ema_decays
    spent = Spent()
    abstract = abstract_state(experiment.make_model, experiment.tx, mesh, decays)
    with (
        Saver(workdir, every, config.checkpoint.keep, config.checkpoint.keep_period) as saver,
        processes.stop_signals() as stop,
        contextlib.ExitStack() as stack,
    ):
        with spent.on("start"):
            state, position = _start(experiment, saver, abstract, init_key)
        start = int(state.step)
        if start >= total:
            log(f"{workdir} is trained already: step {start} of {total}.")
            return state
        if start:
            log(f"Continue {workdir} from step {start} of {total}.")
        data = experiment.batches(source)
        seek(data, position)
        profiler = Profiler(
            config.profile.start, config.profile.steps, workdir=workdir, resumed=start
        )
        compiled = {}  # one program per sparsity rate
        writer = stack.enter_context(contextlib.closing(Writer(workdir, start)))
        progress, pending = None, []
        began = time.perf_counter()
        for step in range(start + 1, total + 1):
            profiler.before(step)
            with spent.on("waiting for data"):
                batch = sharding.to_global(next(data), mesh)
            position += 1
            gamma = experiment.gamma_at(step)
            if fresh := gamma not in compiled:
                compiled[gamma] = experiment.compile_train_step(gamma, abstract)
                log(f"Step {step}: training at γ {gamma:g}, program {len(compiled)}.")
            with spent.on("compile") if fresh else contextlib.nullcontext():
                state, metrics = compiled[gamma](state, batch, step_key)
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
            if step % config.train.log_every == 0 or last:
                means = _means(pending, step)
                rates = progress.update(step, **means)
                rate = float(experiment.schedule(step - 1))  # counted from 0
                speed = _speed(experiment, gamma, rates)
                writer.scalars(step, {**means, "learning_rate": rate, **rates, **speed})
                pending = []
            if config.train.sample_every and step % config.train.sample_every == 0:
                with spent.on("pictures"):
                    _sample_grid(experiment, state, writer, workdir, step)
                progress.restart(step)
            if last or saver.should_save(step):
                _means(pending, step)  # so that non-finite weights do not replace good ones
                writer.flush()  # so that a resumed run has all records up to its checkpoint
                with spent.on("checkpoints"):
                    saver.save(state, step, {"data_position": position})
                    if last:
                        saver.wait()
            if last:
                break
        profiler.close(step)
        log(spent.report("steps"))
    if step < total:
        message = (
            f"Stopped by {stopped} at step {step} of {total}; saved. The same command continues."
        )
        raise SystemExit(message if processes.is_writer() else 1)
    return state


def _start(
    experiment: Experiment, saver: Saver, abstract: TrainState, key: jax.Array
) -> tuple[TrainState, int]:
    """Return the state and data position to continue from: the latest checkpoint's, or new ones."""
    if restored := saver.restore(abstract):
        state, progress = restored
        return state, progress["data_position"]
    config, mesh, decays = experiment.config, experiment.mesh, experiment.config.train.ema_decays
    state = init_state(experiment.make_model, experiment.tx, mesh, key, decays)
    if config.train.init_from:
        model = checkpoints.load(config.train.init_from, mesh=mesh, like=state.model)
        state = start_state(model, state.opt_state, decays)
        log(f"Start from the weights of {config.train.init_from}.")
    return state, 0


def _speed(experiment: Experiment, gamma: float, rates: dict[str, float]) -> dict[str, float]:
    """Return TFLOP/s, and their share of the devices' peak (MFU) if the peak is known."""
    if not rates:
        return {}
    batch = experiment.config.train.batch_size
    cost = flops.training_step(experiment.model, gamma, batch, full=True)
    speed = cost * rates["steps_per_second"]
    found = {"tflops_per_second": speed / 1e12}
    if peak := flops.peak(jax.devices()[0].device_kind):
        found["mfu"] = speed / (peak * experiment.mesh.size)
    return found


def _means(pending: list[dict], step: int) -> dict[str, float]:
    """Return the mean of each metric over the steps since the last record; raise for NaN."""
    host = jax.device_get(pending)
    if not host:
        return {}
    means = {name: float(np.mean([m[name] for m in host])) for name in host[0]}
    if not math.isfinite(means["loss"]):
        raise UserError(
            f"The loss is {means['loss']} at step {step}; the last checkpoint is older. Lower "
            "config.optimizer.learning_rate or set config.optimizer.clip_norm in a new --workdir, "
            "with --config.train.init_from=RUN to start from that checkpoint's weights."
        )
    return means


def _sample_grid(experiment: Experiment, state: TrainState, writer, workdir, step) -> None:
    """Draw a small grid from the moving average, one column per class."""
    config = experiment.config
    guidance = experiment.settings[config.sample.guidance]
    if guidance.two_networks:  # the weak network may not be trained yet
        guidance = Guidance(gamma_strong=guidance.gamma_strong)
    conditioning = experiment.model.conditioning
    columns = min(conditioning.num_classes, 10)
    rows = max(1, min(10, config.sample.batch_size // columns))  # same program as --mode sample
    images = sample(
        state.ema,
        np.tile(conditioning.in_turn(columns), rows),
        guidance=guidance,
        **experiment.sampling,
    )
    picture = pictures.grid(images.reshape(rows, columns, *images.shape[1:]))
    writer.image(step, "samples", np.asarray(picture.convert("RGB")))
    if processes.is_writer():
        pictures.save_png(picture, files.path(workdir) / "samples" / f"step_{step:07d}.png")


def run(job: Job) -> list:
    """Train the network of a job, then run the modes in `config.train.then`."""
    experiment, source, workdir = job.experiment, job.source, job.workdir
    assert job.config is not None and source is not None
    config = experiment.config.train
    if config.init_from:
        checkpoints.check_start(config.init_from, experiment.model)
    _check_evaluation(experiment, source)
    begun = bool(checkpoints.steps_of(workdir))
    record.prepare(workdir, job.config, source.class_names, begun)
    train(experiment, source, workdir)
    return [path for name in config.then for path in MODES[name].run(job)]


def _check_evaluation(experiment: Experiment, source: Source) -> None:
    """Raise if the modes that follow training would find something missing."""
    config = experiment.config
    drawn = [config.sample.guidance] if "sample" in config.train.then else []
    if "evaluate" in config.train.then:
        drawn += config.evaluate.guidance
        scoring.check_ready(config, source)
    for name in drawn:
        guidance = experiment.settings[name]
        if guidance.weak_workdir:
            measure.resolved(experiment, guidance, guidance.weak_workdir)


MODE = register(
    Mode(
        "train",
        "train, or continue; then the modes in config.train.then",
        run,
        handles_stop=True,
    )
)
