"""Report scores as a table in the terminal, as JSON and as one HTML page."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence

from etils import epath

from sg_jax.errors import UserError
from sg_jax.evaluation import page
from sg_jax.evaluation.distances import NEIGHBOURS
from sg_jax.evaluation.metrics import METRICS, Metric, Scores, finite
from sg_jax.evaluation.results import SettingResult
from sg_jax.runs.files import write_atomically

CLASSIFIER_IN_WORDS = "the hidden layer of a small classifier trained on the same data"


@dataclasses.dataclass(frozen=True)
class Reference:
    """What the generated images were compared with.

    Attributes:
      real_images: number of real training images they were compared with; 0: not known.
      compared: how many of them represent all in precision and recall; 0: all are used.
      source: the file that they come from, with its digest; empty: the run's own data.
      network: the network whose features were compared, in words.
      test_images: number of real images that were not trained on; 0: not known.
      classifier_accuracy: share of those that the feature network labels correctly, 0..1.
      test_scores: scores of the real test images themselves, by metric; empty: not known.
    """

    real_images: int
    compared: int = 0
    source: str = ""
    network: str = CLASSIFIER_IN_WORDS
    test_images: int = 0
    classifier_accuracy: float = math.nan
    test_scores: Scores = dataclasses.field(default_factory=dict)


def format_table(rows: Sequence[SettingResult]) -> str:
    """Format results for the terminal: aligned columns, with "*" next to the best of each.

    Args:
      rows: at least one result.

    Returns:
      Lines without a final newline.

    Raises:
      UserError: there are no rows.
    """
    _check_rows(rows)
    columns = [_padded(["Setting", "", *[row.name for row in rows]], left=True)]
    for metric in measured(rows):
        texts, best = _column(metric, rows)
        cells = [text + ("*" if top else " ") for text, top in zip(texts, best, strict=True)]
        head = [f"{metric.header}{metric.arrow} ", f"{metric.unit} "]
        columns.append(_padded([*head, *cells], left=False))
    columns.append(["", "", *[row.description for row in rows]])
    lines = [" ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    return "\n".join([*lines[:2], "-" * max(map(len, lines)), *lines[2:]])


def measured(rows: Sequence[SettingResult]) -> list[Metric]:
    """Return the metrics that at least one of the results has."""
    found = [metric for metric in METRICS.values() if _any(metric, rows)]
    return found or list(METRICS.values())


def write_table(path: str | os.PathLike, rows: Sequence[SettingResult]) -> epath.Path:
    """Write results as a JSON list of objects, one per setting; non-finite numbers become null.

    Args:
      path: the file to write, whole or not at all.
      rows: at least one result.

    Returns:
      `path` as a path.

    Raises:
      UserError: there are no rows.
    """
    _check_rows(rows)
    table = [
        {
            "name": row.name,
            "description": row.description,
            **{metric.name: finite(row.value(metric)) for metric in METRICS.values()},
            "seeds": row.seeds,
            "deviations": {name: finite(value) for name, value in row.deviations.items()},
        }
        for row in rows
    ]
    return write_atomically(path, (json.dumps(table, indent=1, ensure_ascii=False) + "\n").encode())


def write_report(
    path: str | os.PathLike,
    *,
    title: str,
    facts: Mapping[str, str],
    rows: Sequence[SettingResult],
    reference: Reference,
    command: str,
    pictures: Sequence[tuple[str | os.PathLike, str]] = (),
    notes: Sequence[str] = (),
    metrics: Sequence[Metric] | None = None,
    beside: tuple[str, Sequence[str], Sequence[Sequence[str]]] | None = None,
) -> epath.Path:
    """Write one HTML file with everything: table, pictures, explanations, command.

    Args:
      path: the file to write, whole or not at all.
      title: heading of the page.
      facts: facts about the run, name to value, in the order to show.
      rows: at least one result, in the order to show.
      reference: what the images were compared with.
      command: the command that reproduces the page, ready to paste; empty: not shown.
      pictures: PNG files, each with a caption, in the order to show.
      notes: further sentences, such as what a row of the first picture shares.
      metrics: the columns; None for those that were measured.
      beside: figures of a paper: a title, the head and the lines of a table.

    Returns:
      `path` as a path.

    Raises:
      UserError: there are no rows, or a picture is missing.
    """
    _check_rows(rows)
    metrics = measured(rows) if metrics is None else [m for m in metrics if _any(m, rows)]
    parts = [_score_table(rows, reference, metrics)]
    parts += [page.figure(path, caption) for path, caption in pictures[:1]]
    parts += [page.paragraph(note) for note in notes]
    parts += [page.figure(path, caption) for path, caption in pictures[1:]]
    if beside is not None:
        title_of, head, lines = beside
        cells = [[(cell, "", False) for cell in line] for line in lines]
        parts += [page.heading(title_of), page.table([(name, "") for name in head], cells)]
    parts += [
        page.heading("How to read the numbers"),
        page.definitions(_explanations(rows, reference, metrics)),
        page.heading("What was measured"),
        page.definitions([(str(name), str(fact)) for name, fact in facts.items()], "facts"),
    ]
    if command:
        parts += [page.heading("Make it again"), page.code(command)]
    return write_atomically(path, page.document(title, parts).encode())


def _column(metric: Metric, rows: Sequence[SettingResult]) -> tuple[list[str], list[bool]]:
    """Return a metric's cells, and whether each is the best."""
    values = [row.value(metric) for row in rows]
    deviations = [row.deviations.get(metric.name) for row in rows]
    return metric.texts(values, deviations), metric.best(values)


