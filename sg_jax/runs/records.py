"""The numbers of a run: metrics.jsonl and TensorBoard events, both without tensorflow.

A file in a bucket cannot be appended to, so there metrics.jsonl is rewritten every half minute and
before each checkpoint, and there are no TensorBoard events.
"""

import json
import time

import numpy as np
from etils import epath

from sg_jax.parallel import processes
from sg_jax.runs import files
from sg_jax.runs.progress import log

PAUSE = 30.0  # least seconds between two writes of a file in a bucket


class Writer:
    """Write the metrics of a run; if the run is resumed, first drop the records after its step.

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
        """Write what is pending."""
        if self.active:
            self.file.flush()

    def close(self) -> None:
        """Flush and close."""
        if self.active:
            self.file.close()
            if self.events is not None:
                self.events.close()


class _Rewritten:
    """A text file in a bucket, kept in memory and rewritten at most every half minute.

    As the file grows, writing takes longer and happens less often, so it costs at most 5% of the
    time.
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
    """Return the records of metrics.jsonl; a last line truncated by a crash is left out."""
    path = files.path(workdir) / "metrics.jsonl"
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def training_seconds(records: list[dict]) -> dict[int, float]:
    """Return step -> seconds of training up to that step, for each record with a loss.

    Each record adds its steps since the last one, divided by the rate between the two. So compiles,
    samples and pauses between stop and start are left out.
    """
    found, total, before = {}, 0.0, 0
    for record in records:
        if "loss" in record:
            # A single first step has no rate; its time is added with the next rate.
            if rate := record.get("steps_per_second"):
                total += (record["step"] - before) / rate
                before = record["step"]
            found[record["step"]] = total
    return found
