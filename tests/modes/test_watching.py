"""What is looked at while a run trains: it changes no bit, and decides which is the best."""

import dataclasses
import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg_jax.config import experiment, geometry, parsing, record, tree, trust
from sg_jax.data import latents
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError
from sg_jax.evaluation import pictures, scoring
from sg_jax.modes import train, watching
from sg_jax.modes.base import Job
from sg_jax.programs.sampling import NotFinite
from sg_jax.runs import files
from sg_jax.runs.progress import Spent
from sg_jax.runs.records import read_metrics
from sg_jax.weights import best, checkpoints

GIVEN = dict(
    model=dict(depth=1, width=8, heads=2, patch=4, routes=((0, 0),)),
    train=dict(steps=8, batch_size=8, log_every=1),
    sample=dict(steps=1, batch_size=10),
    checkpoint=dict(every=100, keep=1),
)


class Judge:
    """Score by the images themselves, and count what is drawn."""

    measures = ("frechet", "images_per_second")

    def __init__(self):
        self.drawn = []

    def tallies(self, count):
        self.images, self.labels = [], []
        return self

    def observe(self, images):
        return images

    def add(self, seen, labels):
        self.images.append(seen)
        self.labels.append(labels)

    def results(self):
        return np.concatenate(self.images), np.concatenate(self.labels)

    def scores_of(self, found):
        self.drawn.append(found)
        return {"frechet": float(found[0].mean()), "precision": None}


@pytest.fixture(scope="module")
def source(digits_dir):
    return open_source("digits", "train", str(digits_dir))


def merged(changes):
    return {name: {**GIVEN.get(name, {}), **changes.get(name, {})} for name in {**GIVEN, **changes}}


def build(source, digits_dir, **changes):
    config = parsing.merge(merged(changes))
    if not config.data.data_dir:
        config.data.data_dir = str(digits_dir)
    completed = geometry.complete(
        config, source.image_shape, source.num_classes, latents=source.latents
    )
    return experiment.build(completed, jax.devices()[:1]), completed


@pytest.fixture
def run(tmp_path, monkeypatch, source, digits_dir):
    """Train in a folder of this name, with these changes to the config; returns its state."""
    judge = Judge()
    monkeypatch.setattr(scoring, "open_judge", lambda *_: judge)

    def call(name, **changes):
        built, completed = build(source, digits_dir, **changes)
        folder = str(tmp_path / name)
        begun = record.is_run(folder)
        record.prepare(folder, completed, source.class_names, begun)
        return train.train(built, source, folder)

    call.folder, call.judge = tmp_path, judge
    return call


@pytest.fixture(scope="module")
def once():
    """Compile the training step and the held-out loss once for all runs."""
    patch = pytest.MonkeyPatch()
    patch.setattr(
        experiment.Experiment, "compile_train_step", _kept(experiment.Experiment.compile_train_step)
    )
    patch.setattr(watching.heldout, "compile_sum", _kept(watching.heldout.compile_sum))
    yield
    patch.undo()


def _kept(make):
    """Return what `make` returned first, whatever it is asked for then."""
    found = []

    def once(*given):
        if not found:
            found.append(make(*given))
        return found[0]

    return once


LOOKS = dict(
    train=dict(heldout_every=2, heldout_images=12, evaluate_every=3, evaluate_samples=10),
    checkpoint=dict(keep_best="heldout_loss"),
)


@pytest.fixture
def looked(run, once):
    """What a run without it and one with it have recorded, after they were compared."""
    states = [run("plain"), run("looked", **LOOKS)]
    return _compared(run, "looked", *states)


def _compared(run, name, plain, looked):
    for x, y in zip(jax.tree.leaves(plain), jax.tree.leaves(looked), strict=True):
        np.testing.assert_array_equal(x, y)
    without, found = (read_metrics(str(run.folder / each)) for each in ("plain", name))
    assert [r["loss"] for r in found] == [r["loss"] for r in without]
    return found


@pytest.mark.slow
def test_a_run_trains_to_the_same_bits_with_it(run, looked, capsys):
    held = {r["step"]: r["heldout_loss"] for r in looked if "heldout_loss" in r}
    assert list(held) == [2, 4, 6, 8] and len(set(held.values())) == 4
    assert [r["step"] for r in looked if "eval/frechet" in r] == [3, 6]
    assert not any("eval/images_per_second" in r or "eval/precision" in r for r in looked)
    least = min(held, key=held.get)
    assert best.read(run.folder / "looked") == best.Best(least, "heldout_loss", held[least])
    images, labels = run.judge.drawn[0]
    assert images.shape == (10, 8, 8, 1) and list(labels) == list(range(10))
    np.testing.assert_raises(AssertionError, np.testing.assert_array_equal, images, 0)