def _score_table(
    rows: Sequence[SettingResult], reference: Reference, metrics: Sequence[Metric]
) -> str:
    # Real images as one more row, because a number alone does not show what is good.
    real = SettingResult("real test images", "", reference.test_scores, reference.test_images)
    columns, foot = [], [real.name]
    for metric in metrics:
        texts, best = _column(metric, rows)
        columns.append([(text, "", top) for text, top in zip(texts, best, strict=True)])
        foot.append(_column(metric, [*rows, real])[0][-1])
    names = [(row.name, row.description, False) for row in rows]
    head = [("Setting", ""), *((m.header + m.arrow, m.unit) for m in metrics)]
    feet = [foot] if reference.test_scores else []
    return page.table(head, list(zip(names, *columns, strict=True)), feet)


def _explanations(
    rows: Sequence[SettingResult], reference: Reference, metrics: Sequence[Metric]
) -> list[tuple[str, str]]:
    counts = sorted({row.samples for row in rows})
    samples = " to ".join(f"{n:,}" for n in dict.fromkeys([counts[0], counts[-1]]))
    known = f"{reference.real_images:,}" if reference.real_images else "the"
    facts = {
        "real": known,
        "test": f"{reference.test_images:,}",
        "compared": f"{reference.compared:,}" if reference.compared else known,
        "neighbours": NEIGHBOURS,
    }
    images = f"images of {reference.source}" if reference.source else "training images"
    how = [
        f"{samples} generated images per setting{_seeds(rows)} against {facts['real']} real "
        f"{images}, in {reference.network}.",
        "Bold is the best value of a column; the numbers change with the number of samples and the "
        "feature network.",
    ]
    if reference.test_images:
        right = f"{reference.classifier_accuracy:.1%} of {facts['test']}"
        how.insert(1, f"The classifier is right on {right} real test images.")
    explained = [("How it was measured", " ".join(how))]
    for metric in metrics:
        floor = reference.test_scores.get(metric.name)
        texts = [metric.explanation, metric.floor] if floor is not None else [metric.explanation]
        text = " ".join(texts).format(**facts, floor=metric.text(floor)).strip()
        if text:
            explained.append((metric.header + metric.arrow, text))
    return explained


def _any(metric: Metric, rows: Sequence[SettingResult]) -> bool:
    return any(row.has(metric) for row in rows)


def _seeds(rows: Sequence[SettingResult]) -> str:
    seeds = max(row.seeds for row in rows)
    if seeds == 1:
        return ""
    return f" and seed (mean ± standard deviation over {seeds} seeds)"


def _padded(cells: Sequence[str], left: bool) -> list[str]:
    width = max(map(len, cells))
    return [cell.ljust(width) if left else cell.rjust(width) for cell in cells]


def _check_rows(rows: Sequence[SettingResult]) -> None:
    if not rows:
        raise UserError("rows is empty; a report needs the result of at least one setting.")
