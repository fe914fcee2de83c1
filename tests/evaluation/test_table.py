"""scores.csv: what is equal, what reads back, and what a damaged file gives."""

import dataclasses
import statistics

import pytest

from sg_jax.errors import UserError
from sg_jax.evaluation import table
from sg_jax.method.guidance import PRESETS, Guidance
from sg_jax.method.sampler import Sampler

KEY = table.Key(Guidance(1.5, 0.0, 0.25), "euler", 40, 12, 40, "00000012", 0, 7)
MEASURED = table.Measured(1 / 3, 0.1, 0.2, 1.0, 1e-17 / 3, 123.456)
OTHERS = (
    *PRESETS.values(),
    Guidance(2.0, ("piecewise", (0.0, 0.1), (1.0, 0.3)), 0.9, interval=(0.2, 0.8), ids="nested"),
    Guidance(("linear", 1.0, 2.0), weak_step=5, weak_workdir="runs/other, earlier"),
)


def test_every_setting_reads_back_to_the_last_digit(tmp_path):
    rows = {dataclasses.replace(KEY, guidance=table.canonical(g)): MEASURED for g in OTHERS}
    assert len(rows) == len(OTHERS)
    table.write(tmp_path, rows)
    assert table.read(tmp_path) == rows
    assert [key.digest for key in table.read(tmp_path)] == [key.digest for key in rows]
    assert table.read(tmp_path / "none") == {}


def test_a_file_cut_short_anywhere_keeps_its_whole_rows(tmp_path):
    path = table.write(tmp_path, {KEY: MEASURED})
    whole = path.read_text()
    for length in range(len(whole)):
        path.write_text(whole[:length])
        assert table.read(tmp_path) == {}


def test_a_file_of_another_kind_is_named(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="other columns"):
        table.read(tmp_path)
    table.write(tmp_path, {KEY: MEASURED})
    row = path.read_text().splitlines()[1]
    for broken in ("0.5,nonsense", row.replace("1.5", "-1.5"), row.replace("same", "nul")):
        table.write(tmp_path, {KEY: MEASURED})
        path.write_text(path.read_text() + broken + "\n")
        with pytest.raises(UserError, match="line 3"):
            table.read(tmp_path)


def test_what_changes_nothing_makes_no_other_key():
    same = table.canonical(Guidance())
    assert table.canonical(Guidance(1.0, 0.0, 0.9, weak_label="null", interval=(0.2, 0.5))) == same
    assert table.canonical(Guidance(3.0)) == same  # both predictions are equal
    assert table.canonical(Guidance(1.0, 0.5)) != same
    assert repr(table.canonical(Guidance(2, 0, 0.5))) == repr(Guidance(2.0, 0.0, 0.5))


def test_samplers_in_words():
    assert table.words(Sampler("heun")) == "heun"
    assert table.words(Sampler("heun", shift=2.0)) == "heun shift=2.0"


def test_means_and_deviations_over_seeds():
    rows = [dataclasses.replace(MEASURED, frechet=f) for f in (1.0, 2.0, 6.0)]
    mean, deviation = table.mean_and_deviation(rows)
    assert mean.frechet == 3.0 and deviation.frechet == pytest.approx(statistics.stdev((1, 2, 6)))
    assert mean.recall == pytest.approx(0.2) and deviation.recall == pytest.approx(0.0)
    assert table.mean_and_deviation(rows[1:2]) == (rows[1], table.Measured(*[0.0] * 6))
