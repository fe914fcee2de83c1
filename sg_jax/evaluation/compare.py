"""Compare runs by their scores.csv and metrics.jsonl: one table, and a plot per question.

    python -m sg_jax.evaluation.compare RUN... --out DIR

    DIR/cost.png       quality against GFLOPs per image, every setting, with the Pareto front
    DIR/gain.png       what each kind of guidance does to each run
    DIR/weak.png       autoguidance, over the step of the checkpoint that makes the weak prediction
    DIR/training.png   loss and Fréchet distance over the time of training
    DIR/table.md       every number

Only what was measured alike is compared: rows of other numbers of samples or of real images than
most have are left out, and told.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from etils import epath

from sg_jax.errors import UserError, run_command
from sg_jax.evaluation import comparison, comparison_plots, plots
from sg_jax.runs import files
from sg_jax.runs.records import read_metrics, training_seconds


def run(workdirs: Sequence[str | os.PathLike], out: str | os.PathLike) -> list[epath.Path]:
    """Write the table and the plots of what the runs hold; return their paths.

    Raises:
      UserError: a run without scores, two of one name, or runs measured in different ways.
    """
    folder, names = files.path(out), [comparison.name_of(w) for w in workdirs]
    if len(set(names)) < len(names):
        raise UserError(f"The runs must have names of their own: {', '.join(names)}.")
    points = comparison.alike([p for workdir in workdirs for p in comparison.read(workdir)])
    last = comparison.final(points)
    metrics = {name: read_metrics(w) for name, w in zip(names, workdirs, strict=True)}
    times = {name: training_seconds(records) for name, records in metrics.items()}
    best = comparison.best_of_methods(last)
    gains = {
        kind: {name: point.gain(comparison.baseline(point, last)) for name, point in found.items()}
        for kind, found in best.items()
    }
    drawn = {
        "cost.png": comparison_plots.cost(last),
        "gain.png": comparison_plots.gain(gains, names) if gains else None,
        "weak.png": comparison_plots.weak_steps(last),
        "training.png": comparison_plots.training(points, metrics, times),
    }
    paths = [plots.save(figure, folder / name) for name, figure in drawn.items() if figure]
    text = comparison_plots.markdown(points, best, gains)
    return [*paths, files.write_atomically(folder / "table.md", text.encode())]


def main(argv: Sequence[str]) -> None:
    """Compare the runs of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sg_jax.evaluation.compare",
        description="Compare runs by what --mode evaluate and sweep measured of them.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for table and plots")
    given = parser.parse_args(argv[1:])
    for path in run(given.runs, given.out):
        print(f"Written: {path}")


if __name__ == "__main__":
    run_command(main, sys.argv)
