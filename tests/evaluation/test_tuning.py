"""The rule of tuning: equal counts, who wins, and what is left out."""

import itertools
import json
import types

import numpy as np
import pytest

from sg_jax.config.sections import Evaluate, Sample, Tune
from sg_jax.errors import UserError
from sg_jax.evaluation import (
    measure,
    scored,
    trials,
    tuned,
    tuned_figures,
    tuned_rows,
    tuned_tables,
    tuning,
)
from sg_jax.evaluation.metrics import METRICS
from sg_jax.evaluation.table import Key, canonical
from sg_jax.method import checks
from sg_jax.method.candidates import METHODS
from sg_jax.method.guidance import Guidance
from sg_jax.method.presets import PRESETS
from sg_jax.method.sampler import Sampler


def config_of(**tune):
    return types.SimpleNamespace(
        tune=Tune(**tune), guidance=PRESETS, evaluate=Evaluate(), sample=Sample(steps=20)
    )


def able_on(model):
    def able(setting):
        if setting.weak_step:
            raise UserError("There is no early checkpoint.")
        checks.check_setting(model, setting)
        return canonical(setting)

    return able


def test_every_method_tries_equally_many(tiny):
    found, notes = trials.candidates(config_of(settings=7), able_on(tiny))
    assert list(found) == ["unguided", "cfg", "sg", "cfg_sg", "icg", "pdg"]
    assert [len(each) for each in found.values()] == [1, 7, 7, 7, 7, 7]
    assert found["cfg"] == [canonical(g) for g in METHODS["cfg"][:7]]
    assert [note.partition(":")[0] for note in notes] == ["ag is left out", "ig is left out"]
    assert notes[0].endswith("There is no early checkpoint.")
    found, notes = trials.candidates(config_of(settings=7, methods=("all",)), able_on(tiny))
    left_out = {note.partition(" is left out")[0] for note in notes}
    assert set(found) | left_out == set(METHODS) and set(found) > {"sg_borrowed", "s2", "ema"}


def test_a_network_without_routes_leaves_sparse_methods_out(make_dit):
    dense = able_on(make_dit(routes=()))
    found, notes = trials.candidates(config_of(settings=3), dense)
    assert list(found) == ["unguided", "cfg", "icg"]
    assert any("sg is left out" in n and "needs a network with routes" in n for n in notes)
    with pytest.raises(UserError, match=r"config.tune.methods='sg': only 0 of its 108 candidates"):
        trials.candidates(config_of(settings=3, methods=("cfg", "sg")), dense)


def test_equal_settings_count_once(tiny):
    own = (("mine", ("sg", "again", "off", "cfg")), ("sg", ("sg_flops", "...")))
    config = config_of(settings=3, methods=("mine", "sg"), candidates=own)
    config.guidance = {**PRESETS, "again": PRESETS["sg"], "off": Guidance()}
    found, _ = trials.candidates(config, able_on(tiny))
    assert found["mine"] == [canonical(PRESETS[name]) for name in ("sg", "unguided", "cfg")]
    assert found["sg"] == [canonical(g) for g in (PRESETS["sg_flops"], *METHODS["sg"][:2])]
    config.tune = Tune(settings=4, methods=("mine",), candidates=own)
    with pytest.raises(UserError, match="only 3 of its 4 candidates differ"):
        trials.candidates(config, able_on(tiny))
    config.tune = Tune(settings=5, methods=("mine",), candidates=own)
    with pytest.raises(UserError, match=r"config.tune.settings=5 is more than the 4 candidates"):
        trials.candidates(config, able_on(tiny))


def test_only_what_is_measured_decides():
    config = config_of(metric="fid")
    with pytest.raises(UserError, match=r"config.tune.metric='fid' is not measured.*frechet"):
        trials.metric_of(config)
    config.evaluate = Evaluate(metrics=("fid", "kid"))
    assert trials.metric_of(config).name == "fid"
    config.tune = Tune()
    assert trials.metric_of(config).name == "fid"
    config.evaluate = Evaluate(metrics=("kid", "precision"))
    assert trials.metric_of(config).name == "kid"
    config.evaluate = Evaluate(metrics=("precision", "recall"))
    with pytest.raises(UserError, match=r"metric='' needs one of fid.*measured is precision, rec"):
        trials.metric_of(config)
    config.tune = Tune(metric="recall")
    assert trials.metric_of(config).name == "recall"


@pytest.fixture
def tuned_by(tiny, tmp_path, monkeypatch):
    """Changes to config.tune, and (guidance, seed) -> Fréchet distance -> rows and images."""

    def run(distance, **changes):
        values = dict(settings=3, methods=("cfg",), budgets=(1.0, 2.0), seeds=(0, 7))
        config = config_of(**{**values, "report_seeds": (1, 2), **changes})
        experiment = types.SimpleNamespace(
            config=config, model=tiny, sampler=Sampler(), image_shape=(8, 8, 3), captions=None
        )
        asked = []

        def score(experiment, judge, workdir, keys, pictured=(), **_):
            asked.append((list(keys), list(pictured)))
            return {
                key: dict(frechet=distance(key.guidance, key.seed), accuracy=0.1 * key.seed)
                for key in keys
            }

        monkeypatch.setattr(measure, "conditions", lambda e, j, samples, step: Key(samples=samples))
        monkeypatch.setattr(measure, "score", score)
        monkeypatch.setattr(scored, "images_of", lambda *args, **kwargs: np.zeros((2, 8, 8, 3)))
        settings, _ = trials.candidates(config, able_on(tiny))
        tried = trials.trials(experiment, settings)
        judge = types.SimpleNamespace(lacks=lambda scores: "frechet" not in scores)
        rows, images = tuning.run(experiment, judge, tmp_path, tried, step=7)
        return rows, images, asked, tried

    return run


