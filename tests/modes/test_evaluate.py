"""Evaluation: seeds, checkpoints by step, and what a second call draws."""

import contextlib
import csv
import dataclasses
import json
import threading
import types

import numpy as np
import pytest
from tiny_networks import Pixels

from sg_jax.config import record
from sg_jax.config.sections import Data, Evaluate, Sample, Train
from sg_jax.errors import UserError
from sg_jax.evaluation import judge as judge_lib
from sg_jax.evaluation import measure, pictures, scoring, table, tally
from sg_jax.evaluation import scored as scored_lib
from sg_jax.evaluation.found import FeatureSet
from sg_jax.evaluation.metrics import METRICS
from sg_jax.evaluation.real import View
from sg_jax.method.guidance import Guidance
from sg_jax.method.objective import FlowMatching
from sg_jax.method.sampler import Sampler
from sg_jax.modes import evaluate
from sg_jax.programs import sampling
from sg_jax.runs.sharing import locked
from sg_jax.weights import checkpoints

SETTINGS = dict(
    unguided=Guidance(),
    sg=Guidance(1.5, 0.0, 0.75),
    off=Guidance(1.0, 0.0, 0.75),
    ag=Guidance(1.5, weak_step=3),
    missing=Guidance(1.5, weak_step=4),
    wild=Guidance(1e30, 0.0, 0.75),
)
SAMPLES, BATCH, COLUMNS = 20, 6, 3


@pytest.fixture
def evaluate_of(tmp_path, tiny, make_dit, mesh_of, monkeypatch):
    """Changes to `config.evaluate` -> ((number of images, guidance, seed) drawn, report.json)."""
    for step in (3, 7):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    drawn, loaded = [], []

    def sample(model, labels, guidance, seed, **kwargs):
        drawn.append((len(labels), guidance, seed))
        return sampling.sample_batches(model, labels, guidance, seed=seed, **kwargs)

    def load(workdir, step=None, **_):
        loaded.append(step)
        return make_dit(seed=step)

    real = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    found = FeatureSet(
        Pixels(test_accuracy=0.5).score(real)[0], np.arange(40) % 5, np.arange(40) % 4
    )
    view = View(Pixels(test_accuracy=0.5), found, found)
    judge = scoring.Judge({"classifier": view})
    monkeypatch.setattr(scored_lib, "sample_batches", sample)
    monkeypatch.setattr(checkpoints, "load", load)
    monkeypatch.setattr(scoring, "open_judge", lambda *args, **kwargs: judge)

    def run(names, autoencoder=None, **changes):
        drawn.clear()
        loaded.clear()
        values = dict(guidance=names, samples=SAMPLES, seeds=(), step=0, columns=COLUMNS)
        config = types.SimpleNamespace(
            seed=5,
            data=Data(name="d", split="train"),
            objective=FlowMatching(),
            train=Train(batch_size=1, ema_decay=0.0),
            sample=Sample(steps=2, batch_size=BATCH),
            evaluate=Evaluate(**{**values, **changes}),
        )
        mesh, sampler = mesh_of(1, 1), Sampler()
        experiment = types.SimpleNamespace(image_shape=(8, 8, 3), autoencoder=autoencoder,
            config=config, mesh=mesh, sampler=sampler, settings=SETTINGS, model=tiny,
            captions=None, asked=tiny.conditioning.in_turn,
            training_mixes=(((0.5, 1.0),), ((0.0, 1.0),)),
            sampling=dict(steps=2, seed=5, batch_size=BATCH, mesh=mesh, sampler=sampler),
        )  # fmt: skip
        source = types.SimpleNamespace(name="d", num_classes=5, class_names=tuple("abcde"))
        evaluate.evaluate(experiment, source, str(tmp_path), "")
        scored = [(g, seed) for count, g, seed in drawn if count == SAMPLES]
        return scored, list(loaded), json.loads((tmp_path / "report.json").read_text("utf-8"))

    return run


@pytest.mark.slow
def test_what_another_command_has_scored_meanwhile_is_kept(evaluate_of, tmp_path, monkeypatch):
    evaluate_of(("unguided",))
    ((key, scores),) = table.read(tmp_path).items()
    other, draw = dataclasses.replace(key, seed=77), scored_lib.sample_batches

    def sample(*args, **kwargs):
        table.write(tmp_path, {**table.read(tmp_path), other: scores})
        return draw(*args, **kwargs)

    monkeypatch.setattr(scored_lib, "sample_batches", sample)
    evaluate_of(("unguided", "sg"))
    rows = table.read(tmp_path)
    assert len(rows) == 3 and rows[other] == scores


