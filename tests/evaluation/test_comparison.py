"""Several runs side by side: what is compared with what, and what is drawn."""

import dataclasses
import json

import pytest

from sg_jax.errors import UserError
from sg_jax.evaluation import compare, comparison, method_figures, table
from sg_jax.evaluation.metrics import METRICS
from sg_jax.method.guidance import Guidance
from sg_jax.method.presets import PRESETS

UNGUIDED, SG, CFG = Guidance(), Guidance(1.5, 0.0, 0.75), PRESETS["cfg"]
EARLY = Guidance(1.5, weak_step=1000)
KEY = table.Key(UNGUIDED, "euler", 40, 500, 5000, "0badcafe", 0, 3000)


def scores(frechet, gflops=0.1):
    return dict(
        frechet=frechet, precision=0.5, recall=0.25, accuracy=0.9, gflops_per_step=gflops,
        images_per_second=12.0,
    )  # fmt: skip


def key(guidance, seed=0, **changes):
    changes = {"checkpoint": 3000, **changes}
    return dataclasses.replace(KEY, guidance=guidance, seed=seed, **changes)


@pytest.fixture
def runs(tmp_path):
    """Two runs, measured alike at two checkpoints; SG helps the routed one, CFG the dense one."""
    made = []
    for name, sg in (("dense", (5.0, 6.0)), ("routing", (2.0, 3.0))):
        rows = {}
        for seed, base in enumerate((4.0, 5.0)):
            rows[key(UNGUIDED, seed)] = scores(base)
            rows[key(UNGUIDED, seed, checkpoint=1000)] = scores(4 * base)
            rows[key(SG, seed)] = scores(sg[seed], 0.15)
            rows[key(CFG, seed)] = scores(base - 1, 0.2)
            rows[key(EARLY, seed)] = scores(base - 2, 0.2)
            rows[key(dataclasses.replace(EARLY, weak_step=2000), seed)] = scores(base - 1, 0.2)
        rows[key(UNGUIDED, steps=20, sampler="heun")] = scores(4.5, 0.2)
        table.write(tmp_path / name, rows)
        records = [{"step": 100 * i, "loss": 1 / i, "steps_per_second": 2.0} for i in range(1, 31)]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / name / "metrics.jsonl").write_text(lines)
        made.append(str(tmp_path / name))
    return made


def test_a_comparison_is_written_whole(runs, tmp_path):
    paths = compare.run(runs, tmp_path / "out")
    names = ["cost.png", "gain.png", "weak.png", "training.png", "table.md", "report.html"]
    assert [path.name for path in paths] == names
    assert all(len(path.read_bytes()) > 1000 for path in paths)
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "500 generated against 5,000 real images, judged by the feature network 0bad" in text
    # The seeds' gains are 1 - 2/4 and 1 - 3/5, at 0.15 GFLOPs times 40 steps.
    assert (
        "| SG | routing | ω 1.5, γ 0 / 0.75, euler, 40 steps | 2.500 | +45.0% ± 7.1% | 6.000 |"
        in text
    )
    # Heun evaluates twice per step, at 0.2 GFLOPs: 20 of its steps cost what 40 of Euler's do.
    (heun,) = [line for line in text.splitlines() if "dense" in line and "heun" in line]
    assert "| 4.500 |" in heun and "| 4.000 | 12.0 | 1 |" in heun
    points = [point for run in runs for point in comparison.read(run)]
    for line in text.splitlines():
        if line.startswith("| "):
            assert line.count("|") in (7, 5 + len(comparison.columns(points)) + 1)


def test_two_decoders_of_a_run_are_two_rows(runs, tmp_path):
    table.add(runs[1], {key(g, decoder="1f2e"): scores(9.0) for g in (UNGUIDED, SG)})
    compare.run(runs, tmp_path / "out")
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "| SG | routing | ω 1.5, γ 0 / 0.75, euler, 40 steps | 2.500 | +45.0%" in text
    rows = [line for line in text.splitlines() if "decoder 1f2e" in line and "SG" in line]
    assert len(rows) == 1 and "| 9.000 |" in rows[0]


