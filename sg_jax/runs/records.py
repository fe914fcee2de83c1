"""Where numbers go: a progress line, metrics.jsonl, TensorBoard events; all without tensorflow.

In a bucket nothing can be appended to a file: there metrics.jsonl is written anew every half minute
and before each checkpoint, and there are no TensorBoard events.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator

import numpy as np
from etils import epath

from sg_jax.parallel import processes
from sg_jax.runs import files

PAUSE = 30.0  # seconds, at least, between two writes of a file in a bucket


class Writer:
    """Write metrics of a run; on a resumed run drop what lies after the step it resumes from.

    Only process 0 writes.
    """

    def __init__(self, workdir: str, start_step: int):
        self.active = processes.is_writer()
        if not self.active:
            return
        folder = files.path(workdir)
        kept = [r for r in read_metrics(workdir) if r["step"] <= start_step]
        content = "".join(json.dumps(r) + "\n" for r in kept)
        path = files.write_atomically(folder / "metrics.jsonl", content.encode())
        if files.is_remote(path):
            self.file, self.events = _Rewritten(path, content), None
            log(f"No TensorBoard events in a bucket: the numbers are in {path}.")
            return
        from tensorboardX import SummaryWriter

        self.file = path.open("a", encoding="utf-8")
        self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write one record of named numbers."""
        if self.active:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            if self.events is not None:
                self.file.flush()
                for name, value in values.items():
                    self.events.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Write a picture [H, W, 3], uint8."""
        if self.active and self.events is not None:
            self.events.add_image(name, image, step, dataformats="HWC")

    def flush(self) -> None:
        """Write now what is not written yet."""
        if self.active:
            self.file.flush()

    def close(self) -> None:
        """Flush and close."""
        if self.active:
            self.file.close()
            if self.events is not None:
                self.events.close()


class _Rewritten:
    """A text file in a bucket: kept in memory, and written whole every half minute at most.

    Writing takes longer as the file grows; it then waits longer too, and costs 5% of the time.
    """

    def __init__(self, path: epath.Path, content: str):
        self.path, self.parts, self.unwritten = path, [content], False
        self.due = time.monotonic() + PAUSE

    def write(self, text: str) -> None:
        self.parts.append(text)
        self.unwritten = True
        if time.monotonic() >= self.due:
            self.flush()

    def flush(self) -> None:
        if not self.unwritten:
            return
        began = time.monotonic()
        files.write_atomically(self.path, "".join(self.parts).encode())
        self.unwritten = False
        now = time.monotonic()
        self.due = now + max(PAUSE, 20 * (now - began))

    close = flush


def read_metrics(workdir: str) -> list[dict]:
    """Return the records of metrics.jsonl; a last line cut short by a crash is left out."""
    path = files.path(workdir) / "metrics.jsonl"
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def training_seconds(records: list[dict]) -> dict[int, float]:
    """Return step -> seconds that training to it took, for each record with a loss.

    Steps since the record before, over the rate measured between the two, are summed: compiles,
    samples, and the time between a stop and the next start are left out.
    """
    found, total, before = {}, 0.0, 0
    for record in records:
        if "loss" in record:
            # A first step alone has no rate: its time counts when the next rate is known.
            if rate := record.get("steps_per_second"):
                total += (record["step"] - before) / rate
                before = record["step"]
            found[record["step"]] = total
    return found


class Progress:
    """Print steps/s, images/s and the time left, since the last print."""

    def __init__(self, start: int, total: int, images_per_step: int, unit: str = "step"):
        self.total, self.images_per_step, self.unit = total, images_per_step, unit
        self.restart(start)

    def restart(self, step: int) -> None:
        """Leave what happened since the last print out of the next rate."""
        self.step, self.time = step, time.perf_counter()

    def update(self, step: int, **values: float) -> dict[str, float]:
        """Print one line for `step` and return the rates."""
        now, done = time.perf_counter(), step - self.step
        parts = [f"{self.unit} {step:>{len(str(self.total))}}/{self.total}"]
        parts += [f"{k} {v:.4g}" for k, v in values.items()]
        rates = {}
        if done:  # else this is the first step, which is not timed because it compiles
            rate = done / max(now - self.time, 1e-9)
            rates = {"steps_per_second": rate, "images_per_second": rate * self.images_per_step}
            parts += [f"{rate:.2f} {self.unit}s/s"]
            if self.images_per_step > 1:
                parts += [f"{rates['images_per_second']:.0f} images/s"]
            parts += [f"ETA {clock((self.total - step) / rate)}"]
        log("  ".join(parts))
        self.step, self.time = step, now
        return rates


class Spent:
    """Wall time by what it went into, from the moment this is made."""

    def __init__(self):
        self.began, self.seconds = time.perf_counter(), {}

    @contextlib.contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Add the time of a block to `what`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - began

    def report(self, rest: str) -> str:
        """Return one line with all times and their shares; `rest` names what was in no block."""
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


def log(message: str) -> None:
    """Print a line from process 0, at once."""
    if processes.is_writer():
        print(message, file=sys.stdout, flush=True)
