"""Where numbers go: a progress line, metrics.jsonl, TensorBoard events; all without tensorflow."""

import json
import pathlib
import sys
import time

import numpy as np

from sg_jax import distributed


class Writer:
    """Write metrics of a run; on a resumed run drop what lies after the step it resumes from.

    Only process 0 writes.
    """

    def __init__(self, workdir: str, start_step: int):
        self.active = distributed.is_writer()
        if not self.active:
            return
        from tensorboardX import SummaryWriter

        path = pathlib.Path(workdir) / "metrics.jsonl"
        kept = [r for r in read_metrics(workdir) if r["step"] <= start_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
        temporary.replace(path)
        self.file = path.open("a", encoding="utf-8")
        self.events = SummaryWriter(
            str(pathlib.Path(workdir) / "tensorboard"), purge_step=start_step + 1
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write one record of named numbers."""
        if self.active:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
            for name, value in values.items():
                self.events.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Write a picture [H, W, 3], uint8."""
        if self.active:
            self.events.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close."""
        if self.active:
            self.file.close()
            self.events.close()


def read_metrics(workdir: str) -> list[dict]:
    """Return the records of metrics.jsonl; a last line cut short by a crash is left out."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


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


def clock(seconds: float) -> str:
    """Return seconds as "1:02:03" or "2:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def log(message: str) -> None:
    """Print a line from process 0, at once."""
    if distributed.is_writer():
        print(message, file=sys.stdout, flush=True)
