"""The numbers of a run: metrics.jsonl and TensorBoard events, both without tensorflow.

In a bucket nothing can be appended to a file: there metrics.jsonl is written anew every half minute
and before each checkpoint, and there are no TensorBoard events.
"""

import json
import time

import numpy as np
from etils import epath

from sg_jax.parallel import processes
from sg_jax.runs import files
from sg_jax.runs.progress import log

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
