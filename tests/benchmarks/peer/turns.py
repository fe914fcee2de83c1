"""Timing of programs that take turns, and statistics of their times, for any framework."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

COMPARED = {  # each of our programs, and the published one that it is compared with
    "ours, dense training": "DiT, dense training",
    "ours, routed training": "DiT, dense training",
    "ours, unguided": "DiT, unguided",
    "ours, CFG": "DiT, CFG",
    "ours, SG": "DiT, CFG",
}


@dataclasses.dataclass
class Program:
    """One program, ready to be timed.

    Args:
      name: see `COMPARED`.
      call: runs `steps` steps and waits for them.
      steps: per call.
      flops: of a step on the whole batch.
      first_call: seconds that compiling and the first call took.
      memory: bytes it needs on the device, or None where they are not counted.
      how: what it was compiled with.
    """

    name: str
    call: Callable[[], None]
    steps: int
    flops: float
    first_call: float
    memory: int | None
    how: str


Clock = Callable[[], float]


def seconds(call: Callable[[], None], clock: Clock = time.perf_counter) -> float:
    """Return how long a call takes."""
    began = clock()
    call()
    return clock() - began


def race(
    calls: Sequence[Callable[[], None]], rounds: int, clock: Clock = time.perf_counter
) -> list[list[float]]:
    """Return the seconds of each call [calls][rounds]; in every round all of them take a turn.

    Each round begins with a different call, so that no call always follows the same one.

    Args:
      calls: what is timed.
      rounds: turns of each call.
      clock: returns seconds; `time.process_time` does not count what other processes take.
    """
    times = [[0.0] * rounds for _ in calls]
    for r in range(rounds):
        for n in range(len(calls)):
            n = (n + r) % len(calls)
            times[n][r] = seconds(calls[n], clock)
    return times


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles of above / below, round by round."""
    low, middle, high = quartiles([a / b for a, b in zip(above, below, strict=True)])
    return {"low": low, "median": middle, "high": high}


def rows(
    programs: Sequence[Program], rounds: int, batch: int, evaluations: int, peak: float
) -> list[dict]:
    """Race the programs and return what the report needs of each.

    Args:
      programs: all of training, or all of sampling.
      rounds: how many turns each gets.
      batch: images per step.
      evaluations: steps that make an image: 1 in training.
      peak: FLOP/s of the measured matrix product.
    """
    raced = race([p.call for p in programs], rounds)
    times = {p.name: [t / p.steps for t in ts] for p, ts in zip(programs, raced, strict=True)}
    out = []
    for p in programs:
        step = statistics.median(times[p.name])
        other = COMPARED.get(p.name)
        out.append(
            dict(
                program=p.name,
                batch=batch,
                seconds=times[p.name],
                seconds_per_step=step,
                images_per_second=batch / step / evaluations,
                compared_with=other,
                speedup=ratios(times[other], times[p.name]) if other else None,
                flops_per_step=p.flops,
                share_of_peak=p.flops / step / peak,
                first_call_seconds=p.first_call,
                memory_bytes=p.memory,
                how=p.how,
            )
        )
    return out


def fastest(candidates: Mapping[str, Callable[[], None]], calls: int) -> str:
    """Return the name of the candidate with the lowest median, each already called once."""
    times = race(list(candidates.values()), calls)
    medians = {name: statistics.median(ts) for name, ts in zip(candidates, times, strict=True)}
    return min(medians, key=medians.get)
