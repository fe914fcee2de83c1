"""What a command prints while it runs: progress with the time left, and how time was spent."""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator

from sg_jax.parallel import processes

OFTEN = 10.0  # seconds between two lines of long work


class Progress:
    """Print steps/s, images/s and the time left, since the last print."""

    def __init__(self, start: int, total: int, images_per_step: int, unit: str = "step"):
        self.total, self.images_per_step, self.unit = total, images_per_step, unit
        self.restart(start)

    def restart(self, step: int) -> None:
        """Exclude what happened since the last print from the next rate."""
        self.step, self.time = step, time.perf_counter()

    def update(self, step: int, **values: float) -> dict[str, float]:
        """Print one line for `step` and return the rates."""
        now, done = time.perf_counter(), step - self.step
        parts = [f"{self.unit} {step:>{len(str(self.total))}}/{self.total}"]
        parts += [f"{k} {v:.4g}" for k, v in values.items()]
        rates = {}
        if done:  # otherwise it is the first step, which compiles and so is not timed
            rate = done / max(now - self.time, 1e-9)
            rates = {"steps_per_second": rate, "images_per_second": rate * self.images_per_step}
            parts += [f"{rate:.2f} {self.unit}s/s"]
            if self.images_per_step > 1:
                parts += [f"{rates['images_per_second']:.0f} images/s"]
            parts += [f"ETA {clock((self.total - step) / rate)}"]
        log("  ".join(parts))
        self.step, self.time = step, now
        return rates

    def sometimes(self, step: int) -> None:
        """Print a line for `step` if the last one was ten seconds ago, except at the end."""
        if step < self.total and time.perf_counter() - self.time > OFTEN:
            self.update(step)


class Ahead:
    """Print how much of some work is done, and the time left, where pieces differ in cost.

    Args:
      pieces: the number of pieces.
      cost: of all pieces, in any unit.
      unit: what a piece is called.
    """

    def __init__(self, pieces: int, cost: float, unit: str):
        self.pieces, self.cost, self.unit = pieces, cost, unit
        self.began, self.done, self.spent = time.perf_counter(), 0, 0.0

    def update(self, cost: float, **values: float) -> None:
        """Count a piece of this cost as done, and print a line."""
        self.done, self.spent = self.done + 1, self.spent + cost
        elapsed = time.perf_counter() - self.began
        parts = [f"{self.unit} {self.done:>{len(str(self.pieces))}}/{self.pieces}"]
        parts += [f"{k} {v:.4g}" for k, v in values.items()]
        left = max(self.cost - self.spent, 0.0) / max(self.spent, 1e-9)
        log("  ".join([*parts, f"ETA {clock(elapsed * left)}"]))


class Spent:
    """Wall time by activity, from the moment this object is made."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Add the time of a block to `what`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - began

    def report(self, rest: str) -> str:
        """Return one line with all times and their shares; `rest` names the remaining time."""
        whole = time.perf_counter() - self.began
        parts = {rest: whole - sum(self.seconds.values()), **self.seconds}
        listed = (f"{k} {clock(v, 1)} ({v / max(whole, 1e-9):.1%})" for k, v in parts.items())
        return f"Time: {clock(whole, 1)}: {', '.join(listed)}."


def clock(seconds: float, digits: int = 0) -> str:
    """Return seconds as "1:02:03" or "2:03"; below a minute with `digits`, if any, as "2.3 s"."""
    if digits and round(seconds, digits) < 60:
        return f"{seconds:.{digits}f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def counted(count: int, noun: str) -> str:
    """Return a number of things in words: "1 seed", "2,000 seeds"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def log(message: str) -> None:
    """Print a line immediately, but only from process 0, and only while somebody can read it.

    Ctrl-C also ends the `tee` that a command is piped into, and a terminal may be closed. That must
    not end a command, which still has to save.
    """
    if not processes.is_writer():
        return
    try:
        print(message, file=sys.stdout, flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        with open(os.devnull, "wb") as nobody:
            os.dup2(nobody.fileno(), sys.stdout.fileno())
