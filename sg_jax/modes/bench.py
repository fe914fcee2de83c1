"""Time training and sampling steps in one run; print time ratios next to FLOPs ratios."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from sg_jax.config.experiment import Experiment
from sg_jax.costs import flops
from sg_jax.method import checks
from sg_jax.method import guidance as guidance_lib
from sg_jax.method.guidance import Guidance
from sg_jax.models.backbone import Backbone
from sg_jax.modes.base import Job, Mode, register
from sg_jax.modes.flops import of_other_runs
from sg_jax.parallel import processes
from sg_jax.parallel.sharding import batch_sharding, check_batch, infer
from sg_jax.programs.integration import image_keys, integrate, spread
from sg_jax.programs.training import init_state
from sg_jax.runs import files
from sg_jax.runs.progress import Progress, clock, log

STEPS = 4  # sampling steps of one timed call
PAUSE = 5.0  # minimum seconds between two lines of progress


def run(job: Job) -> list[epath.Path]:
    """Measure, and write `bench.json` if there is a folder; return its path."""
    path = files.path(job.workdir) / "bench.json" if job.workdir else None
    weak, notes = of_other_runs(job, job.experiment.settings)
    for note in notes:
        log(note)
    results = measure(job.experiment, weak)
    if path is None or not processes.is_writer():
        return []
    content = json.dumps(results, indent=1, ensure_ascii=False).encode()
    return [files.write_atomically(path, content)]


def measure(experiment: Experiment, weak: Mapping[str, Backbone] = {}) -> list[dict[str, Any]]:
    """Measure a dense training step, one at each sparsity rate of training, and sampling steps.

    There is a sampling step for each guidance setting of config.evaluate, and for CFG and SG_FLOPS.

    The programs take turns, so a slow moment of the machine affects them all. A ratio is the median
    over rounds. Weights are untrained, because the cost of a step does not depend on them.

    Args:
      experiment: of the config.
      weak: shapes of the networks of other runs that make weak predictions, by the setting's name.
    """
    config = experiment.config
    check_batch("config.sample.batch_size", config.sample.batch_size, experiment.mesh)
    rates = {f"train, γ {g:g}": g for g in dict.fromkeys((0.0, *experiment.training_rates))}
    programs = dict(zip(rates, training(experiment, list(rates.values())), strict=True))
    costs = {
        label: flops.training_step(
            experiment.model, g, config.train.batch_size, full=True, teacher=experiment.taught
        )
        for label, g in rates.items()
    }
    results = _race(programs, costs, config.bench.repeats, 1)
    names = dict.fromkeys(("cfg", *config.evaluate.guidance, "sg_flops"))
    wanted = {n: experiment.settings[n] for n in names}
    able, notes = checks.possible(experiment.model, wanted, experiment.sampler, STEPS, weak)
    for note in notes:
        log(note)
    labels = {f"sample, {n} ({g.describe()})": n for n, g in able.items()}
    key = jax.random.key(0)
    model = init_state(experiment.make_model, experiment.tx, experiment.mesh, key).model
    programs = {
        label: _sampling(experiment, model, able[n], weak.get(n)) for label, n in labels.items()
    }
    how: dict[str, Any] = dict(full=True, steps=STEPS, sampler=experiment.sampler)
    costs = {
        label: config.sample.batch_size
        * flops.sampling_step(model, able[n], weak_model=weak.get(n), **how)
        for label, n in labels.items()
    }
    return results + _race(programs, costs, config.bench.repeats, STEPS)


def training(experiment: Experiment, rates: Sequence[float]) -> list[Callable[[], None]]:
    """Return, for each sparsity rate, a function that runs one training step and waits for it.

    They share one state, so several need no more memory than one.
    """
    experiment.check_training()
    config, model = experiment.config, experiment.model
    how = experiment.make_model, experiment.tx, experiment.mesh, jax.random.key(0)
    state = init_state(*how)
    teachers = [init_state(*how).model for _ in range(experiment.teachers)]
    shape = (config.train.batch_size, model.image_size, model.image_size, model.channels)
    batch = {"image": np.zeros(shape, np.float32), "condition": experiment.blank(shape[0])}
    batch = jax.device_put(batch, batch_sharding(experiment.mesh))

    def step_at(gamma: float) -> Callable[[], None]:
        step = experiment.compile_train_step(gamma, state, *teachers)

        def call() -> None:
            nonlocal state
            state, metrics = step(state, batch, jax.random.key(0), *teachers)
            jax.block_until_ready((state, metrics))

        return call

    return [step_at(gamma) for gamma in rates]


def _sampling(
    experiment: Experiment, model: Backbone, guidance: Guidance, weak: Backbone | None
) -> Callable[[], None]:
    """Return a function that runs `STEPS` sampling steps and waits for them.

    `weak` has the shapes of the weak prediction's network if they are not those of `model`.
    """
    config, mesh, sampler = experiment.config, experiment.mesh, experiment.sampler
    keys = image_keys(0, 0, config.sample.batch_size)
    blank, keys = spread(experiment.blank(config.sample.batch_size), keys, mesh)
    plan, scales = guidance_lib.plan(guidance, sampler, STEPS)
    weak_model = model if plan.two_networks else None
    if plan.two_networks and weak is not None:
        where = infer(weak, mesh)
        weak_model = jax.jit(lambda: jax.tree.map(jnp.zeros_like, weak), out_shardings=where)()
    arguments = dict(plan=plan, sampler=sampler, steps=STEPS, mesh=mesh, chunk=config.sample.chunk)

    def call() -> None:
        x = integrate(model, weak_model, blank, keys, scales, **arguments)
        jax.block_until_ready(x)

    return call


def _first_calls(programs: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Return the seconds of the first call of each program, which compiles it."""
    found: dict[str, float] = {}
    for i, (name, call) in enumerate(programs.items()):
        left = f", ETA {clock(sum(found.values()) / i * (len(programs) - i))}" if i else ""
        log(f"Compiling {name} ({i + 1} of {len(programs)}{left}) ...")
        began = time.perf_counter()
        call()
        found[name] = time.perf_counter() - began
    return found


def _race(
    programs: dict[str, Callable[[], None]], costs: dict[str, float], repeats: int, steps: int
) -> list[dict[str, Any]]:
    """Time the programs in turns, and compare the others with the first."""
    compiles = _first_calls(programs)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    log(f"Timing {len(programs)} programs in {repeats} rounds ...")
    progress, told = Progress(0, repeats, 1, unit="round"), time.perf_counter()
    for done in range(1, repeats + 1):
        for name, call in programs.items():
            began = time.perf_counter()
            call()
            seconds[name].append((time.perf_counter() - began) / steps)
        if time.perf_counter() - told > PAUSE and done < repeats:
            progress.update(done)
            told = time.perf_counter()
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


MODE = register(
    Mode(
        "bench",
        "time training and sampling steps in turn, and compare their FLOPs",
        run,
        workdir=False,
        data=False,
    )
)
