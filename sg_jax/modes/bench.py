"""Time training and sampling steps side by side in one run; print ratios beside FLOPs ratios."""

import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sg_jax.config.experiment import Experiment
from sg_jax.costs import flops
from sg_jax.method import checks, schedule
from sg_jax.method import guidance as guidance_lib
from sg_jax.method.guidance import Guidance
from sg_jax.models.backbone import Backbone
from sg_jax.parallel import processes
from sg_jax.parallel.sharding import batch_sharding, check_batch
from sg_jax.programs.sampling import image_keys, integrate, spread
from sg_jax.programs.training import init_state
from sg_jax.runs import files
from sg_jax.runs.progress import log

STEPS = 4  # sampling steps of one timed call


def run(experiment: Experiment, workdir: str) -> list[dict]:
    """Measure a training step (routed and dense) and a sampling step of each guidance setting.

    The programs take turns, so that a slow moment of the machine meets them all; a ratio is the
    median over rounds. Weights are fresh: the cost of a step does not depend on them.
    """
    path = files.path(workdir) / "bench.json" if workdir else None
    config, gamma = experiment.config, experiment.config.objective.gamma
    check_batch("config.sample.batch_size", config.sample.batch_size, experiment.mesh)
    results = []
    programs = {f"train, γ {g:g}": training(experiment, g) for g in dict.fromkeys((0.0, gamma))}
    costs = {
        f"train, γ {g:g}": flops.training_step(
            experiment.model, g, config.train.batch_size, full=True
        )
        for g in (0.0, gamma)
    }
    results += _race(programs, costs, config.bench.repeats, 1)
    names = dict.fromkeys(("cfg", *config.evaluate.guidance, "sg_flops"))
    able, notes = checks.possible(experiment.model, {n: experiment.settings[n] for n in names})
    for note in notes:
        log(note)
    settings = {f"sample, {n} ({g.describe()})": g for n, g in able.items()}
    key = jax.random.key(0)
    model = init_state(experiment.make_model, experiment.tx, experiment.mesh, key).model
    programs = {label: _sampling(experiment, model, g) for label, g in settings.items()}
    timed = dict(full=True, steps=STEPS, sampler=experiment.sampler)
    costs = {
        label: config.sample.batch_size * flops.sampling_step(model, g, **timed)
        for label, g in settings.items()
    }
    results += _race(programs, costs, config.bench.repeats, STEPS)
    if path and processes.is_writer():
        files.write_atomically(path, json.dumps(results, indent=1, ensure_ascii=False).encode())
        log(f"Written to {path}.")
    return results


def training(experiment: Experiment, gamma: float) -> Callable[[], None]:
    """Return a function that runs one training step at sparsity rate gamma and waits for it."""
    config, model = experiment.config, experiment.model
    state = init_state(experiment.make_model, experiment.tx, experiment.mesh, jax.random.key(0))
    step = experiment.compile_train_step(gamma, state)
    shape = (config.train.batch_size, model.image_size, model.image_size, model.channels)
    batch = {"image": np.zeros(shape, np.float32), "label": np.zeros(shape[:1], np.int32)}
    batch = jax.device_put(batch, batch_sharding(experiment.mesh))

    def call():
        nonlocal state
        state, metrics = step(state, batch, jax.random.key(0))
        jax.block_until_ready((state, metrics))

    return call


def _sampling(experiment: Experiment, model: Backbone, guidance: Guidance) -> Callable[[], None]:
    """Return a function that runs `STEPS` sampling steps and waits for them."""
    config, mesh, sampler = experiment.config, experiment.mesh, experiment.sampler
    keys = image_keys(0, 0, config.sample.batch_size)
    labels, keys = spread(np.zeros(config.sample.batch_size, np.int32), keys, mesh)
    plan = guidance_lib.plan(guidance, np.asarray(sampler.times(STEPS)))
    weak_model = model if plan.two_networks else None
    scales = jnp.asarray(schedule.values(guidance.scale, STEPS), jnp.float32)
    arguments = dict(plan=plan, sampler=sampler, steps=STEPS, mesh=mesh, chunk=config.sample.chunk)

    def call():
        x = integrate(model, weak_model, labels, keys, scales, **arguments)
        jax.block_until_ready(x)

    return call


def _race(
    programs: dict[str, Callable], costs: dict[str, float], repeats: int, steps: int
) -> list[dict]:
    """Time the programs in turns; the first is what the others are compared with."""
    compiles = {}
    for name, call in programs.items():
        began = time.perf_counter()
        call()
        compiles[name] = time.perf_counter() - began
    seconds = {name: [] for name in programs}
    for _ in range(repeats):
        for name, call in programs.items():
            began = time.perf_counter()
            call()
            seconds[name].append((time.perf_counter() - began) / steps)
    first = next(iter(programs))
    width, results = max(map(len, programs)), []
    log(f"\n{'':{width}}  ms/step  time ratio (quartiles)  FLOPs ratio  GFLOP/s  first call")
    for name, times in seconds.items():
        ratios = np.array(times) / np.array(seconds[first])
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        flops_ratio, median = costs[name] / costs[first], float(np.median(times))
        log(
            f"{name:{width}}  {1e3 * median:7.1f}   {middle:5.3f} ({low:.3f} to {high:.3f})"
            f"         {flops_ratio:5.3f}  {costs[name] / median / 1e9:7.1f}"
            f"  {compiles[name]:6.1f} s"
        )
        results.append(
            dict(
                program=name,
                compared_with=first,
                seconds_per_step=median,
                time_ratio=float(middle),
                time_ratio_quartiles=[float(low), float(high)],
                flops_ratio=flops_ratio,
                first_call_seconds=compiles[name],
            )
        )
    return results
