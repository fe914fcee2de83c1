"""Figures: what stands where, and densities that are densities."""

import sys

import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.evaluation import figures, style
from sg_jax.evaluation.figures import Line, Spot
from sg_jax.evaluation.heatmaps import heatmaps
from sg_jax.evaluation.metrics import METRICS

STRONG, WEAK, SCALES = (0.0, 0.5), (0.0, 0.5, 0.9), (1.5, 2.0)
VALUES = 0.1 * np.arange(1, 13).reshape(2, 2, 3)  # 0.1 ... 1.2, [scales, strong, weak]
UNGUIDED = np.equal.outer(STRONG, WEAK)[None].repeat(2, axis=0)


def panels(figure):
    return [axes for axes in figure.axes if axes.get_title()]


def numbers(axes):
    return {text.get_position(): text.get_text() for text in axes.texts}


@pytest.fixture(scope="module")
def figure():
    return heatmaps(VALUES, UNGUIDED, SCALES, STRONG, WEAK, METRICS["frechet"])


def test_a_panel_per_scale_with_gamma_weak_to_the_right_and_gamma_strong_upwards(figure):
    first, second = panels(figure)
    assert (first.get_title(), second.get_title()) == ("ω = 1.5", "ω = 2")
    assert [t.get_text() for t in first.get_xticklabels()] == ["0", "0.5", "0.9"]
    assert [t.get_text() for t in first.get_yticklabels()] == ["0", "0.5"]
    # x counts gamma_weak, y gamma_strong: VALUES[0, 0, 2] = 0.3, VALUES[1, 1, 0] = 1.0
    assert numbers(first)[2, 0] == "0.300" and numbers(second)[0, 1] == "1.000"
    for axes in (first, second):
        bottom, top = axes.get_ylim()
        assert bottom < top and len(numbers(axes)) == 6


def test_all_panels_share_one_colour_scale(figure):
    limits = {axes.images[0].get_clim() for axes in panels(figure)}
    assert len(limits) == 1 and np.allclose(limits.pop(), (0.1, 1.2))


@pytest.mark.parametrize(
    "metric, place, thick", [("frechet", (0, 0), 0), ("recall", (2, 1), 1)]
)  # the least of each panel is its first cell, the most its last
def test_the_best_cells_are_framed(metric, place, thick):
    drawn = heatmaps(VALUES, UNGUIDED, SCALES, STRONG, WEAK, METRICS[metric])
    widths = []
    for axes in panels(drawn):
        (frame,) = [p for p in axes.patches if p.get_linewidth()]
        assert frame.get_xy() == (place[0] - 0.5, place[1] - 0.5)
        widths.append(frame.get_linewidth())
    assert np.argmax(widths) == thick and widths[0] != widths[1]


def test_cells_without_guidance_are_hatched(figure):
    for axes in panels(figure):
        hatched = {p.get_xy() for p in axes.patches if p.get_hatch()}
        assert hatched == {(-0.5, -0.5), (0.5, 0.5)}


def test_accuracy_is_printed_in_percent():
    drawn = heatmaps(VALUES / 2, UNGUIDED, SCALES, STRONG, WEAK, METRICS["accuracy"])
    assert numbers(panels(drawn)[0])[1, 0] == "10.0"


def test_equal_values_can_be_drawn(tmp_path):
    drawn = heatmaps(0 * VALUES, UNGUIDED, SCALES, STRONG, WEAK, METRICS["frechet"])
    style.save(drawn, tmp_path / "flat.png")


def test_a_cell_whose_samples_were_not_finite_stays_empty():
    """Tuning stores such a score, and a sweep may find it in scores.csv."""
    values = np.where(VALUES == VALUES[0, 0, 0], np.nan, VALUES)
    first, _ = panels(heatmaps(values, UNGUIDED, SCALES, STRONG, WEAK, METRICS["frechet"]))
    assert numbers(first)[0, 0] == "–" and numbers(first)[1, 0] == "0.200"
    (frame,) = [p for p in first.patches if p.get_linewidth()]
    assert frame.get_xy() == (0.5, -0.5)