def test_what_wins_the_search_is_reported_though_another_is_better_there(tuned_by):
    first, second, _ = (canonical(g) for g in METHODS["cfg"][:3])

    def distance(guidance, seed):
        if seed in (0, 7):  # means: 2 for the second, 2.5 for the first, 9 for the others
            return {second: 2.0, first: 1.0 if seed else 4.0}.get(guidance, 9.0)
        return {second: 8.0}.get(guidance, 0.5)

    rows, _, asked, tried = tuned_by(distance)
    report = [row for row in rows if row.stage == tuned_rows.REPORT]
    assert {r.key.guidance for r in report if r.method == "cfg"} == {second}
    assert {r.scores["frechet"] for r in report if r.method == "cfg"} == {8.0}
    assert {(r.key.seed, r.key.samples) for r in report} == {(1, 1000), (2, 1000)}
    search = [row for row in rows if row.stage == tuned_rows.SEARCH]
    assert {(r.key.seed, r.key.samples) for r in search} == {(0, 300), (7, 300)}
    assert {r.key.guidance for r in search if r.chosen and r.method == "cfg"} == {second}
    # 3 settings of CFG and none of no guidance, at 2 budgets with 2 seeds; then 2 winners each.
    assert [len(keys) for keys, _ in asked] == [(3 + 1) * 2 * 2, 2 * 2 * 2]
    assert len(rows) == 16 + 8 and len(tried) == 8


def test_settings_of_one_program_follow_each_other(tuned_by):
    _, _, asked, _ = tuned_by(lambda guidance, seed: 1.0, settings=12, budgets=(1.0,))
    places = [(k.guidance.interval, k.guidance.guided, k.steps) for k in asked[0][0]]
    changes = sum(a != b for a, b in itertools.pairwise(places))
    assert changes == len(set(places)) - 1 == 3  # no guidance, and three intervals


def test_images_are_of_the_middle_budget_and_the_first_seed(tuned_by):
    _, images, asked, tried = tuned_by(lambda guidance, seed: 1.0, budgets=(2.0, 0.5, 1.35))
    assert list(images) == ["unguided", "cfg"]
    pictured = asked[1][1]
    assert {key.seed for key in pictured} == {1}
    steps = {t.steps for t in tried if t.budget == 1.35}
    assert {key.steps for key in pictured} <= steps
    # No guidance is there at budget 1 too, to compare with.
    assert {t.budget for t in tried if t.method == "unguided"} == {0.5, 1.0, 1.35, 2.0}
    assert {t.budget for t in tried if t.method == "cfg"} == {0.5, 1.35, 2.0}


def test_another_metric_decides_if_the_config_says_so(tuned_by, monkeypatch):
    def distance(guidance, seed):
        return guidance.scale

    assert {r.key.guidance.scale for r in tuned_by(distance)[0] if r.chosen} == {1.0, 1.15}
    rows = tuned_by(distance, metric="accuracy")[0]
    assert {row.metric for row in rows} == {"accuracy"}  # equal everywhere: the first wins
    assert {r.key.guidance.scale for r in rows if r.chosen} == {1.0, 1.5}


def test_what_is_not_finite_with_one_seed_does_not_win(tuned_by):
    first = canonical(METHODS["cfg"][0])

    def distance(guidance, seed):
        return (float("nan") if seed else 0.1) if guidance == first else 1.0

    rows = tuned_by(distance)[0]
    assert first not in {row.key.guidance for row in rows if row.chosen}


def test_a_method_without_a_number_is_left_out(tuned_by):
    def distance(guidance, seed):
        return float("nan") if guidance.guided else 1.0

    rows, images, _, _ = tuned_by(distance)
    assert list(images) == ["unguided"]
    assert {r.method for r in rows if r.stage == tuned_rows.SEARCH} == {"unguided", "cfg"}
    assert {r.method for r in rows if r.stage == tuned_rows.REPORT} == {"unguided"}
    text = tuned_tables.markdown(rows)
    assert "No finite Fréchet with any setting of the search: cfg at 1, cfg at 2." in text


def test_without_no_guidance_there_is_nothing_to_compare(tuned_by):
    with pytest.raises(UserError, match="unguided at budget 1: none of 1 settings has a finite"):
        tuned_by(lambda guidance, seed: float("nan"))


def test_what_is_not_finite_in_the_report_has_no_mean(tuned_by):
    """With the other seed alone it would seem to be the better one."""

    def distance(guidance, seed):
        return {1: float("nan"), 2: 0.5}.get(seed, 0.9) if guidance.guided else 1.0

    rows = tuned_by(distance)[0]
    cfg = next(w for w in tuned.winners(rows) if w.method == "cfg")
    plain = tuned.unguided(tuned.winners(rows), 1.0)
    assert cfg.spread(METRICS["frechet"]) == (None, None, None)
    assert cfg.less(plain, METRICS["frechet"]) == ((None, None, None), 0, 0)
    assert plain.spread(METRICS["frechet"]).mean == 1.0
    for text in (tuned_tables.markdown(rows), tuned_tables.terminal(rows)):
        assert "No finite Fréchet with some seed of the report: cfg at 1, cfg at 2." in text
    tuned_figures.curves(tuned.winners(rows), tuned_rows.columns(rows))
    json.loads(tuned_tables.as_json(rows))


def test_what_misses_its_budget_is_named():
    tried = [trials.Trial("cfg", Guidance(), 1.0, 2, cost) for cost in (0.95, 1.05, 1.06, 2.0)]
    text = trials.off_budget(tried)
    assert "costs 1.06 at 1; cfg (no guidance, γ 0) costs 2 at 1." in text
    assert "0.95" not in text and trials.off_budget(tried[:2]) == ""
