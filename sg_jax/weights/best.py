"""The best checkpoint of a run, by a number that is measured while it trains.

    workdir/best.json  {"step": 300, "metric": "frechet_500_unguided_0f3a9c1e", "value": 0.61}

The file is written once that checkpoint is complete. Every checkpoint also has these values among
its own numbers, as far as they were known then. So a run that was killed before it wrote the file,
or that goes back to an earlier checkpoint, still knows them.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping

from sg_jax.errors import UserError, is_number, is_whole
from sg_jax.runs import files

NAME = "best.json"
BEST = -1  # as config.evaluate.step
STEP, VALUE = "best_step", "best_value:"  # names among the numbers of a checkpoint


@dataclasses.dataclass(frozen=True)
class Best:
    """The best checkpoint so far.

    Attributes:
      step: of the checkpoint.
      metric: the name of the number; `evaluation.comparable` says which ones have one name.
      value: the number, finite.
    """

    step: int
    metric: str
    value: float

    @property
    def numbers(self) -> dict[str, float]:
        """What a checkpoint stores of it."""
        return {STEP: self.step, f"{VALUE}{self.metric}": self.value}


def improves(value: float, metric: str, better: int, best: Best | None) -> bool:
    """Return whether a value is the best so far; one that is not finite never is.

    Args:
      value: of the metric.
      metric: its name. Values of another metric are not compared.
      better: 1 if higher is better, -1 if lower is.
      best: so far.
    """
    if not math.isfinite(value):
        return False
    return best is None or best.metric != metric or better * (value - best.value) > 0


def split(numbers: Mapping[str, float]) -> tuple[dict[str, int], Best | None]:
    """Return the other numbers of a checkpoint, and the best one that it knows of."""
    others = {k: int(v) for k, v in numbers.items() if k != STEP and not k.startswith(VALUE)}
    metrics = [name.removeprefix(VALUE) for name in numbers if name.startswith(VALUE)]
    if STEP not in numbers or len(metrics) != 1:
        return others, None
    return others, Best(int(numbers[STEP]), metrics[0], float(numbers[f"{VALUE}{metrics[0]}"]))


def read(workdir: str | os.PathLike) -> Best | None:
    """Return what best.json of a run says; None if it is missing or damaged."""
    path = files.path(workdir) / NAME
    try:
        found = Best(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    sound = is_whole(found.step) and is_number(found.value) and isinstance(found.metric, str)
    return found if sound and math.isfinite(found.value) else None


def write(workdir: str | os.PathLike, best: Best | None) -> None:
    """Write this to best.json of a run, or remove the file for None."""
    path = files.path(workdir) / NAME
    if best is not None:
        files.write_atomically(path, json.dumps(dataclasses.asdict(best)).encode())
    elif path.exists():
        path.unlink()


def best_step(workdir: str | os.PathLike) -> int:
    """Return the step of a run's best checkpoint.

    Raises:
      UserError: the run has none.
    """
    found = read(workdir)
    if found is None:
        raise UserError(
            f"workdir={str(workdir)!r} has no {NAME}, so no best checkpoint was kept: train with "
            "config.checkpoint.keep_best, or name a step."
        )
    return found.step
