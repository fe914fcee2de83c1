"""The figure of one run's training: what is in its records is in the figure."""

import math

from sg_jax.evaluation import curves

RECORDS = [
    {"step": 2, "loss": 2.0, "heldout_loss": 2.2},
    {"step": 3, "eval/frechet": 9.0, "eval/accuracy": 0.5},
    {"step": 4, "loss": 1.0, "heldout_loss": 1.5},
    {"step": 6, "loss": 0.5, "eval/frechet": 3.0, "eval/accuracy": 0.9},
]


def lines_of(axes):
    return [list(zip(*line.get_data(), strict=True)) for line in axes.get_lines()]


def test_held_out_losses_are_beside_those_of_training():
    figure = curves.of_run(RECORDS)
    left, right = figure.axes
    drawn = lines_of(left)
    assert drawn[0] == [(2, 2.0), (4, 1.0), (6, 0.5)] and drawn[-1] == [(2, 2.2), (4, 1.5)]
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["running mean", "held-out, moving average"]
    low, high = left.get_ylim()
    assert low < 0.5 and high > 2.2
    assert lines_of(right)[0] == [(3, 9.0), (6, 3.0)]
    assert "Fréchet" in right.get_ylabel()
    assert curves.caption(RECORDS).startswith("Training loss, the loss of held-out images")


def test_a_run_with_less_has_a_figure_of_less():
    losses = [{k: r[k] for k in ("step", "loss") if k in r} for r in RECORDS]
    assert len(curves.of_run(losses).axes) == 1
    assert curves.caption(losses) == "Training loss."
    accuracy = [{k: v for k, v in r.items() if k != "eval/frechet"} for r in RECORDS]
    right = curves.of_run(accuracy).axes[1]
    assert "Accuracy" in right.get_ylabel() and lines_of(right)[0] == [(3, 50.0), (6, 90.0)]
    assert curves.of_run([{"step": 1, "heldout_loss": 2.0}]) is None
    assert curves.of_run([{"step": 1, "loss": math.nan}]) is None
