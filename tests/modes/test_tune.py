"""Tuning from end to end on a tiny network: what is drawn, what is kept, and what is written."""

import csv
import dataclasses
import json
import types

import numpy as np
import pytest
from PIL import Image
from tiny_networks import Pixels

from sg_jax.config import parsing, record, tree
from sg_jax.config.sections import Data, Evaluate, Sample, Train, Tune
from sg_jax.errors import UserError
from sg_jax.evaluation import scored, scoring, table, tuned_rows, tuned_tables
from sg_jax.evaluation.found import FeatureSet
from sg_jax.evaluation.real import View
from sg_jax.evaluation.tuned import Winner
from sg_jax.main import main
from sg_jax.method.guidance import Guidance
from sg_jax.method.presets import PRESETS
from sg_jax.method.sampler import Sampler
from sg_jax.modes import tune
from sg_jax.programs import integration, sampling
from sg_jax.programs.sampling import NotFinite
from sg_jax.weights import checkpoints

TUNE = dict(
    settings=2, methods=("ag",), budgets=(1.0, 2.0), samples=10, seeds=(0,), report_samples=12,
    report_seeds=(1, 2), candidates=(("ag", ("one", "two")),),
)  # fmt: skip
SETTINGS = {
    **PRESETS, "one": Guidance(1.5, weak_step=3), "two": Guidance(2.0, weak_step=3),
    "wild": Guidance(3e38, weak_label="null"), "calm": Guidance(1.5, weak_label="null"),
}  # fmt: skip


@pytest.fixture
def tune_of(tmp_path, small, mesh_of, monkeypatch):
    """Changes to TUNE -> (paths, what was drawn: count, setting, steps, seed)."""
    for step in (3, 7):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    drawn = []

    def sample(model, labels, guidance, steps, seed, **kwargs):
        drawn.append((len(labels), guidance, steps, seed))
        return sampling.sample_batches(model, labels, guidance, steps=steps, seed=seed, **kwargs)

    real = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    found = FeatureSet(Pixels().score(real)[0], np.zeros(40, int))
    judge = scoring.Judge({"classifier": View(Pixels(), found, found)})
    monkeypatch.setattr(scored, "sample_batches", sample)
    monkeypatch.setattr(checkpoints, "load", lambda *args, **kwargs: small)
    monkeypatch.setattr(scoring, "open_judge", lambda *args: judge)

    def run(at=tmp_path, keep="", **changes):
        drawn.clear()
        config = types.SimpleNamespace(
            seed=0, data=Data(), train=Train(), guidance=SETTINGS,
            evaluate=Evaluate(columns=3, keep=keep),
            sample=Sample(steps=4, batch_size=8), tune=Tune(**{**TUNE, **changes}),
        )  # fmt: skip
        mesh, sampler = mesh_of(1, 1), Sampler()
        experiment = types.SimpleNamespace(
            image_shape=(8, 8, 3), autoencoder=None, config=config, mesh=mesh, sampler=sampler,
            settings=SETTINGS, model=small, captions=None, asked=small.conditioning.in_turn,
            sampling=dict(steps=4, seed=0, batch_size=8, mesh=mesh, sampler=sampler),
        )  # fmt: skip
        source = types.SimpleNamespace(num_classes=5, class_names=tuple("abcde"))
        paths = tune.tune(experiment, source, str(at))
        return paths, [d for d in drawn if d[0] > 8]  # else it only compiles

    return run


