"""Figures: what stands where, and densities that are densities."""

import numpy as np
import pytest

from sg_jax.evaluation import plots, results

COLUMNS = {c.field: c for c in results.COLUMNS}
STRONG, WEAK, SCALES = (0.0, 0.5), (0.0, 0.5, 0.9), (1.5, 2.0)
VALUES = 0.1 * np.arange(1, 13).reshape(2, 2, 3)  # 0.1 ... 1.2, [scales, strong, weak]
UNGUIDED = np.equal.outer(STRONG, WEAK)[None].repeat(2, axis=0)


def panels(figure):
    return [axes for axes in figure.axes if axes.get_title()]


def numbers(axes):
    return {text.get_position(): text.get_text() for text in axes.texts}


@pytest.fixture(scope="module")
def figure():
    return plots.heatmaps(VALUES, UNGUIDED, SCALES, STRONG, WEAK, COLUMNS["frechet"])


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
    drawn = plots.heatmaps(VALUES, UNGUIDED, SCALES, STRONG, WEAK, COLUMNS[metric])
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
    drawn = plots.heatmaps(VALUES / 2, UNGUIDED, SCALES, STRONG, WEAK, COLUMNS["accuracy"])
    assert numbers(panels(drawn)[0])[1, 0] == "10.0"


def test_equal_values_can_be_drawn(tmp_path):
    drawn = plots.heatmaps(0 * VALUES, UNGUIDED, SCALES, STRONG, WEAK, COLUMNS["frechet"])
    plots.save(drawn, tmp_path / "flat.png")


def test_the_front_holds_what_nothing_beats_in_both():
    costs, qualities = np.array([1.0, 2.0, 2.0, 3.0, 4.0]), np.array([5.0, 4.0, 3.0, 3.5, 1.0])
    assert plots.pareto_front(costs, qualities, better=-1) == [0, 2, 4]
    assert plots.pareto_front(costs, -qualities, better=1) == [0, 2, 4]


def test_the_front_is_listed_beside_the_points():
    drawn = plots.cost_quality(
        [1.0, 2.0, 3.0], [0.6, 0.8, 0.5], [1.5, 2.0, None], ["a", "b", "c"],
        COLUMNS["gflops_per_step"], COLUMNS["frechet"],
    )  # fmt: skip
    (axes,) = drawn.axes
    listed = [text.get_text() for text in axes.get_legend().get_texts()]
    assert listed == ["1  a: 0.600", "2  c: 0.500"]
    assert [tuple(text.xy) for text in axes.texts] == [(1.0, 0.6), (3.0, 0.5)]


@pytest.mark.parametrize("near", [0.02, 1.0])  # half of the first are within a kernel of 0
def test_a_density_integrates_to_one_from_zero_on(near):
    values = np.abs(np.random.default_rng(0).normal(near, 0.1, 400))
    x = np.linspace(0.0, 3.0, 3001)
    assert np.trapezoid(plots.density(values, x), x) == pytest.approx(1.0, abs=1e-4)


def test_a_curve_per_name_and_a_line_where_there_is_no_spread(tmp_path):
    rng = np.random.default_rng(0)
    drawn = plots.densities({"sg": rng.gamma(4, 0.1, 50), "none": np.zeros(50)}, label="distance")
    curve, line = drawn.axes[0].lines
    assert len(curve.get_xdata()) > 100 and list(line.get_xdata()) == [0.0, 0.0]
    assert plots.save(drawn, tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