@pytest.mark.every(2)
@pytest.mark.parametrize("finished", [True, False])
def test_what_another_command_is_drawing_is_left_to_it(evaluate_of, tmp_path, finished):
    """If that command fails, this one draws it after all."""
    evaluate_of(("unguided", "sg"))
    rows = table.read(tmp_path)
    (key,) = [key for key in rows if key.guidance == Guidance()]
    scores = rows.pop(key) | {"frechet": 0.125}
    table.write(tmp_path, rows)
    with contextlib.ExitStack() as other:
        lock = tmp_path / "samples" / "scored" / f"{key.digest}.lock"
        assert other.enter_context(locked(lock))

        def end():
            if finished:
                table.add(tmp_path, {key: scores})
            other.close()

        timer = threading.Timer(0.5, end)
        timer.start()
        scored, _, report = evaluate_of(("unguided", "ag"))
        timer.join()
    assert scored == [(SETTINGS["ag"], 5), *([] if finished else [(Guidance(), 5)])]
    (row,) = [row for row in report if row["name"] == "unguided"]
    assert (row["frechet"] == 0.125) == finished
    assert not lock.exists()


def test_what_is_scored_is_kept_setting_by_setting(evaluate_of, tmp_path):
    scored, _, report = evaluate_of(("unguided", "sg"))
    assert scored == [(Guidance(), 5), (SETTINGS["sg"], 5)]
    picture = (tmp_path / "guidance.png").read_bytes()
    again = evaluate_of(("unguided", "sg"))
    assert again == ([], [], report)  # not even a checkpoint is read
    assert (tmp_path / "guidance.png").read_bytes() == picture
    # A third setting draws itself alone; one that is off is the first again.
    assert evaluate_of(("unguided", "sg", "ag", "off"))[0] == [(SETTINGS["ag"], 5)]
    # Images that are gone are drawn again, and not scored.
    for path in (tmp_path / "samples" / "scored").iterdir():
        path.unlink()
    assert evaluate_of(("unguided", "sg"))[0] == []
    assert (tmp_path / "guidance.png").read_bytes() == picture


def test_the_report_keeps_what_was_scored_alike(evaluate_of, tmp_path, capsys, monkeypatch):
    evaluate_of(("unguided", "sg"))
    page = (tmp_path / "guidance.png").read_bytes()
    scored, _, report = evaluate_of(("ag",))
    assert scored == [(SETTINGS["ag"], 5)]
    assert [row["name"] for row in report] == ["ag", "unguided", "sg"]
    assert len((tmp_path / "guidance.png").read_bytes()) > len(page)
    # What was measured in another way is not set beside it, and this is said.
    capsys.readouterr()
    assert [row["name"] for row in evaluate_of(("sg",), samples=24)[2]] == ["sg"]
    assert "leaves out 2 settings of scores.csv" in capsys.readouterr().out
    assert [row["name"] for row in evaluate_of(("sg",), step=3)[2]] == ["sg"]
    assert [row["name"] for row in evaluate_of(("sg",), seeds=(5, 6))[2]] == ["sg"]
    # A setting that has changed since has the name of its method.
    monkeypatch.setitem(SETTINGS, "sg", Guidance(2.0, 0.0, 0.75))
    rows = {row["name"]: row["description"] for row in evaluate_of(("sg",))[2]}
    assert list(rows) == ["sg", "unguided", "SG", "ag"]
    assert (rows["sg"], rows["SG"]) == ("ω 2, γ 0 / 0.75", "ω 1.5, γ 0 / 0.75")


def test_scores_of_two_decoders_are_apart(evaluate_of, tmp_path, capsys):
    """Weights that were moved are the same decoder."""

    def decoder(weights, name):
        return types.SimpleNamespace(fingerprint=lambda: weights, name=name)

    assert len(evaluate_of(("sg",), decoder("1111", "a\nb.pt"))[0]) == 1
    assert "a\nb.pt (1111)" in (tmp_path / "report.html").read_text("utf-8")
    assert "Reference: 40 images of d (" in capsys.readouterr().out
    assert evaluate_of(("sg",), decoder("1111", "moved/b.pt"), images="pets")[0] == []
    assert "Reference: 40 images of pets (" in capsys.readouterr().out
    scored, _, report = evaluate_of(("unguided",), decoder("2222", "b.pt"))
    assert len(scored) == 1 and [row["name"] for row in report] == ["unguided"]
    assert "leaves out 1 settings of scores.csv" in capsys.readouterr().out
    assert len(evaluate_of(("sg",), decoder("2222", "b.pt"))[0]) == 1
    found = [(key.decoder, key.decoder_name) for key in table.read(tmp_path)]
    assert found == [("1111", "a b.pt"), ("2222", "b.pt"), ("2222", "b.pt")]
    assert len(list((tmp_path / "samples" / "scored").iterdir())) == 3


