"""Say what was measured, as a table in the terminal, as JSON and as one HTML page."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

from etils import epath

from sg_jax.errors import UserError
from sg_jax.evaluation import page
from sg_jax.evaluation.results import COLUMNS, SettingResult, finite
from sg_jax.runs.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Reference:
    """What the generated images were measured with.

    Attributes:
      real_images: number of real training images they were compared with.
      test_images: number of real images kept from training.
      classifier_accuracy: share of those the feature network labels correctly, 0..1.
      frechet_floor: Fréchet distance between real test images and real training images.
      neighbours: k of precision and recall.
      flops: which operations `gflops_per_step` counts.
    """

    real_images: int
    test_images: int
    classifier_accuracy: float
    frechet_floor: float
    neighbours: int = 3
    flops: str = "multiply-adds of the network's linear layers"


def format_table(rows: Sequence[SettingResult]) -> str:
    """Lay results out for the terminal: aligned columns, "*" beside the best of each.

    Args:
      rows: at least one result.

    Returns:
      Lines without a final newline.

    Raises:
      UserError: without rows.
    """
    _check_rows(rows)
    columns = [_padded(["Setting", "", *[row.name for row in rows]], left=True)]
    for column in COLUMNS:
        marks = ["*" if best else " " for best in column.best(rows)]
        cells = [text + mark for text, mark in zip(column.texts(rows), marks, strict=True)]
        head = [f"{column.header}{column.arrow} ", f"{column.unit} "]
        columns.append(_padded([*head, *cells], left=False))
    columns.append(["", "", *[row.description for row in rows]])
    lines = [" ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    return "\n".join([*lines[:2], "-" * max(map(len, lines)), *lines[2:]])


def write_table(path: str | os.PathLike, rows: Sequence[SettingResult]) -> epath.Path:
    """Write results as a JSON list of objects, one per setting; what is not finite becomes null.

    Args:
      path: the file to write, whole or not at all.
      rows: at least one result.

    Returns:
      `path` as a path.

    Raises:
      UserError: without rows.
    """
    _check_rows(rows)
    table = [
        {
            name: finite(value) if isinstance(value, float) else value
            for name, value in dataclasses.asdict(row).items()
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
    picture_path: str | os.PathLike | None = None,
    loss_path: str | os.PathLike | None = None,
    notes: Sequence[str] = (),
) -> epath.Path:
    """Write one HTML file that holds everything: table, pictures, explanations, command.

    Args:
      path: the file to write, whole or not at all.
      title: heading of the page.
      facts: what the run was, name to value, in the order to show.
      rows: at least one result, in the order to show.
      reference: what was measured against.
      command: what reproduces the page, ready to paste.
      picture_path: PNG of generated images, a row per setting.
      loss_path: PNG of the training loss.
      notes: further sentences, such as what a row of the picture shares.

    Returns:
      `path` as a path.

    Raises:
      UserError: without rows, or if a picture is not there.
    """
    _check_rows(rows)
    parts = [_score_table(rows, reference)]
    if picture_path is not None:
        parts.append(page.figure(picture_path, "Generated images, one row per setting."))
    parts += [page.paragraph(note) for note in notes]
    parts += [
        page.heading("How to read the numbers"),
        page.definitions(_explanations(rows, reference)),
        page.heading("The run"),
        page.definitions([(str(name), str(fact)) for name, fact in facts.items()], "facts"),
    ]
    if loss_path is not None:
        parts.append(page.figure(loss_path, "Training loss."))
    parts += [page.heading("Make it again"), page.code(command)]
    return write_atomically(path, page.document(title, parts).encode())


def _score_table(rows: Sequence[SettingResult], reference: Reference) -> str:
    columns = [
        [(text, "", best) for text, best in zip(c.texts(rows), c.best(rows), strict=True)]
        for c in COLUMNS
    ]
    names = [(row.name, row.description, False) for row in rows]
    # Real images as one more row, because a number alone does not say how good is good.
    known = {
        "frechet": reference.frechet_floor,
        "accuracy": reference.classifier_accuracy,
        "samples": reference.test_images,
    }
    real = SettingResult("real test images", "", **{c.field: known.get(c.field) for c in COLUMNS})
    foot = [real.name, *(c.texts([*rows, real])[-1] for c in COLUMNS)]
    head = [("Setting", ""), *((c.header + c.arrow, c.unit) for c in COLUMNS)]
    return page.table(head, list(zip(names, *columns, strict=True)), [foot])


def _explanations(rows: Sequence[SettingResult], reference: Reference) -> list[tuple[str, str]]:
    counts = sorted({row.samples for row in rows})
    samples = " to ".join(f"{n:,}" for n in dict.fromkeys([counts[0], counts[-1]]))
    real, test = f"{reference.real_images:,}", f"{reference.test_images:,}"
    right = f"{reference.classifier_accuracy:.1%}"
    k = reference.neighbours
    return [
        (
            "How it was measured",
            f"{samples} generated images per setting{_seeds(rows)} against {real} real training "
            "images, in the hidden layer of a small classifier trained on the same data. On real "
            f"test images it is right in {right} of {test} cases. Bold is the best value of a "
            "column; more samples or another classifier give other numbers.",
        ),
        (
            "Fréchet distance ↓",
            "How far the generated images as a whole are from the real ones: the distance of the "
            "Gaussians fitted to both sets of features (as FID does with an Inception network), "
            "in squared units of the features. The floor, real test images against real training "
            f"images, is {reference.frechet_floor:.3f} with {test} test images. Fewer images read "
            "higher: a larger generated set can come out below the floor.",
        ),
        (
            "Precision ↑",
            "Share of generated images that look real: that lie within reach of some real image, "
            f"the reach being the radius that holds its {k} nearest neighbours among the real ones "
            "(Kynkäänniemi et al. 2019).",
        ),
        (
            "Recall ↑",
            "Share of real images that lie within reach of some generated image, measured likewise "
            "among the generated ones. It falls when generated images become alike.",
        ),
        (
            "Accuracy ↑",
            "Share of generated images in which the classifier sees the class that was asked for. "
            f"Above {right}, its score on real images, they are more typical than real ones.",
        ),
        ("Cost ↓", f"Billions of {reference.flops} to move one image by one sampling step."),
        ("Speed ↑", "Images per second when they were drawn, compilation left out."),
    ]


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
