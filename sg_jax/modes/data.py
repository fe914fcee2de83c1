"""Time the input pipeline alone, to compare with what a training step consumes; or check the data.

Every number is for one host: each process reads its own share of the batch, and process 0 reports
its own numbers.
"""

import json
import os
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from sg_jax.config.experiment import Experiment
from sg_jax.config.sections import Config
from sg_jax.data import skipping
from sg_jax.data.sources import Source, open_source, options_of
from sg_jax.data.wording import Wording
from sg_jax.errors import SettingError, UserError
from sg_jax.modes import dry_latents
from sg_jax.modes.base import Job, Mode, Option, register
from sg_jax.modes.bench import training
from sg_jax.parallel import processes, sharding
from sg_jax.runs import files
from sg_jax.runs.progress import log

WINDOW = 0.25  # minimum seconds over which a rate is measured
WARM_UP = 1.0  # minimum seconds of warm-up, which are not counted
ENOUGH = 1.2  # times what a step consumes, to allow for slow moments
MAX_WORKERS = 32  # the most that are tried
LISTED = 1000  # damaged examples that the log names, at most
SHOWN = 5  # damaged files that a message names, at most


def run(job: Job) -> list[epath.Path]:
    """Measure, and write `data_bench.json` if there is a folder; return its path.

    With `--check` read all examples instead, and write nothing.
    """
    assert job.source is not None
    if job.options.get("check"):
        config = job.experiment.config
        for source in [_open(config, split) for split in job.options["check"]]:
            check(config, source, job.experiment.wording)
        return []
    path = files.path(job.workdir) / "data_bench.json" if job.workdir else None
    result = measure(job.experiment, job.source)
    if path is None or not processes.is_writer():
        return []
    return [files.write_atomically(path, json.dumps(result, indent=1).encode())]


def _open(config: Config, split: str) -> Source:
    """Return a split whose damaged examples are all still there."""
    data = config.data
    try:
        return open_source(data.name, split, **options_of(data, all_damaged=True))
    except SettingError as error:
        named = f"--check {split}" if error.name == "split" else f"config.data.{error.name}"
        raise UserError(f"{named} {error.rule}") from None


def check(config: Config, source: Any, wording: Wording | None = None) -> None:
    """Read every example of a split, and its captions for a network of texts.

    Raises:
      UserError: some cannot be read; it names the first one and the files of all of them.
    """
    split, listed = source.split, 0

    def say(line: str) -> None:
        nonlocal listed
        listed += 1
        if listed <= LISTED:
            log(f"  {line}")

    found = skipping.find(wording.of(source) if wording else source, say)
    if not found:
        log(f"All {len(source):,} examples of split {split!r} can be read.")
        return
    files_known = hasattr(source, "file_of")
    places = sorted({source.file_of(i) if files_known else f"example {i}" for i, *_ in found})
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    text = (
        f"{len(found):,} of the {len(source):,} examples of split {split!r} cannot be read, in "
        f"{', '.join(places[:SHOWN])}{more}."
    )
    if config.data.damaged == "skip":
        log(f"{text} Training leaves them out (config.data.damaged='skip').")
        return
    raise UserError(f"{text} The first: {found[0].why}")


def measure(experiment: Experiment, source: Source) -> dict[str, Any]:
    """Measure the configured setting, then other numbers of processes and threads.

    A rate is the median over `config.bench.repeats` windows, once the batches read ahead are gone.

    Returns:
      The contents of `data_bench.json`.
    """
    config = experiment.config
    need = _consumption(experiment)
    mine = (config.data.workers, config.data.threads)
    rows = []
    log(f"\nworkers  threads  {'images/s per host (quartiles)':32}  MB/s  x what a step consumes")
    for workers, threads in settings(*mine, os.cpu_count() or 1):
        rates, image_bytes = _measure(experiment, source, workers, threads)
        low, median, high = np.quantile(rates, (0.25, 0.5, 0.75))
        mark = "  <- config" if (workers, threads) == mine else ""
        log(
            f"{workers:7}  {threads:7}  {f'{median:.0f} ({low:.0f} to {high:.0f})':32}"
            f"  {median * image_bytes / 1e6:4.0f}  {median / need['images_per_second']:.2f}{mark}"
        )
        rows.append(
            dict(
                workers=workers,
                threads=threads,
                images_per_second=float(median),
                images_per_second_quartiles=[float(low), float(high)],
                bytes_per_second=float(median * image_bytes),
                times_consumption=float(median / need["images_per_second"]),
            )
        )
    result = dict(consumption=need, pipeline=rows, advice=advice(rows, source.latents))
    log(f"\n{result['advice']}")
    return result