@pytest.mark.slow
def test_a_run_that_is_stopped_and_continued_measures_the_same(run, looked, capsys):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        _stop_at(patch, 5)
        run("stopped", **LOOKS)
    again = _compared(run, "stopped", run("plain"), run("stopped", **LOOKS))
    assert checkpoints.steps_of(run.folder / "stopped")[-1] == 8
    names = ("heldout_loss", "eval/frechet")
    for one, other in zip(looked, again, strict=True):
        assert [one.get(name) for name in names] == [other.get(name) for name in names]
    assert best.read(run.folder / "stopped") == best.read(run.folder / "looked")
    printed = capsys.readouterr().out
    assert "of 12 images at γ 0.5 by the moving average" in printed
    assert "10 images by the moving average, unguided" in printed
    assert ", held-out loss " in printed and ", evaluation " in printed  # of the time


def _stop_at(patch, step):
    """Ask the run to stop after a step."""
    calls = []

    class Stop:
        def __enter__(self):
            return lambda last=False: (calls.append(1), "SIGTERM" * (len(calls) >= step))[1]

        def __exit__(self, *_):
            pass

    patch.setattr(train.processes, "stop_signals", Stop)


def one_step(state, batch, key):
    """A training step that only counts."""
    numbered = dataclasses.replace(state, step=state.step + 1)
    return numbered, {"loss": jnp.float32(1), "grad_norm": jnp.float32(1)}


@pytest.fixture
def told(monkeypatch, run):
    """Train without computing; `numbers` are those that the steps find."""

    def call(name, numbers, keep_best="heldout_loss", **checkpoint):
        monkeypatch.setattr(experiment.Experiment, "compile_train_step", lambda *_: one_step)
        monkeypatch.setattr(watching.Watch, "open", lambda *_: None)
        monkeypatch.setattr(watching.Watch, "is_due", lambda _, step: step in numbers)
        monkeypatch.setattr(watching.Watch, "after", lambda _, step, *__: dict(numbers[step]))
        run(
            name,
            train=dict(heldout_every=1, evaluate_every=1),
            checkpoint=dict(keep_best=keep_best, **checkpoint),
        )
        folder = run.folder / name
        found = best.read(folder)
        return checkpoints.steps_of(folder), found and (found.step, found.value)

    return call


def test_the_best_checkpoint_is_kept_beside_the_latest(told):
    values = {1: np.nan, 2: 1.0, 4: 0.5, 5: 0.5, 6: 0.7, 7: -np.inf}
    numbers = {step: {"heldout_loss": value} for step, value in values.items()}
    assert told("low", numbers) == ([4, 8], (4, 0.5))


@pytest.mark.slow
def test_of_some_metrics_the_highest_is_the_best(told):
    numbers = {s: {"eval/precision": s % 5 / 5, "heldout_loss": -s} for s in (2, 3, 4, 6)}
    assert told("high", numbers, "precision") == ([4, 8], (4, 0.8))
    assert told("none", numbers, "") == ([8], None)


WRONG = [
    (dict(checkpoint=dict(keep_best="frechet")), r"keep_best='frechet' needs \S+evaluate_every, "),
    (dict(checkpoint=dict(keep_best="heldout_loss")), r"needs config\.train\.heldout_every, which"),
    (dict(train=dict(evaluate_guidance="sgg")), r"evaluate_guidance='sgg' .*Did you mean 'sg'"),
    (dict(train=dict(evaluate_every=5, evaluate_guidance="ag")), r"'ag' takes its weak predict"),
    (dict(train=dict(evaluate_every=-1)), r"evaluate_every=-1 must be at least 0"),
    (dict(train=dict(heldout_images=0)), r"heldout_images=0 must"),
    (dict(track=dict(name="wandbb")), r"track\.name='wandbb' must be one of .*mean 'wandb'"),
    (
        dict(train=dict(evaluate_every=5), checkpoint=dict(keep_best="freche")),
        r"keep_best='freche' must be one of heldout_loss, frechet, .*Did you mean 'frechet'\?",
    ),
    (
        dict(train=dict(evaluate_every=5), checkpoint=dict(keep_best="fid")),
        r"keep_best='fid' is not measured .* have heldout_loss, frechet, .*evaluate\.metrics",
    ),
    (
        dict(train=dict(evaluate_every=5), checkpoint=dict(keep_best="images_per_second")),
        r"keep_best='images_per_second' must be one of heldout_loss",
    ),
    (
        dict(train=dict(heldout_every=5), data=dict(test_split="tes")),
        r"config\.data\.test_split='tes' is not a split .*heldout_every=5 reads that split",
    ),
]


