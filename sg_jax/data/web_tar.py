"""One tar of a WebDataset: its images, the files next to each of them, and their scores."""

import json
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from sg_jax.data import archives
from sg_jax.data.archives import Archive
from sg_jax.data.checks import PART, not_read
from sg_jax.data.containers import OUTSIDE, readable
from sg_jax.errors import UserError, is_number, one_line, shown
from sg_jax.runs.progress import Progress

TOLD = (".txt", ".json")
SCORES = (
    "aesthetic_score_laion_v2", "aesthetic_score", "aesthetics", "aesthetic", "AESTHETIC_SCORE",
)  # fmt: skip  # in a .json; the first one present is used
THREADS = 16


def look(asked: tuple[pathlib.Path, str, bool]) -> tuple[Archive, np.ndarray]:
    """Return what is in a tar, and the score of each image; -inf for one without.

    Args:
      asked: the tar, `config.data.name`, and whether to read scores.

    Raises:
      UserError: it cannot be read, has a name that leads out of it, or a .json that is none.
    """
    path, name, scored = asked
    archive = archives.index(path, TOLD)
    if outside := archive.left_out.get(OUTSIDE):
        raise UserError(
            f"config.data.name={shown(name)}: {readable(archive.path)} has the name "
            f"{shown(readable(outside[0]))}, which leads out of the folder it would be "
            "unpacked to. The tar may be malicious, so none of it is read. Leave it out."
        )
    return archive, _scores(archive, name) if scored else np.full(len(archive.names), -np.inf)


def beside(archive: Archive, number: int, end: str) -> bytes | None:
    """Return the file next to image `number` with this ending; None without one."""
    path = os.path.splitext(archive.names[number])[0] + end
    return archive.read_beside(path) if path in archive.beside else None


def about(archive: Archive, number: int) -> dict[str, Any]:
    """Return what the .json next to image `number` says; {} without one."""
    content = beside(archive, number, ".json")
    try:
        found = json.loads(content) if content else {}
    except (ValueError, RecursionError) as cause:
        raise UserError(f"its .json cannot be read ({one_line(cause)})") from None
    return found if isinstance(found, dict) else {}


def _scores(archive: Archive, name: str) -> np.ndarray:
    def score(number: int) -> float:
        try:
            said = about(archive, number)
        except (OSError, UserError) as cause:
            what = f"config.data.name={shown(name)}: {archive.place(number)}"
            raise not_read(what, cause, "mend or remove it") from cause
        value = next((said[key] for key in SCORES if key in said), None)
        try:  # some tables hold numbers as texts
            return float(value) if is_number(value) or isinstance(value, str) else -np.inf
        except ValueError:
            return -np.inf

    count = len(archive.names)
    found, progress = np.empty(count), Progress(0, count, 1, unit="score")
    with ThreadPoolExecutor(THREADS) as threads:
        for first in range(0, count, PART):
            part = range(first, min(first + PART, count))
            found[part.start : part.stop] = list(threads.map(score, part))
            progress.sometimes(part.stop)
    return found