def test_a_tune_is_drawn_once_and_written_whole(tune_of, tmp_path, capsys):
    before = integration.integrate._cache_size()
    paths, drawn = tune_of()
    # No guidance takes 4 and 8 steps, two networks 2 and 4.
    one, two = (table.canonical(SETTINGS[name]) for name in ("one", "two"))
    search = [(Guidance(), 4), (Guidance(), 8), (one, 2), (two, 2), (one, 4), (two, 4)]
    assert drawn[:6] == [(10, guidance, steps, 0) for guidance, steps in search]
    report = drawn[6:]
    assert [(count, seed) for count, _, _, seed in report] == [(12, 1), (12, 2)] * 4
    assert [steps for _, _, steps, _ in report] == [4, 4, 8, 8, 2, 2, 4, 4]
    assert integration.integrate._cache_size() == before + 4  # omega and seeds compile nothing
    said = capsys.readouterr().out
    assert "drawing  1/14" in said and "drawing  6/14" in said and "drawing 8/8" in said
    assert said.count("ETA") == 14 and "vs unguided at 1" in said

    names = ["scores.csv", "tune.csv", "tune.md", "tune.json", "tune.png", "tune_grid.png"]
    assert [path.name for path in paths] == names
    with paths[1].open() as file:
        lines = list(csv.DictReader(file))
    assert [line["stage"] for line in lines] == ["search"] * 6 + ["report"] * 8
    rows = tuned_rows.read(tmp_path)
    measured = table.read(tmp_path)
    assert len(measured) == 14
    for row in rows:
        assert row.scores == {k: v for k, v in measured[row.key].items() if k != "samples"}
        assert row.cost == row.budget
    # The chosen one is the best of the search, and it alone is reported.
    for budget in (1.0, 2.0):
        tried = [
            r for r in rows if (r.method, r.budget, r.stage) == ("ag", budget, tuned_rows.SEARCH)
        ]
        best = min(tried, key=lambda r: r.scores["frechet"]).key.guidance
        assert [r.key.guidance for r in tried if r.chosen] == [best]
        again = {
            r.key.guidance for r in rows if r.stage == tuned_rows.REPORT and r.budget == budget
        }
        assert again == {best, Guidance()}
    found = json.loads(paths[3].read_text())
    assert [(w["method"], w["budget"], w["cost"]) for w in found["winners"]] == [
        ("unguided", 1.0, 1.0), ("ag", 1.0, 1.0), ("unguided", 2.0, 2.0), ("ag", 2.0, 2.0),
    ]  # fmt: skip
    config = parsing.parse(found["winners"][3]["flags"].split(), of_run=tree.defaults)
    assert config.sample.steps == 4 and tree.check(config).guidance["ag"] in (one, two)
    page = paths[2].read_text(encoding="utf-8")
    assert "## Budget 2" in page and "Not within" not in page
    assert all(Image.open(path).size > (200, 100) for path in paths[4:])
    # Two rows of three images, which start from the same noise.
    assert len(list((tmp_path / "samples" / "scored").iterdir())) == 2

    whole = {path.name: path.read_bytes() for path in paths[:4]}
    again = tune_of()
    assert again[1] == []
    assert {path.name: path.read_bytes() for path in again[0][:4]} == whole

    # Another run takes over what this one found, and searches nothing.
    other = tmp_path / "other"
    for step in (3, 7):
        (other / "checkpoints" / str(step)).mkdir(parents=True)
    taken, drawn = tune_of(at=other, winners=str(tmp_path), settings=12, candidates=())
    assert [(count, steps, seed) for count, _, steps, seed in drawn] == [
        (count, steps, seed) for count, _, steps, seed in report
    ]
    assert {guidance for _, guidance, _, _ in drawn} == {guidance for _, guidance, _, _ in report}
    assert "chosen in another run" in taken[2].read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"not tuned for 'unguided' at budget 3: tune"):
        tune_of(at=other, winners=str(tmp_path), settings=12, candidates=(), budgets=(3.0,))
    with pytest.raises(UserError, match="is this run itself"):
        tune_of(winners=str(tmp_path), settings=12, candidates=())


def test_the_flags_say_what_the_command_changed(monkeypatch):
    """They draw the winner in a later command, which has none of this one's changes."""
    monkeypatch.setattr(record, "is_run", lambda workdir: True)
    monkeypatch.setattr(record, "read", lambda workdir: (tree.defaults(), ()))
    winner = Guidance(2.0, weak_label="null", channels=2)
    experiment = types.SimpleNamespace(
        config=types.SimpleNamespace(evaluate=Evaluate(step=3)),
        settings={**PRESETS, "cfg": winner}, sampler=Sampler("dpm_2m", shift=2.0),
    )  # fmt: skip
    key = table.Key(winner, "dpm_2m shift=2.0", 9, checkpoint=3)
    row = tuned_rows.Row("a", tuned_rows.REPORT, "cfg", 1.0, 1.0, True, "frechet", key, {})
    flags = tuned_tables.flags(Winner("cfg", 1.0, (row,)), tune._base(experiment, "a", 3))
    config = tree.check(parsing.parse(flags.split(), of_run=tree.defaults))
    assert config.guidance["cfg"] == winner and config.sampler == experiment.sampler
    assert config.sample.checkpoint == config.evaluate.step == 3


