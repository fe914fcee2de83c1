"""One report of several runs, from their scores.csv and metrics.jsonl.

    python -m sg_jax.main --mode compare RUN... --out DIR

    DIR/report.html    all of the following on one page
    DIR/table.md       every number
    DIR/cost.png       quality against GFLOPs per image, every setting, with the Pareto front
    DIR/gain.png       what each kind of guidance does to each run
    DIR/weak.png       autoguidance, over the step of the checkpoint that makes the weak prediction
    DIR/training.png   loss and quality over training time

It compares only what was measured in the same way. Rows whose numbers of samples or real images,
feature network, reference or labels differ from those of most rows are left out, and the log says
how many.
"""

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from sg_jax.errors import UserError
from sg_jax.evaluation import comparison, figures, method_figures, report, style
from sg_jax.evaluation.comparison import IMAGE_COST, Point
from sg_jax.evaluation.figures import Line, Spot
from sg_jax.evaluation.metrics import CLASSIFIER, drawable
from sg_jax.evaluation.pictures import INK
from sg_jax.evaluation.table import Key
from sg_jax.runs import files
from sg_jax.runs.records import read_metrics, training_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = {60: "minutes", 3600: "hours"}  # of a time axis, in seconds
CAPTIONS = {
    "cost.png": "Quality against cost: every setting at the last checkpoint.",
    "gain.png": "What each kind of guidance gains, at its best setting.",
    "weak.png": "Autoguidance over the checkpoint that makes the weak prediction.",
    "training.png": "Training.",
}
Gains = Mapping[str, Mapping[str, tuple[float, float]]]  # method -> run -> (share, deviation)


def run(
    workdirs: Sequence[str | os.PathLike], out: str | os.PathLike, command: str = ""
) -> list[epath.Path]:
    """Write tables and figures of what was measured in the runs; return their paths.

    Args:
      workdirs: the folders of the runs.
      out: the folder to write to.
      command: shown in the report, so that it can be made again; empty: not shown.

    Raises:
      UserError: a run has no scores, two share a name, or they were measured in different ways.
    """
    folder, names = files.path(out), [comparison.name_of(w) for w in workdirs]
    if len(set(names)) < len(names):
        raise UserError(f"The runs must have different names: {', '.join(names)}.")
    points = comparison.alike([p for workdir in workdirs for p in comparison.read(workdir)])
    last = comparison.final(points)
    known = comparison.measured(last)
    metrics = {name: read_metrics(os.fspath(w)) for name, w in zip(names, workdirs, strict=True)}
    best = comparison.best_of_methods(last)
    gains = {
        kind: {
            name: point.gain(base)
            for name, point in found.items()
            if (base := comparison.baseline(point, last)) is not None
        }
        for kind, found in best.items()
    }
    drawn = {
        "cost.png": front(known) if known else None,
        "gain.png": method_figures.gain(gains, names, comparison.ranked_by(last))
        if gains
        else None,
        "weak.png": method_figures.weak_steps(known),
        "training.png": over_training(comparison.measured(points), metrics),
    }
    pictures = [
        (style.save(figure, folder / name), CAPTIONS[name])
        for name, figure in drawn.items()
        if figure
    ]
    text = markdown(points, best, gains)
    key = points[0].key
    page = report.write_report(
        folder / "report.html",
        title=f"{', '.join(names)} side by side",
        facts={p.run: f"step {p.key.checkpoint:,}" for p in last},
        rows=[point.result for point in _ordered(last)],
        reference=_reference(key),
        command=command,
        pictures=pictures,
        metrics=comparison.columns(last),
    )
    table = files.write_atomically(folder / "table.md", text.encode())
    return [*(path for path, _ in pictures), table, page]


def _reference(key: Key) -> report.Reference:
    kinds = [each.split()[0] for each in key.networks.split(", ") if each]
    by_classifier = set(kinds) <= {CLASSIFIER}  # older rows do not say it
    return report.Reference(
        real_images=key.references,
        source=key.reference,
        compared=key.compared,
        network=report.CLASSIFIER_IN_WORDS if by_classifier else f"the features of {key.networks}",
    )


def front(points: Sequence[Point]) -> "Figure":
    """Draw quality against GFLOPs per image, with a colour per method and a marker per run."""
    spots = [
        Spot(
            p.cost,
            p.quality,
            f"{p.run}, {p.key.guidance.describe()}, {p.drawing}",
            kind=p.method,
            run=p.run,
            deviation=p.deviation,
        )
        for p in points
    ]
    colours = style.hues(sorted({p.method for p in points})) | {"unguided": INK}
    return figures.front(spots, IMAGE_COST, comparison.ranked_by(points), colours)