def test_the_front_holds_what_nothing_beats_in_both():
    costs, qualities = np.array([1.0, 2.0, 2.0, 3.0, 4.0]), np.array([5.0, 4.0, 3.0, 3.5, 1.0])
    assert figures.pareto_front(costs, qualities, better=-1) == [0, 2, 4]
    assert figures.pareto_front(costs, -qualities, better=1) == [0, 2, 4]


def test_the_front_is_listed_below_the_points():
    spots = [
        Spot(1.0, 0.6, "a", kind="x"),
        Spot(2.0, 0.8, "b", kind="x", run="two"),
        Spot(3.0, 0.5, "c", kind="y"),
    ]
    colours = {"x": "red", "y": "blue", "absent": "green"}
    drawn = figures.front(spots, METRICS["gflops_per_step"], METRICS["frechet"], colours)
    (axes,) = drawn.axes
    (listed,) = drawn.legends
    assert [text.get_text() for text in listed.get_texts()] == ["1  a: 0.600", "2  c: 0.500"]
    assert [tuple(text.xy) for text in axes.texts] == [(1.0, 0.6), (3.0, 0.5)]
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == ["x", "y", "", "two"]  # kinds that are there, then runs


def test_a_metric_that_is_better_when_higher_has_its_own_front():
    spots = [Spot(cost, 0.5 * cost, str(cost), kind="x") for cost in (1.0, 2.0)]
    drawn = figures.front(spots, METRICS["gflops_per_step"], METRICS["accuracy"], {"x": "red"})
    listed = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert listed == ["1  1.0: 50.0", "2  2.0: 100.0"]  # in percent


@pytest.mark.parametrize(
    "losses", [[2.0, 1.0, 0.5, np.nan], [3.0], [1.0] * 60, [0.0, -1.0], np.geomspace(50, 0.01, 300)]
)
def test_losses_are_drawn_without_global_state(losses, tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    drawn = figures.training([Line("", range(len(losses)), losses)])
    assert style.save(drawn, tmp_path / "l.png").read_bytes().startswith(b"\x89PNG")
    (text,) = drawn.axes[0].get_legend().get_texts()
    assert ("1 of 4 not finite" in text.get_text()) == any(np.isnan(losses))
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_what_is_no_loss_is_refused():
    with pytest.raises(UserError, match="None of the 2 losses is finite"):
        figures.training([Line("", [1, 2], [np.nan, np.inf])])
    with pytest.raises(UserError, match=r"steps \[3\] and losses \[2\]"):
        figures.training([Line("", [1, 2, 3], [1, 2])])


def test_running_mean_by_hand():
    values = np.array([8.0, 2.0, 5.0, 2.0, 2.0])
    # First itself; then 8, 2, 5; then 2, 5, 2; then 5, 2, 2; the last with its left neighbour.
    np.testing.assert_allclose(figures.running_mean(values, window=1), [8, 5, 3, 3, 2])
    np.testing.assert_array_equal(figures.running_mean(values, window=0), values)


@pytest.mark.parametrize("near", [0.02, 1.0])  # half of the first are within a kernel of 0
def test_a_density_integrates_to_one_from_zero_on(near):
    values = np.abs(np.random.default_rng(0).normal(near, 0.1, 400))
    x = np.linspace(0.0, 3.0, 3001)
    assert np.trapezoid(figures.density(values, x), x) == pytest.approx(1.0, abs=1e-4)


def test_a_curve_per_name_and_a_line_where_there_is_no_spread(tmp_path):
    rng = np.random.default_rng(0)
    drawn = figures.densities({"sg": rng.gamma(4, 0.1, 50), "none": np.zeros(50)}, label="distance")
    curve, line = drawn.axes[0].lines
    assert len(curve.get_xdata()) > 100 and list(line.get_xdata()) == [0.0, 0.0]
    assert style.save(drawn, tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