@pytest.mark.slow
def test_samples_that_are_not_finite_lose(tune_of, tmp_path, capsys):
    wild = dict(methods=("cfg",), candidates=(("cfg", ("wild", "calm")),), budgets=(1.0,))
    tune_of(**wild)
    assert "Not counted: " in capsys.readouterr().out
    rows = [row for row in tuned_rows.read(tmp_path) if row.method == "cfg"]
    scales = {row.key.guidance.scale for row in rows if row.chosen}
    assert scales == {1.5} and np.isnan(rows[0].scores["frechet"])
    assert tune_of(**wild)[1] == []  # and are not drawn again
    assert tune_of(**wild, keep="png")[1] != []  # but for the images of the others
    assert tune_of(**wild, keep="png")[1] == []


@pytest.mark.slow
def test_a_setting_that_fails_in_the_report_alone_has_no_result(tune_of, monkeypatch):
    """Nor a picture; and the same command ends in the same way."""
    whole = scored.sample_batches

    def sample(model, labels, guidance, steps, seed, **kwargs):
        if guidance.guided and seed == 1:
            raise NotFinite("3 of 12 samples contain NaN.")
        return whole(model, labels, guidance=guidance, steps=steps, seed=seed, **kwargs)

    monkeypatch.setattr(scored, "sample_batches", sample)
    calm = dict(methods=("cfg",), candidates=(("cfg", ("calm",)),), settings=1, budgets=(1.0,))
    for _ in range(2):
        paths, _ = tune_of(**calm)
        page = paths[2].read_text(encoding="utf-8")
        assert "No finite Fréchet with some seed of the report: cfg at 1." in page
        assert [path.name for path in paths][-1] == "tune_grid.png"


@pytest.mark.slow
def test_images_are_labelled_with_the_steps_of_their_budget(tune_of, monkeypatch):
    labels = []

    def grid(images, row_labels, **more):
        labels.extend(row_labels)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(tune.pictures, "grid", grid)
    calm = dict(methods=("cfg",), candidates=(("cfg", ("calm",)),), settings=1)
    tune_of(**calm, budgets=(0.5, 1.0, 2.0), report_seeds=(1,))
    assert [label.split("\n")[-1] for label in labels] == ["4 steps", "2 steps"]


def test_programs_are_forgotten_before_there_are_too_many(tune_of, monkeypatch):
    cleared = []
    monkeypatch.setattr(scored, "MOST_PROGRAMS", 1)
    monkeypatch.setattr(scored.jax, "clear_caches", lambda: cleared.append(True))
    calm = dict(methods=("cfg",), candidates=(("cfg", ("calm",)),), budgets=(1.0,), settings=1)
    _, drawn = tune_of(**calm)
    assert len({guidance for _, guidance, _, _ in drawn}) == 2
    assert len(cleared) == 2  # between the two, in the search and in the report


@pytest.mark.slow
def test_an_interrupted_tune_goes_on(tune_of, tmp_path):
    tune_of()
    whole = (tmp_path / "tune.csv").read_text(encoding="utf-8")
    path = tmp_path / "scores.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:5]), encoding="utf-8")  # four drawings of the search
    _, drawn = tune_of()
    assert len(drawn) == 10 and [d[0] for d in drawn] == [10] * 2 + [12] * 8

    def without_speed(text):
        rows = csv.DictReader(text.splitlines())
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]

    assert without_speed((tmp_path / "tune.csv").read_text("utf-8")) == without_speed(whole)


@pytest.mark.slow
def test_a_failure_in_the_report_leaves_the_search(tune_of, tmp_path, monkeypatch):
    draw = scored.sample_batches

    def sample(model, labels, *args, **kwargs):
        if len(labels) == 12:
            raise KeyboardInterrupt
        return draw(model, labels, *args, **kwargs)

    monkeypatch.setattr(scored, "sample_batches", sample)
    with pytest.raises(KeyboardInterrupt):
        tune_of()
    assert {row.stage for row in tuned_rows.read(tmp_path)} == {tuned_rows.SEARCH}
    with pytest.raises(UserError, match="lacks a part of its report"):
        tuned_rows.joined([str(tmp_path)])


