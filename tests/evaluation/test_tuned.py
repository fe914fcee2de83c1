"""The rows of tune.csv, and means, deviations and differences by hand."""

import dataclasses
import json
import shlex

import pytest

from sg_jax.config import parsing, tree
from sg_jax.errors import UserError
from sg_jax.evaluation import tuned, tuned_figures, tuned_rows, tuned_tables
from sg_jax.evaluation.metrics import METRICS
from sg_jax.evaluation.table import Key
from sg_jax.evaluation.tuned import Spread
from sg_jax.evaluation.tuned_rows import REPORT, SEARCH, Row
from sg_jax.method.guidance import Guidance
from sg_jax.method.presets import PRESETS

FRECHET = METRICS["frechet"]
PLAIN, CFG = Guidance(), Guidance(1.15, weak_label="null", interval=(0.5, 1.0))
BASE = tuned_tables.Base([PRESETS])
KEY = Key(samples=100, references=500, features="0badcafe", checkpoint=7)


def row(method, budget, seed, frechet, stage=REPORT, run="", **changes):
    guidance, steps = (PLAIN, int(20 * budget)) if method == "unguided" else (CFG, 13)
    key = dataclasses.replace(KEY, guidance=guidance, steps=steps, seed=seed, **changes)
    return Row(run, stage, method, budget, budget, True, "frechet", key,
               dict(frechet=frechet, accuracy=0.5 + frechet / 10, gflops_per_step=0.1))  # fmt: skip


def rows_of(run="", shift=0.0):
    """No guidance has 4 and 6 at budget 1, 3 and 5 at 2; CFG 3 and 6, 2 and 3."""
    found = [row(m, b, 0, 1.0, SEARCH, run) for m in ("unguided", "cfg") for b in (1.0, 2.0)]
    values = {
        ("unguided", 1.0): (4, 6), ("unguided", 2.0): (3, 5), ("cfg", 1.0): (3, 6),
        ("cfg", 2.0): (2, 3),
    }  # fmt: skip
    for (method, budget), pair in values.items():
        found += [row(method, budget, s, v + shift, run=run) for s, v in enumerate(pair, start=1)]
    return found


def write_runs(tmp_path, **shifts):
    for name, shift in shifts.items():
        tuned_rows.write(tmp_path / name, rows_of(shift=shift))
    return [str(tmp_path / name) for name in shifts]


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = rows_of("a")
    path = tuned_rows.write(tmp_path / "a", rows)
    assert tuned_rows.read(tmp_path / "a") == rows
    head = path.read_text(encoding="utf-8").splitlines()[0].split(",")
    assert head[:7] == ["stage", "method", "setting", "budget", "cost", "chosen", "metric"]
    assert {"steps", "seed", "frechet", "gflops_per_step"} <= set(head) and "kid" not in head


def test_means_and_differences_by_hand():
    found = tuned.winners(rows_of())
    assert [(w.method, w.budget) for w in found] == [
        ("unguided", 1.0), ("cfg", 1.0), ("unguided", 2.0), ("cfg", 2.0),
    ]  # fmt: skip
    cfg, root = found[3], 2**0.5
    assert cfg.spread(FRECHET) == (2.5, pytest.approx(root / 2), None)
    # 2 - 3 and 3 - 5; 2 - 4 and 3 - 6.
    same = cfg.less(tuned.unguided(found, 2.0), FRECHET)
    assert same == ((-1.5, pytest.approx(root / 2), None), 2, 2)
    assert cfg.less(tuned.unguided(found, 1.0), FRECHET).spread.mean == -2.5
    # 3 - 4 and 6 - 6: the second seed gains nothing.
    assert found[1].less(tuned.unguided(found, 1.0), FRECHET)[1:] == (1, 2)
    # A higher accuracy is better, so with a lower one no seed improves.
    assert cfg.less(tuned.unguided(found, 2.0), METRICS["accuracy"])[1:] == (0, 2)


def test_runs_are_averaged_and_their_spread_is_apart():
    values = {("a", 1): 1.0, ("a", 2): 3.0, ("b", 1): 5.0, ("b", 2): 5.0}
    # Means 2 and 5; variances within of 2 and 0.
    assert tuned.spread(values) == Spread(3.5, 1.0, pytest.approx(3 / 2**0.5))
    assert tuned.spread({("a", 1): 2.0}) == Spread(2.0, None, None)  # one says nothing of others
    assert tuned.spread({("a", 1): 1.0, ("a", 2): 3.0, ("b", 1): 5.0}).seeds == pytest.approx(
        2**0.5
    )
    assert tuned.spread({}) == Spread(None)


