"""The numbers of a run: metrics.jsonl and TensorBoard events, both without tensorflow; a tracker.

A file in a bucket cannot be appended to, so there metrics.jsonl is rewritten every half minute and
before each checkpoint, and there are no TensorBoard events.
"""

import json
import math
import time
from typing import Any

import numpy as np
from etils import epath

from sg_jax.parallel import processes
from sg_jax.runs import files
from sg_jax.runs.progress import log
from sg_jax.runs.tracking import Tracker

NAME = "metrics.jsonl"
DAMAGED = "metrics.damaged.jsonl"  # lines of metrics.jsonl that are not records
START = b'{"step": '  # of each record
PAUSE = 30.0  # minimum seconds between two writes of a file in a bucket, or of events


class Writer:
    """Write the metrics of a run; if the run is resumed, first drop the records after its step.

    Each step keeps one record. Lines that are not records are moved to metrics.damaged.jsonl. Only
    process 0 writes.

    Args:
      workdir: the folder of the run.
      start_step: the step that it continues from.
      tracker: gets the same numbers and pictures.
    """

    def __init__(self, workdir: str, start_step: int, tracker: Tracker | None = None):
        self.active = processes.is_writer()
        self.tracker = tracker
        if not self.active:
            return
        folder = files.path(workdir)
        records, damaged = _read(folder / NAME)
        kept = {r["step"]: r for r in records if r["step"] <= start_step}
        content = "".join(json.dumps(kept[step]) + "\n" for step in sorted(kept))
        if damaged:
            _keep_aside(folder / DAMAGED, damaged)
            shown = damaged[0][:40].decode(errors="replace")
            log(
                f"Lines of {folder / NAME} that are not records: {len(damaged)}, such as "
                f"{shown!r}. They are now in {DAMAGED}; all others are kept."
            )
        path = files.write_atomically(folder / NAME, content.encode())
        self.file: Any = None
        self.events: _Events | None = None
        if files.is_remote(path):
            self.file = _Rewritten(path, content)
            log(f"No TensorBoard events in a bucket: the numbers are in {path}.")
        else:
            self.file = path.open("a", encoding="utf-8")
            self.events = _Events(folder / "tensorboard", start_step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write one record of named numbers; those that are not finite are left out."""
        if self.active:
            found = _finite(values)
            self.file.write(json.dumps({"step": step, **found}, allow_nan=False) + "\n")
            if self.events is not None:
                self.file.flush()
                self.events.scalars(step, found)
            if self.tracker is not None:
                self.tracker.scalars(step, found)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Write a picture [H, W, 3], uint8."""
        if self.active and self.events is not None:
            self.events.image(step, name, image)
        if self.tracker is not None:
            self.tracker.image(step, name, image)

    def flush(self) -> None:
        """Write what is pending."""
        if self.active:
            self.file.flush()
            if self.events is not None:
                self.events.flush()

    def close(self) -> None:
        """Flush and close."""
        if self.active:
            self.file.close()
            if self.events is not None:
                self.events.close()


class _Events:
    """TensorBoard's file, written by this thread, so that the caller gets the disk's errors.

    Args:
      folder: where to write; each process that writes has a file of its own.
      first: the step from which TensorBoard drops the contents of older files.
    """

    def __init__(self, folder: epath.Path, first: int):
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._summary, self._event = summary, Event
        folder.mkdir(parents=True, exist_ok=True)
        # The name has the second and the step, so that a restart does not overwrite an older file.
        self._file = EventsWriter(str(folder / "events"), f".{first}")
        begin = SessionLog(status=SessionLog.START)
        self._write(step=first, session_log=begin)
        self.flush()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._write(step=step, summary=self._summary.scalar(name, value))
        if time.monotonic() >= self._due:
            self.flush()

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        shown = self._summary.image(name, image, dataformats="HWC")
        self._write(step=step, summary=shown)

    def flush(self) -> None:
        self._file.flush()
        self._due = time.monotonic() + PAUSE

    def close(self) -> None:
        self._file.close()

    def _write(self, **content: Any) -> None:
        self._file.write_event(self._event(wall_time=time.time(), **content))


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
    """Return the records of metrics.jsonl, without lines that are not records."""
    return _read(files.path(workdir) / NAME)[0]


def _read(path: epath.Path) -> tuple[list[dict], list[bytes]]:
    """Return the records of a file and its other lines.

    A last record that a crash cut short is in neither: its step is done again.
    """
    *lines, last = path.read_bytes().split(b"\n") if path.exists() else [b""]
    if _record(last) is not None or not (last.startswith(START) or START.startswith(last)):
        lines.append(last)
    found = [(line, _record(line)) for line in lines if line.strip()]
    records = [record for _, record in found if record is not None]
    return records, [line for line, record in found if record is None]


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the record in a line, or None: an object of a step and finite numbers.

    Numbers that are not finite, which older versions wrote, are left out.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # also bytes that are not UTF-8
        return None
    if not isinstance(found, dict) or not all(_is_number(value) for value in found.values()):
        return None
    if not isinstance(step := found.pop("step", None), int) or step < 0:
        return None
    return {"step": step, **_finite(found)}


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float)


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _keep_aside(path: epath.Path, lines: list[bytes]) -> None:
    """Add lines to a file."""
    before = path.read_bytes() if path.exists() else b""
    files.write_atomically(path, before + b"\n".join(lines) + b"\n")


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