def test_the_page_holds_every_setting_and_every_figure(runs, tmp_path):
    path = compare.run(runs, tmp_path / "out", "python -m sg_jax.main --mode compare")[-1]
    page = path.read_text(encoding="utf-8")
    assert page.count("<img") == 4 and "--mode compare" in page
    assert page.count("SG: ω 1.5, γ 0 / 0.75, euler, 40 steps") == 2  # of each run
    assert "GFLOPs/image" in page and "mean ± standard deviation over 2 seeds" in page
    assert "5,000 real training images, in the hidden layer of a small classifier" in page
    assert "step 3,000" in page and "real test images" not in page


def test_both_pages_say_what_judged_and_what_the_real_images_were(tmp_path):
    """FID against a file that does not say how many images it is of."""
    how = dict(references=0, reference="adm.npz (0123)", networks="inception 4567")
    table.write(tmp_path / "run", {key(UNGUIDED, **how): dict(fid=4.0)})
    compare.run([tmp_path / "run"], tmp_path / "out")
    pages = [tmp_path / "out" / name for name in ("table.md", "report.html")]
    text, page = (path.read_text(encoding="utf-8") for path in pages)
    assert "against the real images of adm.npz (0123), judged by inception 4567; mean" in text
    assert "the real images of adm.npz (0123), in the features of inception 4567." in page
    assert "classifier" not in page


@pytest.mark.slow
def test_a_metric_from_outside_is_compared(runs, tmp_path, monkeypatch):
    kid = dataclasses.replace(METRICS["frechet"], name="other", header="Other")
    monkeypatch.setitem(METRICS, "other", kid)
    rows = {k: {**v, "other": 0.125} for k, v in table.read(runs[0]).items()}
    table.write(runs[0], rows)
    compare.run(runs, tmp_path / "out")
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "Other ↓ (distance)" in text
    for line in text.split("## Every setting")[1].splitlines():
        assert ("0.125" in line) == line.startswith("| dense ")
        assert (" – " in line) == line.startswith("| routing ")
    assert "Other" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_run_without_what_settings_are_ranked_by_has_its_table(runs, tmp_path):
    for run in runs:
        table.write(run, {k: {**v, "frechet": None} for k, v in table.read(run).items()})
    paths = compare.run(runs, tmp_path / "out")
    assert [path.name for path in paths] == ["training.png", "table.md", "report.html"]
    assert " – " in paths[1].read_text(encoding="utf-8")


def test_the_legend_of_costs_is_beside_them_and_not_cut_off(runs):
    points = [point for run in runs for point in comparison.read(run)]
    legend = compare.front(points).axes[0].get_legend()
    words = [text.get_text() for text in legend.get_texts()]
    assert {"unguided", "SG", "CFG", "AG", "dense", "routing"} <= set(words)
    assert legend.get_clip_path() is None


def records(*steps):
    """Return what one step a second writes to metrics.jsonl."""
    return [{"step": step, "loss": 1.0, "steps_per_second": 1.0} for step in steps]


def test_the_quality_over_training_is_drawn_where_there_is_more_than_one(runs):
    points = [point for run in runs for point in comparison.read(run)]
    metrics = {"dense": records(1000, 2000, 3000)}
    two = compare.over_training(points, metrics)
    assert [axes.get_ylabel()[:4] for axes in two.axes] == ["trai", "Fréc"]
    one = compare.over_training(comparison.final(points), metrics)
    assert [axes.get_ylabel()[:4] for axes in one.axes] == ["trai"]
    assert compare.over_training(points, {"dense": []}) is None