def test_several_runs_are_joined(tmp_path):
    runs = write_runs(tmp_path, a=0.0, b=1.0, c=2.0)
    rows = tuned_rows.joined(runs)
    cfg = tuned.winners(rows)[3]
    assert cfg.spread(FRECHET) == (3.5, pytest.approx(0.5**0.5), pytest.approx(1.0))
    gain = cfg.less(tuned.unguided(tuned.winners(rows), 2.0), FRECHET)
    assert gain == ((-1.5, pytest.approx(0.5**0.5), 0.0), 6, 6)  # the same in every run
    text = tuned_tables.markdown(rows)
    assert "mean of 3 runs (a, b, c)" in text and "3.500 ± 1.000 ± 0.707" in text
    assert "-1.500 ± 0.000 ± 0.707 (6/6)" in text and "--config" not in text
    # What one run has not measured has no mean of three runs.
    without = [dataclasses.replace(r, scores=dict(frechet=r.scores["frechet"])) for r in rows_of()]
    tuned_rows.write(runs[1], without)
    assert [m.name for m in tuned_rows.columns(rows)] == ["frechet", "accuracy"]
    assert tuned_rows.columns(tuned_rows.joined(runs)) == [FRECHET]


def test_runs_that_took_the_settings_of_another_say_so(tmp_path):
    (first,) = write_runs(tmp_path, a=0.0)
    took = [row for row in rows_of() if row.stage == REPORT]
    tuned_rows.write(tmp_path / "b", took)
    both = [first, str(tmp_path / "b")]
    assert "was chosen in a; the other runs took its settings." in tuned_tables.markdown(
        tuned_rows.joined(both)
    )
    other = dataclasses.replace(CFG, scale=3.0)
    moved = [
        dataclasses.replace(row, key=dataclasses.replace(row.key, guidance=other))
        if row.method == "cfg" else row
        for row in took
    ]  # fmt: skip
    tuned_rows.write(tmp_path / "b", moved)
    with pytest.raises(UserError, match="b was not scored with the settings that a chose: tune it"):
        tuned_rows.joined(both)


@pytest.mark.parametrize("change", [dict(samples=10), dict(seed=5)])
def test_runs_that_searched_otherwise_are_not_joined(tmp_path, change):
    runs = write_runs(tmp_path, a=0.0, b=0.0)
    rows = [
        dataclasses.replace(row, key=dataclasses.replace(row.key, **change))
        if row.stage == SEARCH else row
        for row in rows_of()
    ]  # fmt: skip
    tuned_rows.write(tmp_path / "b", rows)
    with pytest.raises(UserError, match="a and b searched in different ways"):
        tuned_rows.joined(runs)


def test_what_was_tuned_otherwise_is_not_joined(tmp_path):
    runs = write_runs(tmp_path, a=0.0, b=0.0)
    with pytest.raises(UserError, match="different names"):
        tuned_rows.joined([runs[0], runs[0]])
    with pytest.raises(UserError, match=r"has no tune\.csv"):
        tuned_rows.joined([runs[0], str(tmp_path / "none")])
    rows = rows_of()
    tuned_rows.write(runs[1], [dataclasses.replace(r, key=dataclasses.replace(r.key, features="1"))
                          for r in rows])  # fmt: skip
    with pytest.raises(UserError, match=r"a and b .* \(the feature network\)"):
        tuned_rows.joined(runs)
    tuned_rows.write(runs[1], rows[:-1])
    with pytest.raises(UserError, match=r"a and b .* \(methods, budgets and seeds\)"):
        tuned_rows.joined(runs)
    tuned_rows.write(runs[1], rows[:4])
    with pytest.raises(UserError, match="lacks a part of its report"):
        tuned_rows.joined(runs)


@pytest.mark.parametrize("damage", ["cut", "number", "guidance", "stage", "bytes"])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tuned_rows.write(tmp_path / "a", rows_of())
    text = path.read_text(encoding="utf-8")
    changed = {
        "cut": text[:-40], "number": text.replace("2.0,2.0,", "two,2.0,", 1),
        "guidance": text.replace('""scale""', '""size""', 1), "stage": text.replace("report", "x"),
    }  # fmt: skip
    path.write_bytes(b"\xff\xfe" if damage == "bytes" else changed[damage].encode())
    with pytest.raises(UserError, match=r"tune\.csv"):
        tuned_rows.read(tmp_path / "a")


def test_the_flags_of_a_winner_are_the_winner():
    winner = tuned.winners(rows_of())[1]
    flags = shlex.split(tuned_tables.flags(winner, BASE))
    assert flags[-2:] == ["--config.sample.steps=13", "--config.sample.guidance=cfg"]
    config = parsing.parse(flags, of_run=tree.defaults)
    assert tree.check(config).guidance["cfg"] == CFG
    # A method without a setting of its name changes another; so does no guidance where it differs.
    other = dataclasses.replace(winner, method="mine")
    config = parsing.parse(shlex.split(tuned_tables.flags(other, BASE)), of_run=tree.defaults)
    assert tree.check(config).guidance["sg"] == CFG and config.sample.guidance == "sg"


