"""How well settings follow prompts: tables for the terminal and compose.md, and a figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sg_jax.evaluation import compose_rows
from sg_jax.evaluation.compose_rows import CLIP, REPORT, SEARCH, SEEN, UNSEEN, Row
from sg_jax.evaluation.pictures import INK
from sg_jax.evaluation.style import TEXT, hues, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL = "overall"
TITLES = {
    "single_object": "single object",
    "two_object": "two objects",
    "color_attr": "colour attribution",
    "colors": "colours",
    CLIP: "CLIP score",
}
Spread = tuple[float, float]  # mean and standard deviation over the seeds


def title(task: str) -> str:
    """Return a task in words."""
    return TITLES.get(task, task.replace("_", " "))


def spreads(rows: Sequence[Row], unseen: bool) -> dict[str, dict[str, Spread]]:
    """Return the mean and deviation over the report's seeds, by method and task.

    Args:
      rows: all rows of a run.
      unseen: whether for held-out prompts; otherwise for seen ones.
    """
    found: dict[str, dict[str, Spread]] = {}
    report = [row for row in rows if row.stage == REPORT]
    for method in _of(report):
        each = [row for row in report if row.method == method]
        values: dict[str, list[float]] = {}
        for row in each:
            tasks = [t for t, held in row.scores if held == unseen]
            if [t for t in tasks if t != CLIP]:
                values.setdefault(ALL, []).append(compose_rows.overall(row.scores, unseen))
            for task in tasks:
                values.setdefault(task, []).append(row.scores[task, unseen])
        found[method] = {
            task: (float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else 0.0)
            for task, v in values.items()
        }
    return {method: each for method, each in found.items() if each}


def _cells(found: dict[str, dict[str, Spread]]) -> tuple[list[str], list[list[str]]]:
    """Return the tasks, and the texts of each method, such as "0.83 ± 0.02"."""
    tasks = list(dict.fromkeys(task for each in found.values() for task in each))
    lines = [
        [f"{each[t][0]:.2f} ± {each[t][1]:.2f}" if t in each else "–" for t in tasks]
        for each in found.values()
    ]
    return tasks, lines


def terminal(rows: Sequence[Row]) -> str:
    """Return a table of the seen prompts and one of the held-out ones, for the terminal."""
    parts = []
    for unseen, words in ((False, SEEN), (True, UNSEEN)):
        if not (found := spreads(rows, unseen)):
            continue
        tasks, lines = _cells(found)
        table = [[words, *map(title, tasks)]]
        table += [[method, *line] for method, line in zip(found, lines, strict=True)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        padded = [[c.rjust(w) for c, w in zip(r, widths, strict=True)] for r in table]
        parts.append("\n".join("  ".join([r[0].strip().ljust(widths[0]), *r[1:]]) for r in padded))
    return "\n\n".join(parts)


def markdown(rows: Sequence[Row], count: int, about: str = "") -> str:
    """Return the tables, and how they were made.

    Args:
      rows: all rows of a run.
      count: the number of prompts.
      about: a further sentence, such as whose pictures the network learned from.
    """
    report = [row for row in rows if row.stage == REPORT]
    key, seeds = report[0].key, sorted({row.key.seed for row in report})
    search = [row for row in rows if row.stage == SEARCH]
    spread = f"mean ± standard deviation over the seeds {', '.join(map(str, seeds))}"
    said = f"Scores are {spread}."
    if any(task != CLIP for row in report for task, _ in row.scores):
        said = (
            "The share of images that show everything the prompt asks for, by GenEval's rules: "
            f"{spread}. Overall is the mean of the tasks."
        )
    lines = [
        "# How well images follow their prompts",
        "",
        f"{count} prompts, {key.samples} images of each per seed, {key.steps} steps of "
        f"{key.sampler}, checkpoint {key.checkpoint}. {said} {about}".strip(),
    ]
    if search:
        tried = {m: {r.key.guidance.describe() for r in search if r.method == m} for m in _of(rows)}
        numbers = sorted({len(each) for each in tried.values() if each})
        lines += [
            "",
            f"For each guided setting, {' or '.join(map(str, numbers))} scales were tried with the "
            f"seeds {', '.join(map(str, sorted({r.key.seed for r in search})))}; the best overall "
            "is reported here.",
        ]
    settings = {row.method: row.key.guidance.describe() for row in report}
    for unseen, words in ((False, "Seen in training"), (True, "Held out from training")):
        if not (found := spreads(rows, unseen)):
            continue
        tasks, cells = _cells(found)
        means = {t: [each[t][0] for each in found.values() if t in each] for t in tasks}
        best = {t: max(values) for t, values in means.items() if max(values) > min(values)}
        lines += ["", f"## {words}", ""]
        lines.append("| | setting | " + " | ".join(map(title, tasks)) + " |")
        lines.append("|---" * (len(tasks) + 2) + "|")
        for (method, each), texts in zip(found.items(), cells, strict=True):
            bold = [
                f"**{text}**" if t in best and t in each and each[t][0] == best[t] else text
                for t, text in zip(tasks, texts, strict=True)
            ]
            lines.append(f"| {method} | {settings[method]} | " + " | ".join(bold) + " |")
    if search:
        lines += ["", "## Scales that were tried", "", "| | setting | overall |", "|---|---|---|"]
        for method, setting, value in _tried(search):
            words = f"{value:.3f}" if np.isfinite(value) else "samples not finite"
            lines.append(f"| {method} | {setting} | {words} |")
    return "\n".join([*lines, ""])


def _of(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.method for row in rows))


def _tried(search: Sequence[Row]) -> list[tuple[str, str, float]]:
    found: dict[tuple[str, str], list[float]] = {}
    for row in search:
        name = row.method, row.key.guidance.describe()
        found.setdefault(name, []).append(compose_rows.overall(row.scores))
    return [(*name, float(np.mean(values))) for name, values in found.items()]


def figure(rows: Sequence[Row]) -> "Figure":
    """Draw each task's share of right images, with a bar per method, seen above held out."""
    panels = [
        (words, found)
        for words, unseen in ((SEEN, False), (UNSEEN, True))
        if (found := spreads(rows, unseen))
    ]
    picture = new_figure((9.6, 2.9 * len(panels) + 0.4))
    colours = hues(list(panels[0][1]))
    every = picture.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (words, found) in zip(every, panels, strict=True):
        tasks = [task for task in _cells(found)[0] if task != CLIP]
        wide = 0.8 / len(found)
        for i, (method, each) in enumerate(found.items()):
            known = [t for t in tasks if t in each]
            places = np.array([tasks.index(t) for t in known]) + (i - (len(found) - 1) / 2) * wide
            axes.bar(
                places, [each[t][0] for t in known], wide, yerr=[each[t][1] for t in known],
                color=colours[method], label=method, error_kw=dict(elinewidth=1, capsize=2),
            )  # fmt: skip
        axes.set_xticks(range(len(tasks)), [title(task) for task in tasks])
        axes.set_ylim(0, 1.05)
        axes.set_ylabel(f"{words}: share right ↑", color=INK)
        plain(axes)
    picture.legend(
        *every[0].get_legend_handles_labels(), loc="outside upper center", ncols=6, **TEXT
    )
    return picture