def test_runs_are_joined_by_a_command(tmp_path, capsys):
    key = dict(samples=100, features="0badcafe", checkpoint=7)
    for run in ("a", "b"):
        rows = [
            tuned_rows.Row("", stage, "unguided", 1.0, 1.0, True, "frechet",
                      table.Key(Guidance(), steps=20, seed=seed, **key), dict(frechet=1.0 + seed))
            for stage, seed in (("search", 0), ("report", 1), ("report", 2))
        ]  # fmt: skip
        tuned_rows.write(tmp_path / run, rows)
    runs = [str(tmp_path / run) for run in ("a", "b")]
    main(["sg_jax", "--mode", "tune", "--join", *runs, "--out", str(tmp_path / "out")])
    assert "2.500 ± 0.000 ± 0.707" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"tune.md", "tune.json", "tune.png"}
    with pytest.raises(UserError, match="belong together"):
        main(["sg_jax", "--mode", "tune", "--join", *runs])
    with pytest.raises(UserError, match="is one of the runs, whose tables would be overwritten"):
        main(["sg_jax", "--mode", "tune", "--join", *runs, "--out", runs[1]])


def test_a_candidate_that_leads_out_of_the_run_is_looked_at():
    config = tree.check(tree.defaults())
    assert not any("guidance" in key for key in tune.MODE.paths(config, ""))
    own = dataclasses.replace(config, tune=Tune(candidates=(("sg", ("sg_fid", "...")),)))
    assert [k for k in tune.MODE.paths(own, "") if "guidance" in k] == [
        "guidance.sg_fid.weak_workdir"
    ]


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(report_seeds=(0, 5)), "must not share a seed with config.tune.seeds"),
        (dict(seeds=()), "must have at least one seed"),
        (dict(seeds=(1, 1)), "must not contain a seed twice"),
        (dict(budgets=()), "one or more different numbers"),
        (dict(settings=0), "must be at least 1"),
        (dict(metric="frechett"), "Did you mean 'frechet'"),
        (dict(methods=("cfg", "cfg")), "must not name 'cfg' twice"),
        (dict(methods="cfg"), "must be names of methods"),
        (dict(methods=("all", "cfg")), "must be ('all',) alone"),
        (dict(candidates=(("sg", ()),)), "must be pairs of a method and the names"),
        (dict(candidates=("sg", "cfg")), "must be pairs of a method and the names"),
        (dict(candidates=(("sg", ("...", "sg")),)), "where '...' may be the last"),
        (dict(candidates=(("sg", ("sg",)), ("sg", ("cfg",)))), "must not give a method twice"),
        (
            dict(winners="runs/a", settings=3),
            "has no effect: the settings come from winners='runs/a'",
        ),
    ],
)
def test_wrong_values_are_named(changes, words):
    with pytest.raises(UserError, match=r"config\.tune\.") as error:
        Tune(**changes)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "flag, words",
    [
        ("methods=cfgg", "Did you mean 'cfg'"),
        ("candidates=(('sg',('sgg',)),)", "Did you mean 'sg'"),
        ("candidates=(('mine',('sg','...')),)", "stands for the candidates of a method of the"),
        ("metric=fid", "config.tune.metric='fid' is not measured"),
        ("settings=22", "config.tune.settings=22 is more than the 21 candidates of 'cfg'"),
    ],
)
def test_wrong_names_are_named_before_any_work(tmp_path, flag, words):
    command = ["sg_jax", "--config", "configs/digits.py", "--mode", "tune", "--dry-run"]
    with pytest.raises(UserError) as error:
        main([*command, f"--config.tune.{flag}"])
    assert words in str(error.value)


def test_a_dry_run_counts_drawings_and_their_cost(capsys):
    main([
        "sg_jax", "--config", "configs/digits.py", "--mode", "tune", "--dry-run", "--chips=1*v5e",
        "--config.tune.methods=cfg,sg", "--config.tune.settings=3", "--config.tune.samples=100",
        "--config.tune.seeds=(8,9)", "--config.tune.budgets=(1,2)",
    ])  # fmt: skip
    said = " ".join(capsys.readouterr().out.partition("What --mode=tune")[2].split())
    # 2 methods of 3 settings and no guidance, at 2 budgets with 2 seeds; then 3 winners each, 5.
    assert "3 methods (unguided, cfg, sg), 3 settings of each, budgets of 1, 2 times" in said
    assert "search: 28 drawings of 100 images, 2,800 images" in said
    assert "report: 30 drawings of 1,000 images, 30,000 images" in said
    assert "58 rows of scores.csv" in said and "32,800 images drawn and judged" in said
