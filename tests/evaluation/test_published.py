"""Figures of papers beside ours."""

from sg_jax.evaluation import published
from sg_jax.evaluation.metrics import METRICS
from sg_jax.evaluation.results import SettingResult
from sg_jax.method.presets import PRESETS

ROWS = [
    SettingResult("sg_flops", "", {"fid": 2.354, "gflops_per_step": 97.66}, 50_000),
    SettingResult("mine", "", {"fid": 1.0}, 50_000),
    SettingResult("sg_fid", "", {"fid": 1.5, "is": 250.0, "precision": 0.8}, 50_000),
]


def test_what_both_have_is_compared():
    lines = {line[:2]: line[2:] for line in published.beside("table3", ROWS)}
    assert lines["sg_flops", "FID"] == ("2.14", "2.35", "+0.21 (+10.0%)")
    assert lines["sg_flops", "Cost"] == ("97.67", "97.66", "-0.01 (-0.0%)")
    assert lines["sg_fid", "IS"] == ("249.70", "250.00", "+0.30 (+0.1%)")
    assert lines["sg_fid", "Recall"] == ("0.63", "–", "–")  # not measured here
    assert ("sg_flops", "IS") not in lines and not any(name == "mine" for name, _ in lines)


def test_it_prints_as_a_table():
    said = published.text("table3", ROWS).splitlines()
    assert "arXiv 2601.01608" in said[0] and "50,000 images" in said[0]
    assert said[1].split() == ["Setting", "Metric", "paper", "ours", "difference"]
    assert published.text("table3", [ROWS[1]]) == ""


def test_tables_name_settings_and_metrics_that_exist():
    for name, table in published.TABLES.items():
        assert name == "adm" or set(table.rows) <= set(PRESETS)
        assert all(set(row) <= set(METRICS) for row in table.rows.values())
        assert all(set(row) <= set(published.COLUMNS) for row in table.rows.values())