def test_only_settings_scored_at_most_checkpoints_are_drawn_over_training():
    def points(guidance, steps, **changes):
        return [
            comparison.Point("dense", key(guidance, checkpoint=step, **changes), {0: scores(1)})
            for step in steps
        ]

    metrics = {"dense": records(1000, 2000, 3000)}
    all_points = points(Guidance(), (1000, 2000, 3000)) + points(SG, (2000, 3000))
    legend = compare.over_training(all_points, metrics).axes[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["dense, no guidance, γ 0"]
    # How it was sampled is said where it is not the same for all.
    all_points += points(Guidance(), (1000, 2000, 3000), sampler="heun")
    legend = compare.over_training(all_points, metrics).axes[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        "dense, no guidance, γ 0, euler, 40 steps", "dense, no guidance, γ 0, heun, 40 steps",
    ]  # fmt: skip


def test_checkpoints_between_records_have_a_place_in_time(runs):
    points = [point for run in runs for point in comparison.read(run)]
    figure = compare.over_training(points, {"dense": records(800, 1600, 2400, 3200)})
    (line,) = [each for each in figure.axes[1].lines if len(each.get_xdata()) == 2][:1]
    assert list(line.get_xdata()) == [1000 / 60, 3000 / 60]  # a step a second, in minutes


def test_weak_checkpoints_are_joined_within_one_sampling(runs):
    points = [point for run in runs for point in comparison.read(run)]
    ag = [p for p in points if p.method == "AG"]
    heun = [dataclasses.replace(p, key=dataclasses.replace(p.key, sampler="heun")) for p in ag]
    many = [dataclasses.replace(p, run=f"run{i}") for i in range(9) for p in ag[:2]]
    for found, lines in ((ag, 2), (ag + heun, 4), (many, 9)):
        legend = method_figures.weak_steps(found).axes[0].get_legend()
        assert len(legend.get_texts()) == lines
    assert "AG: ω 1.5, γ 0 / 0 any checkpoint, euler" in legend.get_texts()[0].get_text()
    assert method_figures.weak_steps([p for p in points if p.method == "SG"]) is None


def test_gains_are_of_the_best_setting_and_the_same_sampling(runs):
    points = comparison.final([p for run in runs for p in comparison.read(run)])
    best = comparison.best_of_methods(points)
    assert set(best) == {"SG", "CFG", "AG"}
    assert best["AG"]["dense"].key.guidance.weak_step == 1000  # 2 below, not 1
    lucky = comparison.Point("dense", key(Guidance(2.0, 0.0, 0.9)), {0: scores(0.1)})
    assert comparison.best_of_methods([*points, lucky])["SG"] == best["SG"]  # by one seed alone
    other = comparison.Point("dense", key(SG, sampler="heun"), {0: scores(0.1), 1: scores(0.1)})
    assert comparison.best_of_methods([*points, other])["SG"] == best["SG"]  # by another sampler
    baselines = [comparison.baseline(point, points) for point in points]
    assert {b.key.sampler for b, p in zip(baselines, points, strict=True) if p.method == "SG"} == {
        "euler"
    }
    assert comparison.baseline(best["SG"]["dense"], points).quality == 4.5


def test_a_gain_needs_a_seed_of_the_baseline(runs):
    points = comparison.final([p for run in runs for p in comparison.read(run)])
    other = [p for p in points if p.method == "SG"]
    other = [dataclasses.replace(p, scores={7: scores(0.1)}) for p in other]
    rest = [p for p in points if p.method != "SG"]
    assert set(comparison.best_of_methods([*rest, *other])) == {"CFG", "AG"}


def test_runs_are_ranked_by_a_metric_that_all_of_them_have(runs):
    """A KID of one run is no Fréchet distance, although the other run has both."""
    for run, others in zip(runs, (dict(kid=0.02), dict(kid=0.02, frechet=None)), strict=True):
        table.write(run, {k: {**v, **others} for k, v in table.read(run).items()})
    points = comparison.alike([p for run in runs for p in comparison.read(run)])
    assert comparison.ranked_by(points) is METRICS["kid"]
    assert {(p.run, p.quality) for p in points} == {("dense", 0.02), ("routing", 0.02)}
    table.write(runs[0], {k: {**v, "kid": None} for k, v in table.read(runs[0]).items()})
    points = comparison.alike([p for run in runs for p in comparison.read(run)])
    assert comparison.ranked_by(points) is METRICS["frechet"]  # no metric is common to both
    assert {p.run for p in comparison.measured(points)} == {"dense"}


def test_the_best_of_many_settings_takes_time_that_grows_with_their_number(monkeypatch):
    many = [UNGUIDED, *(Guidance(1 + i / 64, 0.0, 0.75) for i in range(1, 64))]
    points = [comparison.Point("dense", key(each), {0: scores(each.scale)}) for each in many]
    looked, drawable = [], comparison.drawable
    monkeypatch.setattr(comparison, "drawable", lambda x: looked.append(x) or drawable(x))
    assert comparison.best_of_methods(points)["SG"]["dense"] is points[1]
    assert len(looked) <= 2 * len(points)


def test_what_is_measured_otherwise_is_left_out_or_refused(runs, capsys):
    rows = table.read(runs[0])
    table.write(runs[0], {**rows, key(SG, samples=50): scores(99.0)})
    points = comparison.alike([p for run in runs for p in comparison.read(run)])
    assert {p.key.samples for p in points} == {500}
    assert "1 settings are left out" in capsys.readouterr().out
    for changes in (dict(reference="adm.npz (0123)"), dict(labels="uniform")):
        table.write(runs[0], {**rows, key(SG, **changes): scores(99.0)})
        points = comparison.alike([p for run in runs for p in comparison.read(run)])
        assert 99.0 not in [p.quality for p in points]
    capsys.readouterr()
    other = {dataclasses.replace(k, features="00000000"): m for k, m in list(rows.items())[:3]}
    table.write(runs[0], other)
    with pytest.raises(UserError, match=r"dense and routing were .*config\.features\.path"):
        comparison.alike([p for run in runs for p in comparison.read(run)])


def test_a_gain_is_positive_for_what_is_better_below_0_too():
    worse, better, base = (
        comparison.Point("run", KEY, {0: {"kid": kid}}) for kid in (2e-4, -3e-4, -1e-4)
    )
    assert worse.gain(base)[0] == pytest.approx(-3)
    assert better.gain(base)[0] == pytest.approx(2)


def test_a_run_is_named_by_its_folder(runs, monkeypatch):
    monkeypatch.chdir(runs[0])
    assert comparison.name_of(".") == "dense" == comparison.read(".")[0].run


def test_a_run_without_scores_or_a_name_of_its_own_is_named(runs, tmp_path):
    with pytest.raises(UserError, match=r"has no scores\.csv"):
        compare.run([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(UserError, match="different names: dense, dense"):
        compare.run([runs[0], runs[0]], tmp_path / "out")


@pytest.mark.parametrize(
    "guidance, name",
    [
        (UNGUIDED, "unguided"),
        (CFG, "CFG"),
        (PRESETS["icg"], "ICG"),
        (PRESETS["pdg"], "PDG"),
        (SG, "SG"),
        (PRESETS["cfg_sg"], "CFG+SG"),
        (PRESETS["ag"], "AG"),
        (PRESETS["sg_fid"], "AG+SG, scheduled"),
        (dataclasses.replace(SG, interval=(0.2, 0.5)), "SG, in interval"),
        (dataclasses.replace(SG, gamma_strong=0.5, ids="nested"), "SG, nested"),
        (dataclasses.replace(SG, weak_step=3000), "SG, apart"),
        (Guidance(1.5, weak_step=3000), "unguided, apart"),
        (dataclasses.replace(SG, weak_step=3000, weak_workdir="other"), "AG+SG"),
        (PRESETS["ig"], "IG"),
        (PRESETS["slg"], "SLG"),
        (Guidance(skip=1, skip_scale=1.25), "S2"),
        (PRESETS["s2"], "CFG+S2, in interval"),
        (PRESETS["tsg"], "TSG"),
        (
            Guidance(1.5, weak_label="null", skip=1, skip_scale=1.2, refresh=2, norm=1.0),
            "CFG+S2, every 2 steps, APG",
        ),
        (Guidance(2.0, 0.0, 0.5, inner_scale=1.5, rescale=True), "SG+IG, CFG-Zero*"),
        (Guidance(inner_scale=1.5, weak_step=5, gamma_strong=0.5), "IG"),
        (Guidance(2.0, weak_weights="raw"), "EMA"),
        (dataclasses.replace(SG, weak_weights="raw"), "EMA+SG"),
        (dataclasses.replace(EARLY, weak_weights="raw"), "AG"),
    ],
)
def test_methods_by_name(guidance, name):
    assert comparison.method(table.canonical(guidance), 3000) == name
