"""The rows of tune.csv: each setting that was tried, with each seed."""

import ast
import csv
import dataclasses
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from sg_jax.errors import UserError, one_line
from sg_jax.evaluation import comparison, table
from sg_jax.evaluation.metrics import METRICS, RESULT, Metric, Scores
from sg_jax.evaluation.table import Key
from sg_jax.method.candidates import UNGUIDED
from sg_jax.method.guidance import Guidance
from sg_jax.runs import arrays, files

NAME = "tune.csv"
SEARCH, REPORT = "search", "report"  # the stages


@dataclasses.dataclass(frozen=True)
class Row:
    """A setting that was tried, with one seed.

    Attributes:
      run: name of the run.
      stage: `SEARCH` or `REPORT`.
      method: its method of guidance.
      budget: the cost that was allowed, as a multiple of a run without guidance.
      cost: the cost of this run, as the same multiple.
      chosen: whether it is its method's best at this budget.
      metric: the name of the metric that decides this.
      key: the setting and how it was measured.
      scores: what was measured.
    """

    run: str
    stage: str
    method: str
    budget: float
    cost: float
    chosen: bool
    metric: str
    key: Key
    scores: Scores


OWN = ("stage", "method", "setting", "budget", "cost", "chosen", "metric")
CONDITIONS = list(table.CONDITIONS)
NUMBERS = [metric.name for metric in METRICS.values() if metric.needs != RESULT]


def write(workdir: str | os.PathLike, rows: Sequence[Row]) -> epath.Path:
    """Write the rows to tune.csv of a run, and return its path."""
    buffer = io.StringIO()
    numbers = _measured(rows)
    header = [*OWN, *CONDITIONS, *numbers, "guidance"]
    writer = csv.DictWriter(buffer, header, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {name: getattr(row, name) for name in OWN if name != "setting"}
        cells |= {"setting": row.key.guidance.describe(), "guidance": json.dumps(changed(row.key))}
        cells |= {name: getattr(row.key, name) for name in CONDITIONS}
        writer.writerow({**cells, **{name: row.scores.get(name) for name in numbers}})
    return files.write_atomically(files.path(workdir) / NAME, buffer.getvalue().encode())


def changed(key: Key) -> dict[str, Any]:
    """Return the values of a key's setting that are not the defaults."""
    default = Guidance()
    return {n: v for n, v in vars(key.guidance).items() if v != getattr(default, n)}


def read(workdir: str | os.PathLike) -> list[Row]:
    """Return the rows of a run's tune.csv.

    Raises:
      UserError: it is missing, or is another table.
    """
    path, run = files.path(workdir) / NAME, comparison.name_of(workdir)
    try:
        lines = list(csv.DictReader(io.StringIO(arrays.read_bytes(path).decode())))
    except FileNotFoundError:
        raise UserError(f"{workdir} has no {NAME}: run --mode tune there first.") from None
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}): move it away.") from None
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            rows.append(_parse(run, line))
        except (*table.NOT_A_ROW, KeyError, AttributeError) as error:
            raise UserError(
                f"{path}, line {number} is not a row of {NAME}: {one_line(error)}. Run --mode tune "
                "again, which draws nothing that scores.csv has."
            ) from None
    return rows


def _parse(run: str, line: Mapping[str, str]) -> Row:
    conditions: dict[str, Any] = {
        name: line[name]
        if isinstance(table.CONDITIONS[name], str)
        else ast.literal_eval(line[name])
        for name in CONDITIONS
    }
    guidance = Guidance(**json.loads(line["guidance"]))
    scores: Scores = {name: float(line[name]) for name in NUMBERS if line.get(name)}
    if line["stage"] not in (SEARCH, REPORT) or line["metric"] not in METRICS:
        raise ValueError(f"stage {line['stage']!r}, metric {line['metric']!r}")
    return Row(
        run,
        line["stage"],
        line["method"],
        float(line["budget"]),
        float(line["cost"]),
        line["chosen"] == "True",
        line["metric"],
        Key(guidance, **conditions),
        scores,
    )


def columns(rows: Sequence[Row]) -> list[Metric]:
    """Return the metrics of images that every row of the report has, the deciding one first."""
    report = [row.scores for row in rows if row.stage == REPORT]
    names = [n for n in NUMBERS if all(scores.get(n) is not None for scores in report)]
    measured = [METRICS[name] for name in names if METRICS[name].of_images]
    return sorted(measured, key=lambda metric: metric.name != rows[0].metric)


def _measured(rows: Sequence[Row]) -> list[str]:
    names = {name for row in rows for name, value in row.scores.items() if value is not None}
    return [name for name in NUMBERS if name in names]


def joined(workdirs: Sequence[str | os.PathLike]) -> list[Row]:
    """Return the rows of several runs that were tuned alike.

    Raises:
      UserError: a file is missing, two runs share a name, or they were tuned in different ways.
    """
    rows = [row for workdir in workdirs for row in read(workdir)]
    names = [comparison.name_of(workdir) for workdir in workdirs]
    if len(set(names)) < len(names):
        raise UserError(f"The runs must have different names: {', '.join(names)}.")
    ways: dict[str, dict[str, Any]] = {}
    for name in names:
        each = [row for row in rows if row.run == name and row.stage == REPORT]
        pairs = {(row.method, row.budget) for row in each}
        if not pairs or not {(UNGUIDED, b) for b in {1.0, *(b for _, b in pairs)}} <= pairs:
            raise UserError(f"{NAME} of {name} lacks a part of its report: run --mode tune again.")
        ways[name] = {
            "the metric": {row.metric for row in each},
            "methods, budgets and seeds": {(r.method, r.budget, r.key.seed) for r in each},
            "samples": {row.key.samples for row in each},
            "the sampler": {row.key.sampler for row in each},
            "real images": {(row.key.references, row.key.reference) for row in each},
            "the feature network": {row.key.features for row in each},
            "labels": {row.key.labels for row in each},
            "the decoder": {row.key.decoder for row in each},
            "config.sample.steps": {
                row.key.steps for row in each if (row.method, row.budget) == (UNGUIDED, 1.0)
            },
        }
    for name, way in ways.items():
        if differing := [what for what in way if way[what] != ways[names[0]][what]]:
            raise UserError(
                f"{names[0]} and {name} were tuned in different ways ({', '.join(differing)}): "
                "tune them with the same config.tune and the same config.features.path, one file "
                "for all."
            )
    _check_search(rows, names)
    return rows


def _check_search(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Raise unless the runs that searched did so alike, and the others took one run's settings."""
    ways: dict[str, Counter[Any]] = {}
    settings: dict[str, dict[Any, Guidance]] = {}
    for name in names:
        tried = [row for row in rows if row.run == name and row.stage == SEARCH]
        counts = Counter((r.method, r.budget, r.key.seed, r.key.samples) for r in tried)
        ways |= {name: counts} if tried else {}
        settings[name] = {
            # The same share of another training is another step.
            (row.method, row.budget): dataclasses.replace(row.key.guidance, weak_step=0)
            for row in rows
            if row.run == name and row.stage == REPORT
        }
    searched = list(ways) or [names[0]]
    for name in names:
        if name in ways and ways[name] != ways[searched[0]]:
            raise UserError(
                f"{searched[0]} and {name} searched in different ways: tune them with the same "
                "methods, budgets, settings, seeds and samples of config.tune."
            )
        if name not in ways and all(settings[name] != settings[other] for other in searched):
            raise UserError(
                f"{name} was not scored with the settings that {', '.join(searched)} chose: tune "
                "it again, with config.tune.winners."
            )