@pytest.mark.parametrize("changes, text", WRONG)
def test_what_cannot_be_looked_at_is_told_before_any_work(source, digits_dir, changes, text):
    with pytest.raises(UserError, match=text):
        watching.check(build(source, digits_dir, **changes)[0], source)


@pytest.fixture
def watch(run, source, digits_dir, monkeypatch):
    """Look at a run, at its step 5; the state is the test's own."""
    keep = dict(train=dict(evaluate_every=5, sample_every=5), checkpoint=dict(keep_best="frechet"))
    watch = watching.Watch(build(source, digits_dir, **keep)[0], source, str(run.folder))
    watch.open(Spent())
    monkeypatch.setattr(watching.jax, "block_until_ready", lambda _: None)
    monkeypatch.setattr(watching.grids, "sample", _not_finite)
    watch.now = lambda: watch.after(5, types.SimpleNamespace(ema=None), None, Spent())
    return watch


def _not_finite(*_, **__):
    raise NotFinite("2 of 9 samples contain NaN")


def test_a_score_that_fails_ends_no_training(run, watch, monkeypatch, capsys):
    def fails(*_):
        raise UserError("too few images")

    monkeypatch.setattr(run.judge, "scores_of", fails)
    drawn = [np.zeros((500, 8, 8, 1), np.uint8)]
    monkeypatch.setattr(watching, "sample_batches", lambda *_, **__: iter(drawn))
    found = watch.now()
    assert np.isnan(found["eval/frechet"]) and watch.best_of(5, found, None) is None
    assert "Step 5: this evaluation failed and is left out. too few" in capsys.readouterr().out


def test_samples_that_are_not_finite_end_no_training(run, watch, monkeypatch, capsys):
    def draw(*_, **__):
        yield np.zeros((100, 8, 8, 1), np.uint8)
        _not_finite()

    monkeypatch.setattr(watching, "sample_batches", draw)
    found = watch.now()
    assert np.isnan(found["eval/frechet"]) and not run.judge.drawn
    said = capsys.readouterr().out
    for what in ("evaluation", "grid of images"):
        assert f"Step 5: this {what} failed and is left out. 2 of 9 samples contain NaN" in said
    assert not (run.folder / "samples").exists()


def test_held_out_losses_of_all_steps_are_at_one_rate(source, digits_dir, monkeypatch, tmp_path):
    looks = dict(heldout_every=1, heldout_images=8, gammas=((2, 0.25), (4, 0.0)))
    keep = dict(keep_best="heldout_loss")
    built, _ = build(source, digits_dir, train=looks, checkpoint=keep)
    monkeypatch.setattr(watching.heldout, "compile_sum", lambda objective, *_: objective.gamma)
    monkeypatch.setattr(watching.heldout, "mean", lambda gamma, *_: 1.0 + gamma)
    monkeypatch.setattr(watching.jax, "block_until_ready", lambda _: None)
    watch = watching.Watch(built, source, str(tmp_path))
    watch.open(Spent())
    state = types.SimpleNamespace(ema=None)
    for step in (1, 3, 8):
        found = watch.after(step, state, None, Spent())
        assert found == {"heldout_loss": 1.0}
    now = watch.best_of(8, found, best.Best(2, "heldout_loss", 0.5))  # an older run's
    assert now.value == 1.0 and now.metric.startswith("heldout_loss_gamma_0_")
    assert watch.best_of(8, found, best.Best(2, "heldout_loss_gamma_0", 0.5)) is None