def settings(workers: int, threads: int, cpus: int) -> list[tuple[int, int]]:
    """Return the (workers, threads) to try: the configured ones first, then powers of two."""
    counts = [0, *(2**i for i in range(MAX_WORKERS.bit_length()) if 2**i <= cpus)]
    others = [(0, 1), *((count, threads) for count in counts)]
    return list(dict.fromkeys([(workers, threads), *others]))


def advice(rows: list[dict], latents: bool) -> str:
    """Return advice from the rows of the table, the configured one first."""
    mine, best = rows[0], max(rows, key=lambda row: row["images_per_second"])
    found = f"The pipeline gives {mine['times_consumption']:.2g} x what the step consumes"
    if mine["times_consumption"] >= ENOUGH:
        return f"{found}: training does not wait for data."
    change = (
        f"--config.data.workers={best['workers']} --config.data.threads={best['threads']} gives "
        f"{best['times_consumption']:.2g} x"
    )
    if best["times_consumption"] >= ENOUGH:
        return f"{found}: training waits for data. {change}."
    remedy = "spread the batch over more hosts, or keep the data set on a local disk or in memory"
    if not latents:
        remedy = (
            "store the images at config.data.image_size, train on latents (python -m sg_jax.main "
            f"--mode latents), {remedy}"
        )
    best_is = (
        "nothing tried is faster" if best is mine else f"the best tried ({change}) is too slow"
    )
    return f"{found}: training waits for data, and {best_is}. Give the host more cores, {remedy}."


def _consumption(experiment: Experiment) -> dict:
    """Return the images/s that training consumes on this host, as configured or measured here.

    If training has several sparsity rates, the highest one consumes the most.
    """
    config = experiment.config
    share = config.train.batch_size // _share(experiment)[1]
    if given := config.bench.images_per_second:
        log(f"A step consumes {given:g} images/s per host (config.bench.images_per_second).")
        return dict(images_per_second=given, steps_per_second=given / share, measured_on=None)
    gamma = max(experiment.training_rates)  # it has the fewest tokens and the fastest step
    log(f"Compiling a training step at γ {gamma:g} ...")
    (call,) = training(experiment, [gamma])
    call()
    seconds = []
    for _ in range(config.bench.repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    steps = 1 / float(np.median(seconds))
    device = jax.devices()[0].device_kind
    log(
        f"A step consumes {share * steps:.4g} images/s per host: {steps:.4g} steps/s of {share} "
        f"images at γ {gamma:g}, measured on {jax.device_count()} x {device}."
    )
    return dict(images_per_second=share * steps, steps_per_second=steps, measured_on=device)


def _share(experiment: Experiment) -> tuple[int, int]:
    return processes.share(sharding.batch_sharding(experiment.mesh))


def _measure(
    experiment: Experiment, source: Source, workers: int, threads: int
) -> tuple[list[float], float]:
    """Return the images/s in each window, and the bytes of an image in a batch."""
    config = experiment.config
    data = experiment.batches(source, workers=workers, threads=threads)
    images = next(data)["image"]  # starts threads or processes
    ahead = (threads + 2) * max(workers, 1)  # batches that may be ready already
    began = time.perf_counter()
    while ahead > 0 or time.perf_counter() - began < WARM_UP:
        next(data)
        ahead -= 1
    rates = []
    for _ in range(config.bench.repeats):
        began, count = time.perf_counter(), 0
        while not count or time.perf_counter() - began < WINDOW:
            count += len(next(data)["image"])
        rates.append(count / (time.perf_counter() - began))
    data.close()
    return rates, images.nbytes / len(images)


MODE = register(
    Mode(
        "data",
        "time the input pipeline, or check the data",
        run,
        workdir=False,
        dry=dry_latents.data,
        options=(Option("check", "splits to read whole instead, such as train test", many=True),),
    )
)