def test_tables_say_what_there_is():
    rows = rows_of()
    text = tuned_tables.terminal(rows)
    best = tuned_tables.terminal(rows, BASE).split("\n\n")[0].splitlines()[-1]
    assert best.startswith("To draw with cfg: --config.guidance.cfg.scale=1.15")
    first, second = text.split("\n\n")
    lines = first.splitlines()
    assert len(lines) == 3 and lines[0].startswith("budget 1 ") and "Fréchet ↓" in lines[0]
    assert lines[0].index("setting") == lines[1].index("no guidance") == lines[2].index("ω 1.15")
    assert "4.500 ± 2.121" in lines[2] and "-0.500 ± 0.707 (1/2)" in lines[2]
    assert second.splitlines()[2].endswith("13  ω 1.15, γ 0 / 0 null t 0.5–1")
    page = tuned_tables.markdown(rows, BASE, ["A note."])
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert "A note." in page and "tried at each budget with 100 images per seed (0)" in page
    # Two budgets: a table of values and the differences; at 2 also those to budget 1; the flags.
    assert sum(line.startswith("| ---") for line in tables) == 2 + 3 + 1
    assert "| 13 | 2.000 | **2.500 ± 0.707** | 75.0 ± 7.1 |" in page
    assert "| cfg, 2 | `--config.guidance.cfg.scale=1.15 " in page
    found = json.loads(tuned_tables.as_json(rows, BASE))["winners"]
    assert found[3]["scores"]["frechet"] == dict(mean=2.5, seeds=0.5**0.5, runs=None)
    assert found[3]["less_unguided_at_1"]["frechet"]["mean"] == -2.5
    assert found[3]["settings"][0]["guidance"]["interval"] == [0.5, 1.0]


def test_a_winner_at_the_edge_of_its_scales_is_named():
    def tried(method, budget, scale, chosen):
        key = dataclasses.replace(KEY, guidance=Guidance(scale, weak_label="null"))
        return Row("", SEARCH, method, budget, budget, chosen, "frechet", key, {})

    rows = [tried("cfg", 1.0, s, s == 3.0) for s in (1.5, 2.0, 3.0)]
    rows += [tried("cfg", 2.0, s, s == 2.0) for s in (1.5, 2.0, 3.0)]
    rows += [tried("icg", 1.0, s, s == 1.1) for s in (1.5, 1.1)]
    rows += [tried("pdg", 1.0, 1.5, True)]
    assert tuned_tables.at_edges(rows).endswith("better: cfg at 1 (3), icg at 1 (1.1).")
    assert tuned_tables.at_edges(rows[3:6]) == tuned_tables.at_edges(rows[-1:]) == ""


def test_a_method_that_more_steps_make_worse_is_named():
    def scored(method, budget, *values):
        setting = Guidance() if method == "unguided" else Guidance(2.0, weak_label="null")
        keys = [dataclasses.replace(KEY, guidance=setting, seed=i) for i in range(len(values))]
        given = method, budget, budget, True, "frechet"
        return [
            Row("", REPORT, *given, k, {"frechet": v}) for k, v in zip(keys, values, strict=True)
        ]

    rows = [*scored("unguided", 0.5, 1.9, 2.1), *scored("unguided", 0.7, 1.8, 2.0)]
    rows += [*scored("unguided", 1.0, 2.0, 2.2), *scored("cfg", 0.7, 2.0, 1.0)]
    rows += scored("cfg", 1.0, 1.5, 1.4)  # better on average at 0.7, but with one of two seeds
    text = tuned_tables.outdone(rows)
    assert text.endswith("with fewer steps: unguided at 1 (at 0.5, 0.7).")
    assert text in tuned_tables.terminal(rows) and text in tuned_tables.markdown(rows)
    assert tuned_tables.outdone(rows[2:4]) == ""


def test_curves_have_a_line_per_method_and_a_panel_per_metric():
    rows = rows_of()
    metrics = tuned_rows.columns(rows)
    assert [m.name for m in metrics] == ["frechet", "accuracy"]
    figure = tuned_figures.curves(tuned.winners(rows), metrics)
    assert [axes.get_ylabel()[:4] for axes in figure.axes] == ["Fréc", "Accu"]
    lines = {c.get_label(): c.lines[0] for c in figure.axes[0].containers}
    assert list(lines) == ["no guidance", "CFG"]
    assert list(lines["CFG"].get_ydata()) == [4.5, 2.5]
    assert list(lines["CFG"].get_xdata()) == pytest.approx([1.0, 2.0], rel=0.02)