@pytest.mark.parametrize(
    "metric, changed",
    [
        ("frechet", dict(train=dict(evaluate_samples=20))),
        ("frechet", dict(train=dict(evaluate_guidance="cfg"))),
        ("frechet", dict(sample=dict(steps=2))),
        ("frechet", dict(evaluate=dict(references=20))),
        ("frechet", dict(features=dict(epochs=1))),
        ("heldout_loss", dict(train=dict(heldout_images=9))),
        ("heldout_loss", dict(data=dict(test_split="test[:50%]"))),
    ],
)
def test_what_cannot_be_compared_does_not_decide_which_checkpoint_is_best(
    source, digits_dir, tmp_path, metric, changed
):
    """More images have a smaller distance, say, and so has other guidance, by the same weights."""
    looks = dict(evaluate_every=1, evaluate_samples=10, heldout_every=1, heldout_images=8)
    base = dict(train=looks, checkpoint=dict(keep_best=metric))

    def best_of(changes, value, before):
        sections = {name: {**base.get(name, {}), **changes.get(name, {})} for name in base}
        built, _ = build(source, digits_dir, **{**changes, **sections})
        watch = watching.Watch(built, source, str(tmp_path))
        return watch.best_of(3, {"eval/frechet": value, "heldout_loss": value}, before)

    before = best_of({}, 0.5, None)
    plain = {"frechet": "frechet_10_unguided", "heldout_loss": "heldout_loss"}[metric]
    assert before.value == 0.5 and before.metric.rpartition("_")[0] == plain
    assert best_of({}, 0.6, before) is None
    assert best_of(dict(sample=dict(batch_size=20)), 0.6, before) is None
    assert best_of(changed, 0.6, before).value == 0.6
    older = dataclasses.replace(before, metric=plain)  # an older run's, which said no more
    assert best_of({}, 0.6, older) is None and best_of({}, 0.4, older).value == 0.4


def test_the_held_out_latents_are_a_split_of_the_latents(tmp_path):
    rng = np.random.default_rng(0)
    written = [(np.abs(rng.standard_normal((2, 8, 8, 4))), i % 5) for i in range(20)]
    latents.write(iter(written), str(tmp_path), "codes", 5)
    data = dict(name="codes", split="train[:16]", test_split="train[16:]")
    source = open_source("codes", "train[:16]", str(tmp_path))
    looks = dict(heldout_every=2, heldout_images=9)
    built, _ = build(source, tmp_path, data=data, train=looks)
    watching.check(built, source)
    watch = watching.Watch(built, source, str(tmp_path / "run"))
    watch.open(Spent())
    found = watch._images
    assert found.count == 4 and list(found.batches[0]["condition"][:4]) == [1, 2, 3, 4]
    built, _ = build(source, tmp_path, data={**data, "test_split": "test"}, train=looks)
    with pytest.raises(UserError, match=r"test_split='test' is not a split .*There are: train "):
        watching.check(built, source)


def test_training_asks_whether_it_may_send(tmp_path):
    for name, asks in (("wandb", True), ("", False)):
        config = tree.check(parsing.merge(dict(track=dict(name=name))))
        assert (trust.TRACK in train._paths(config, str(tmp_path))) == asks


@pytest.mark.slow
def test_a_run_and_its_continuation_are_one_run_of_the_tracker(
    monkeypatch, tmp_path, source, digits_dir
):
    class Wandb(types.ModuleType):
        Settings, began, logged, ended = dict, [], [], []

        def init(self, **given):
            self.began.append(given)
            return self

        def log(self, values, step):
            self.logged.append((step, values))

        def finish(self, exit_code):
            self.ended.append(exit_code)

    monkeypatch.setitem(sys.modules, "wandb", module := Wandb("wandb"))
    monkeypatch.setattr(experiment.Experiment, "compile_train_step", lambda *_: one_step)
    for steps in (2, 4):
        _, completed = build(
            source,
            digits_dir,
            train=dict(steps=steps),
            track=dict(name="wandb", project="p"),
        )
        train.run(Job(str(tmp_path / "run"), "", {}, completed, source))
    assert [step for step, _ in module.logged] == [1, 2, 3, 4]
    assert all(values["loss"] == 1.0 for _, values in module.logged)
    (first, second), ends = module.began, module.ended
    assert first["id"] == second["id"] and ends == [0, 0]
    assert second["config"]["train"]["steps"] == 4 and second["name"] == "run"


def test_what_follows_training_is_sent_too(tmp_path):
    class Tracker:
        active, sent = True, []

        def scalars(self, step, values):
            self.sent.append((step, values))

        def image(self, step, name, image):
            self.sent.append((step, name, image.shape))

    row = dict(name="sg", frechet=0.5, precision=None, samples=10, images_per_second=3.0)
    (tmp_path / "report.json").write_text(json.dumps([row]))
    picture = pictures.grid(np.zeros((1, 1, 8, 8, 1), np.uint8))
    pictures.save_png(picture, tmp_path / "guidance.png")
    paths = [files.path(tmp_path / name) for name in ("guidance.png", "report.html")]
    watching.send(Tracker(), 9, str(tmp_path), paths)
    (first, second) = Tracker.sent
    assert first[:2] == (9, "guidance") and first[2][2] == 3
    assert second == (9, {"evaluate/sg/frechet": 0.5})