def over_training(
    points: Sequence[Point], metrics: Mapping[str, list[dict[str, Any]]]
) -> "Figure | None":
    """Draw the losses and the quality over training time; None without records.

    Args:
      points: those at all scored checkpoints; with one per run, only the losses are drawn.
      metrics: run -> records of its metrics.jsonl.
    """
    seconds = {run: _seconds(records) for run, records in metrics.items()}
    longest = max((max(times.values(), default=0) for times in seconds.values()), default=0)
    if not longest:
        return None
    unit = 3600 if longest > 2 * 3600 else 60
    losses, scores = [], []
    for name, times in seconds.items():
        records = [r for r in metrics[name] if "loss" in r and r["step"] in times]
        if drawable(np.array([r["loss"] for r in records])).any():
            x = [times[r["step"]] / unit for r in records]
            losses.append(Line(name, x, [r["loss"] for r in records]))
            scores += _over_checkpoints(points, name, times, unit)
    axis = f"training time ({UNITS[unit]})"
    return figures.training(losses, scores, comparison.ranked_by(points), axis) if losses else None


def _seconds(records: list[dict[str, Any]]) -> dict[int, float]:
    """Return step -> seconds of training, where the records' rates make sense."""
    found = training_seconds([r for r in records if r.get("steps_per_second", 1.0) > 0])
    return {step: time for step, time in found.items() if drawable(np.array(time))}


def _over_checkpoints(
    points: Sequence[Point], run: str, times: Mapping[int, float], unit: int
) -> list[Line]:
    """Return a line for each setting scored at the most checkpoints, if that is more than one."""
    found: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        if point.run == run:
            words = (point.key.guidance.describe(), point.drawing)
            found.setdefault(words, []).append(point)
    most = max(map(len, found.values()), default=0)
    shown = {words: each for words, each in found.items() if len(each) == most > 1}
    one_drawing = len({drawing for _, drawing in shown}) == 1
    # Checkpoints need not be at steps that were logged.
    steps, seconds = [0, *sorted(times)], [0.0, *(times[step] for step in sorted(times))]
    lines = []
    for (guidance, drawing), each in shown.items():
        each = sorted(each, key=lambda p: p.key.checkpoint)
        x = np.interp([p.key.checkpoint for p in each], steps, seconds) / unit
        text = guidance if one_drawing else f"{guidance}, {drawing}"
        deviations = [p.deviation for p in each]
        lines.append(Line(run, x.tolist(), [p.quality for p in each], text, deviations))
    return lines


def _ordered(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda p: (p.run, p.key.checkpoint, p.method))


def markdown(points: Sequence[Point], best: Mapping[str, Mapping[str, Point]], gains: Gains) -> str:
    """Return two tables: the best setting of each method, and every setting."""
    key, metric = points[0].key, comparison.ranked_by(points)
    columns = comparison.columns(points)
    real = f"{key.references:,} real images" if key.references else "the real images"
    real += f" of {key.reference}" if key.reference else ""
    lines = [
        f"{key.samples:,} generated against {real}, judged by "
        f"{key.networks or f'the feature network {key.features}'}; mean ± standard deviation over "
        "seeds.",
        "",
        "## The best setting of each method",
        "",
        f"Gain: how much better a setting's {metric.header} is than the unguided one, seed by "
        "seed.",
        "",
        f"| method | run | setting | {metric.header}{metric.arrow} | gain | {IMAGE_COST.unit} |",
        "|---|---|---|---|---|---|",
    ]
    for kind in sorted(best):
        for name, point in best[kind].items():
            share, deviation = gains[kind][name]
            lines.append(
                f"| {kind} | {name} | {point.key.guidance.describe()}, {point.drawing} | "
                f"{metric.text(point.quality)} | {share:+.1%}"
                + (f" ± {deviation:.1%}" if deviation else "")
                + f" | {IMAGE_COST.text(point.cost)} |"
            )
    heads = ["run", "step", "setting", "method"]
    heads += [f"{m.header}{m.arrow} ({m.unit})" for m in columns] + ["seeds"]
    lines += ["", "## Every setting", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for point in _ordered(points):
        result = point.result
        cells = [point.run, str(point.key.checkpoint)]
        cells += [f"{point.key.guidance.describe()}, {point.drawing}", point.method]
        cells += [m.texts([result.value(m)], [result.deviations.get(m.name)])[0] for m in columns]
        lines.append(f"| {' | '.join([*cells, str(len(point.scores))])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":  # the command itself is a mode
    sys.argv[1:1] = ["--mode", "compare"]
    runpy.run_module("sg_jax.main", run_name="__main__", alter_sys=True)
