"""A run's compose.csv: how well each guidance setting follows prompts, with each seed.

It has a line for each setting, seed and task, with seen and held-out prompts apart. Drawings in it
are not made again; delete the file after you train again from the start.
"""

import csv
import dataclasses
import io
import math
import os
from collections.abc import Mapping, Sequence

from etils import epath

from sg_jax.errors import UserError, one_line
from sg_jax.evaluation.table import Key
from sg_jax.runs import arrays, files, sharing

NAME = "compose.csv"
CLIP = "clip"  # the task that stands for the CLIP score of all prompts
SEEN, UNSEEN = "seen", "held out"  # prompts
SEARCH, REPORT = "search", "report"  # stages
HEADER = (
    "stage", "method", "setting", "chosen", "seed", "steps", "sampler", "checkpoint", "prompts",
    "samples", "task", "combinations", "score", "images", "drawing",
)  # fmt: skip
Scores = dict[tuple[str, bool], float]  # by task, and whether its prompts are held out


@dataclasses.dataclass(frozen=True)
class Row:
    """A drawing of all prompts.

    Attributes:
      stage: `SEARCH` or `REPORT`.
      method: the name of its guidance setting in the config.
      key: the setting, and how it was drawn: `samples` images of each prompt.
      scores: the score of each task.
      counts: the number of images of each task.
      chosen: whether it has the best scale of its method.
    """

    stage: str
    method: str
    key: Key
    scores: Scores
    counts: Mapping[tuple[str, bool], int]
    chosen: bool = False


def read(workdir: str | os.PathLike) -> dict[str, Scores]:
    """Return the scores of all drawings in a run's file, by the digests of their keys.

    Raises:
      UserError: the file is of another kind, or damaged.
    """
    return {digest: {k: v for k, (v, _) in each.items()} for digest, each in _read(workdir).items()}


def _read(workdir: str | os.PathLike) -> dict[str, dict[tuple[str, bool], tuple[float, int]]]:
    path = files.path(workdir) / NAME
    found: dict[str, dict[tuple[str, bool], tuple[float, int]]] = {}
    try:
        text = arrays.read_bytes(path).decode() if path.exists() else ""
        for number, line in enumerate(csv.DictReader(io.StringIO(text)), start=2):
            try:
                score, unseen = float(line["score"]), line["combinations"] == UNSEEN
                high = 1.0 if line["task"] != CLIP else 100.0
                if not -high <= score <= high or line["combinations"] not in (SEEN, UNSEEN):
                    raise ValueError(f"score {score}, combinations {line['combinations']!r}")
                each = found.setdefault(line["drawing"], {})
                each[line["task"], unseen] = score, int(line["images"])
            except (ValueError, KeyError, TypeError) as cause:
                raise UserError(
                    f"{path}, line {number} is not a row of {NAME} ({one_line(cause)}): delete "
                    "that line, or move the file away. Whatever is missing is drawn again."
                ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as cause:
        raise UserError(f"{path} cannot be read ({one_line(cause)}): move it away.") from None
    return found


def write(workdir: str | os.PathLike, rows: Sequence[Row]) -> epath.Path:
    """Write rows to a run's file, replacing those of the same drawings; others stay.

    Commands that write at the same time wait for each other, so that no row is lost.
    """
    with sharing.alone(workdir):
        return _write(files.path(workdir) / NAME, rows)


def _write(path: epath.Path, rows: Sequence[Row]) -> epath.Path:
    own = {row.key.digest for row in rows}
    lines = []
    if path.exists():
        text = arrays.read_bytes(path).decode()
        lines = [li for li in csv.DictReader(io.StringIO(text)) if li.get("drawing") not in own]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, HEADER, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for line in lines:
        writer.writerow(line)
    for row in rows:
        key = row.key
        about = dict(
            stage=row.stage, method=row.method, setting=key.guidance.describe(), chosen=row.chosen,
            seed=key.seed, steps=key.steps, sampler=key.sampler, checkpoint=key.checkpoint,
            prompts=key.features, samples=key.samples, drawing=key.digest,
        )  # fmt: skip
        for (task, unseen), score in row.scores.items():
            each = dict(task=task, combinations=UNSEEN if unseen else SEEN, score=score)
            writer.writerow({**about, **each, "images": row.counts[task, unseen]})
    return files.write_atomically(path, buffer.getvalue().encode())


def overall(scores: Scores, unseen: bool | None = None) -> float:
    """Return the mean over a drawing's tasks, for seen or held-out prompts, or for both."""
    values = [
        score
        for (task, held), score in scores.items()
        if task != CLIP and (unseen is None or held == unseen)
    ]
    return sum(values) / len(values) if values else math.nan