def test_settings_are_prepared_once_however_many_were_scored(monkeypatch):
    many = {Guidance(2.0 + i / 64, 0.0, 0.75): [{}] for i in range(64)}
    config = types.SimpleNamespace(evaluate=Evaluate(guidance=("sg",)))
    settings = SETTINGS | {"ag_sg": Guidance(2.0, 0.0, 0.75, weak_step=0.33)}
    experiment = types.SimpleNamespace(config=config, settings=settings)
    found = measure.Found({SETTINGS["sg"]: [{}]}, {}, others={SETTINGS["ag"]: [{}], **many})
    prepared, canonical = [], table.canonical
    monkeypatch.setattr(table, "canonical", lambda g: prepared.append(g) or canonical(g))
    assert [name for name, *_ in evaluate._shown(experiment, found, 7)] == ["sg", "ag"]
    assert len(prepared) == len(settings)
    found.others[Guidance(2.0, 0.0, 0.75, weak_step=2)] = [{}]  # `many` has it without this step
    assert [name for name, *_ in evaluate._shown(experiment, found, 7)] == ["sg", "ag", "ag_sg"]


def test_cells_of_a_sweep_are_not_in_the_report(evaluate_of, tmp_path):
    evaluate_of(("unguided",))
    ((key, scores),) = table.read(tmp_path).items()
    cell = dataclasses.replace(key, guidance=Guidance(4.0, 0.0, 0.25))
    table.add(tmp_path, {cell: scores})
    assert [row["name"] for row in evaluate_of(("unguided",))[2]] == ["unguided"]


@pytest.mark.every(3)
@pytest.mark.parametrize("damage", ["cut", "promises", "of another shape", "pickled", "empty"])
def test_kept_images_that_cannot_be_read_are_drawn_again(evaluate_of, tmp_path, capsys, damage):
    evaluate_of(("sg",))
    picture = (tmp_path / "guidance.png").read_bytes()
    (path,) = (tmp_path / "samples" / "scored").iterdir()
    whole = path.read_bytes()
    header = b"'shape': (3, 8, 8, 3), "
    assert header in whole
    if damage == "of another shape":
        np.save(path, np.zeros((3, 4, 4, 3), np.uint8))
    elif damage == "pickled":
        np.save(path, np.array([print], object), allow_pickle=True)
    else:
        promises = whole.replace(header, b"'shape': (10**9, 3), ".replace(b"10**9", b"9" * 9))
        path.write_bytes({"cut": whole[:-7], "promises": promises, "empty": b""}[damage])
    capsys.readouterr()
    assert evaluate_of(("sg",))[0] == []  # scored before
    assert f"{path} cannot be read" in capsys.readouterr().out
    assert path.read_bytes() == whole and (tmp_path / "guidance.png").read_bytes() == picture
    evaluate_of(("sg",))
    assert "cannot be read" not in capsys.readouterr().out


def test_a_share_of_the_training_is_a_kept_checkpoint(evaluate_of, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(SETTINGS, "share", Guidance(1.5, weak_step=0.4))
    _, loaded, (row,) = evaluate_of(("share",))
    assert loaded == [7, 3] and row["description"] == "ω 1.5, γ 0 / 0 step 3"
    assert "the weak prediction is made by step 3" in capsys.readouterr().out
    assert {key.guidance for key in table.read(tmp_path)} == {Guidance(1.5, weak_step=3)}
    assert evaluate_of(("ag",))[0] == []  # it is the same setting
    saved = types.SimpleNamespace(checkpoint=types.SimpleNamespace(every=10))
    monkeypatch.setattr(record, "read", lambda workdir: (saved, ()))
    monkeypatch.setitem(SETTINGS, "share", Guidance(1.5, weak_step=0.1))
    needs = r"near step 1, 0\.1 of 7,.*\[3\] beside.*checkpoint\.every=1 and .*keep_period=1"
    with pytest.raises(UserError, match=needs):
        evaluate_of(("share",))


def test_a_metric_that_is_missing_is_measured_again(evaluate_of, tmp_path):
    _, _, report = evaluate_of(("unguided", "sg"))
    rows = table.read(tmp_path)
    first, second = rows
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    noted = [f"{line},{note}\n" for line, note in zip(lines, ("note", "a", "b"), strict=True)]
    (tmp_path / "scores.csv").write_text("".join(noted))
    table.write(tmp_path, {first: rows[first], second: {**rows[second], "recall": None}})
    scored, _, again = evaluate_of(("unguided", "sg"))
    assert scored == [(SETTINGS["sg"], 5)]
    for row in (*report, *again):
        del row["images_per_second"]  # the only number that depends on the clock
    assert again == report
    cells = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert [row["note"] for row in cells] == ["a", "b"]


def test_a_metric_from_outside_is_measured_and_reported(evaluate_of, tmp_path, monkeypatch):
    evaluate_of(("unguided",))
    brightness = dataclasses.replace(
        METRICS["recall"], name="brightness", header="Brightness", explanation="How bright it is.",
        function=lambda real, fake: float(fake.features.mean()),
    )  # fmt: skip
    monkeypatch.setitem(METRICS, "brightness", brightness)
    scored, _, (row,) = evaluate_of(("unguided",))
    assert scored == [(Guidance(), 5)] and 0 < row["brightness"] < 1
    ((_, scores),) = table.read(tmp_path).items()
    assert scores["brightness"] == row["brightness"]
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Brightness ↑" in page and "How bright it is." in page
    assert evaluate_of(("unguided",))[0] == []


def test_the_report_says_at_which_rates_training_ran(evaluate_of, tmp_path):
    evaluate_of(("unguided",))
    assert "rate in training 0.5, then 0" in (tmp_path / "report.html").read_text("utf-8")


def test_a_setting_whose_samples_are_not_finite_has_no_scores(evaluate_of, tmp_path, capsys):
    assert len(evaluate_of(("wild", "sg"))[0]) == 2
    printed = capsys.readouterr().out
    assert "Not counted: 6 of 6 samples contain NaN" in printed
    found = {line.split()[0]: line.split() for line in printed.splitlines() if line}
    assert found["wild"][1] == "–" != found["sg"][1]
    json.loads((tmp_path / "report.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert evaluate_of(("wild", "sg"))[0] == []  # nor is it drawn again


def test_settings_none_of_which_is_finite_are_an_error(evaluate_of, tmp_path):
    with pytest.raises(UserError, match="all settings contain NaN or infinity"):
        evaluate_of(("wild",))
    assert not (tmp_path / "guidance.png").exists()


def test_several_seeds_give_means_and_deviations(evaluate_of, tmp_path):
    scored, _, (row,) = evaluate_of(("sg",), seeds=(0, 1, 2))
    assert [seed for _, seed in scored] == [0, 1, 2]
    values = [scores["frechet"] for scores in table.read(tmp_path).values()]
    assert len(set(values)) == 3
    assert row["frechet"] == pytest.approx(np.mean(values)) and row["seeds"] == 3
    assert row["deviations"]["frechet"] == pytest.approx(np.std(values, ddof=1))
    assert "gflops_per_step" not in row["deviations"]


def test_a_kept_checkpoint_is_scored_beside_the_last(evaluate_of, tmp_path):
    assert evaluate_of(("unguided",))[1] == [7]
    assert evaluate_of(("unguided",), step=3)[1] == [3]
    rows = table.read(tmp_path)
    assert {key.checkpoint for key in rows} == {3, 7}
    assert len({scores["frechet"] for scores in rows.values()}) == 2


def test_a_missing_checkpoint_is_named_before_anything_is_drawn(evaluate_of):
    with pytest.raises(UserError, match=r"config\.evaluate\.step=5 .*\[3, 7\]"):
        evaluate_of(("unguided",), step=5)
    with pytest.raises(UserError, match=r"needs step 4 .* has \[3\] beside its own.*keep_period"):
        evaluate_of(("unguided", "missing"))


def test_classes_may_be_drawn_uniformly(evaluate_of, tmp_path, monkeypatch):
    """Every seed draws its own, the same ones under every setting. The picture names them."""
    headings, grid = [], pictures.grid

    def shown(images, row_labels, column_labels):
        headings.append(column_labels)
        return grid(images, row_labels, column_labels)

    monkeypatch.setattr(pictures, "grid", shown)
    evaluate_of(("unguided",))
    scored, _, _ = evaluate_of(("unguided", "sg"), labels="uniform", seeds=(5, 6))
    assert len(scored) == 4
    first = np.random.default_rng([5, SAMPLES]).integers(0, 5, SAMPLES)[:COLUMNS]
    assert headings == [["a", "b", "c"], ["abcde"[label] for label in first]]
    assert headings[1] != headings[0]
    assert {key.labels for key in table.read(tmp_path)} == {"balanced", "uniform"}
    key = next(key for key in table.read(tmp_path) if key.labels == "uniform")
    conditioning = types.SimpleNamespace(num_classes=5)
    experiment = types.SimpleNamespace(model=types.SimpleNamespace(conditioning=conditioning))
    keys = [dataclasses.replace(key, samples=5000, seed=seed) for seed in (5, 6)]
    drawn = [scored_lib.wanted_by(experiment, each) for each in keys]
    counts = np.bincount(drawn[0])
    assert counts.sum() == 5000 and 900 < counts.min() < counts.max() < 1100
    assert (drawn[0] != drawn[1]).any()
    again = dataclasses.replace(key, samples=5000, seed=5, guidance=SETTINGS["sg"])
    np.testing.assert_array_equal(drawn[0], scored_lib.wanted_by(experiment, again))


@pytest.mark.parametrize("keep", ["png", "npz"])
def test_all_images_are_kept_for_evaluators_of_others(evaluate_of, tmp_path, keep):
    evaluate_of(("sg",), keep=keep)
    (folder,) = [path for path in (tmp_path / "samples").glob("evaluate_*") if path.is_dir()]
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"{i:06d}.png" for i in range(SAMPLES)]
    npz = folder.with_suffix(".npz")
    assert npz.exists() == (keep == "npz")
    if keep == "npz":
        found = np.load(npz)["arr_0"]
        assert found.dtype == np.uint8 and found.shape == (SAMPLES, 8, 8, 3)
        (first,) = (tmp_path / "samples" / "scored").glob("*.npy")
        np.testing.assert_array_equal(found[:COLUMNS], np.load(first))
    assert evaluate_of(("sg",), keep=keep)[0] == []


@pytest.mark.parametrize("keep", ["png", "npz"])
def test_images_that_were_scored_before_are_drawn_to_be_kept(
    evaluate_of, tmp_path, keep, monkeypatch
):
    evaluate_of(("unguided",))
    monkeypatch.setattr(tally, "PAUSE", 0.0)
    observe, calls = judge_lib.Judge.observe, []

    def stops(judge, images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return observe(judge, images)

    with monkeypatch.context() as stopping, pytest.raises(KeyboardInterrupt):
        stopping.setattr(judge_lib.Judge, "observe", stops)
        evaluate_of(("sg",))
    assert list((tmp_path / "samples" / "scored").glob("*.part"))
    evaluate_of(("unguided", "sg"), keep=keep)
    folders = [path for path in (tmp_path / "samples").glob("evaluate_*") if path.is_dir()]
    assert [len(list(folder.iterdir())) for folder in folders] == [SAMPLES, SAMPLES]


def test_the_best_checkpoint_is_scored(evaluate_of, tmp_path):
    with pytest.raises(UserError, match="no best checkpoint was kept"):
        evaluate_of(("unguided",), step=-1)
    (tmp_path / "best.json").write_text('{"step": 3, "metric": "frechet", "value": 0.5}')
    assert evaluate_of(("unguided",), step=-1)[1] == [3]


def test_each_figure_says_what_it_rests_on(evaluate_of, tmp_path, capsys):
    evaluate_of(("sg",))
    said = capsys.readouterr().out
    facts = (
        "Samples: 20, each class equally often",
        "Sampling: euler, 2 steps",
        "EMA 0",
        "seed 5",
        "Reference: 40 images of d (",
        "Judged by: classifier 0badcafe",
        "Versions: sg_jax ",
    )
    page = (tmp_path / "report.html").read_text("utf-8")
    for fact in facts:
        assert fact in said
        assert fact.rpartition(": ")[2] in page
    (row,) = csv.DictReader((tmp_path / "scores.csv").open())
    assert row["labels"] == "balanced" and row["networks"] == "classifier 0badcafe"
    assert row["ema"] == "0.0" and row["versions"].startswith("sg_jax ") and len(row["real"]) == 8


def test_figures_of_a_paper_stand_beside(evaluate_of, tmp_path, capsys):
    evaluate_of(("sg", "ag"), published="table3")
    assert "arXiv 2601.01608" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "2601.01608" in page and "difference" in page and "228.84" in page
