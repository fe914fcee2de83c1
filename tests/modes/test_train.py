"""The training loop, with steps of the test's own; what its runs do is tested in test_main too."""

import contextlib
import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import pytest

from sg_jax.config import experiment, geometry, parsing, record
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError
from sg_jax.modes import train
from sg_jax.weights import checkpoints
from sg_jax.weights.saver import Saver


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return open_source("digits", "train", str(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def made(source):
    """The first state of all runs here, made once: their steps donate nothing."""
    given = dict(
        model=dict(depth=1, width=8, heads=2, patch=4),
        objective=dict(gamma=0.0),
        train=dict(steps=12, batch_size=8, log_every=100),
    )
    built = experiment.build(complete(given, source))
    return given, train.init_state(built.make_model, built.tx, built.mesh, jax.random.key(0))


def complete(given, source):
    return geometry.complete(parsing.merge(given), source.image_shape, source.num_classes)


@pytest.fixture
def run(tmp_path, monkeypatch, source, made):
    """Train for 12 steps by a step of the test's own, with these changes to the config."""
    given, state = made
    monkeypatch.setattr(train, "init_state", lambda *_: state)

    def call(step, **changes):
        sections = {**given, **changes, "train": {**given["train"], **changes.get("train", {})}}
        completed = complete(sections, source)
        folder = str(tmp_path / "run")
        record.prepare(folder, completed, source.class_names, begun=False)
        monkeypatch.setattr(experiment.Experiment, "compile_train_step", lambda *_: step)
        return train.train(experiment.build(completed), source, folder)

    return call


def steps_by(change):
    """Return a training step: (number, batch, state) -> what to change in state and metrics."""

    def step(state, batch, key):
        number = int(state.step) + 1
        fields, metrics = change(number, batch, state)
        metrics = {"loss": 1.0, "grad_norm": 1.0, **metrics}
        metrics = {name: jnp.float32(value) for name, value in metrics.items()}
        return dataclasses.replace(state, step=state.step + 1, **fields), metrics

    return step


def spoiled(tree):
    return jax.tree.map(lambda x: x * jnp.nan, tree)


@pytest.mark.slow
def test_few_steps_wait_on_the_device(run):
    """Or else a stop signal saves only after all the steps up to the next record."""
    waiting, losses = [], []

    @jax.jit
    def slow(x):  # tens of milliseconds
        return jax.lax.fori_loop(0, 60, lambda _, y: y @ x, x)[0, 0]

    def step(state, batch, key):
        waiting.append(sum(not loss.is_ready() for loss in losses))
        losses.append(slow(jnp.eye(256)))
        return dataclasses.replace(state, step=state.step + 1), {"loss": losses[-1]}

    assert run(step).step == 12
    assert 1 <= max(waiting) <= train.AHEAD


NAN, INF = float("nan"), float("inf")
DIVERGED = [
    (5, lambda _: ({}, {"loss": NAN}), [3], r"The loss is nan at step 5.*step 3 is from before"),
    (5, lambda _: ({}, {"loss": 1e30}), [3], r"The loss is 1e\+30 at step 5"),
    (5, lambda _: ({}, {"grad_norm": INF}), [3], r"norm of the gradient is inf at step 5"),
    (6, lambda state: ({"model": spoiled(state.model)}, {}), [3], r"After step 6 the weights"),
    (12, lambda state: ({"ema": spoiled(state.ema)}, {}), [6, 9], r"After step 12 the moving aver"),
    # The latest checkpoint gave this loss, so it is not "older" than the fault.
    (7, lambda _: ({}, {"loss": NAN}), [3, 6], r"step 6 may have the same fault.*that of step 3"),
]


@pytest.mark.every(6)
@pytest.mark.parametrize("first, change, saved, text", DIVERGED)
def test_what_has_diverged_replaces_no_checkpoint(run, tmp_path, first, change, saved, text):
    step = steps_by(lambda number, _, state: change(state) if number >= first else ({}, {}))
    with pytest.raises(UserError, match=text + r".*train\.init_from"):
        run(step, checkpoint=dict(every=3), train=dict(log_every=4))
    assert checkpoints.saved_steps(tmp_path / "run") == saved
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert not any(word in lines for word in ("NaN", "Infinity", "null"))
    assert max(json.loads(line)["step"] for line in lines.splitlines()) <= max(first, 6)


def test_nothing_is_drawn_from_what_has_diverged(run, monkeypatch, capsys):
    drawn, bad = [], [5]

    def draw(_, state, *given):
        drawn.append((given[-1], all(jnp.isfinite(x).all() for x in jax.tree.leaves(state.ema))))

    def change(number, _, state):
        return ({"ema": spoiled(state.ema)} if number in bad and bad.pop() else {}), {}

    monkeypatch.setattr(train.watching.grids, "draw", draw)
    looks = dict(train=dict(sample_every=5, on_divergence="rollback"))
    looks["sample"] = dict(guidance="unguided")
    run(steps_by(change), checkpoint=dict(every=3), **looks)
    assert drawn == [(5, True), (10, True)]
    said = capsys.readouterr().out
    assert "After step 5 the moving average" in said and "Back to step 3" in said


def test_a_batch_that_is_not_finite_is_the_datas(run, tmp_path):
    step = steps_by(lambda number, *_: ({}, {"loss": NAN, "squares": [NAN]} if number > 4 else {}))
    with pytest.raises(
        UserError, match=r"step 5 is not finite: config\.data\.name='digits'.*train"
    ):
        run(step, checkpoint=dict(every=3), train=dict(on_divergence="rollback"))
    assert checkpoints.saved_steps(tmp_path / "run") == [3]


@pytest.fixture
def batches(source, made):
    """A sum for each batch: of the first 16, of those read; a step that diverges at the fifth."""
    with contextlib.closing(experiment.build(complete(made[0], source)).batches(source)) as data:
        plain = [float(next(data)["image"].sum()) for _ in range(16)]
    read: list[float] = []

    def change(number, batch, _):
        read.append(float(batch["image"].astype(jnp.float32).sum()))
        return {}, {"loss": NAN if abs(read[-1] - plain[4]) < 1e-3 else 1.0}

    return plain, read, change


def same(read, expected):
    return len(read) == len(expected) and jnp.allclose(
        jnp.array(read), jnp.array(expected), atol=1e-3
    )


BACK = dict(checkpoint=dict(every=3), train=dict(on_divergence="rollback", log_every=2))


@pytest.mark.slow
def test_a_rollback_passes_over_the_batches_up_to_the_step(run, batches, tmp_path, capsys):
    plain, read, change = batches
    run(steps_by(change), **BACK)
    assert same(read, plain[:6] + plain[5:14])
    assert "loss is nan at step 5" in (text := capsys.readouterr().out)
    assert "Back to step 3, continuing with the data after step 5: rollback 1 of 3." in text
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [r["step"] for r in records] == [2, 4, 6, 8, 10, 12]
    assert [r.get("rollbacks", 0) for r in records] == [0, 1, 1, 1, 1, 1]


@pytest.mark.slow
def test_a_run_that_is_killed_after_a_rollback_reads_the_same_batches(run, batches):
    plain, read, change = batches

    def killed_at(number):
        def step(n, batch, state):
            if n == number and len(read) > 6:  # after the rollback
                raise KeyboardInterrupt
            return change(n, batch, state)

        with pytest.raises(KeyboardInterrupt):
            run(steps_by(step), **BACK)

    killed_at(5)  # before the run has saved
    assert same(read, plain[:6] + plain[5:6])
    killed_at(8)  # after
    assert same(read[7:], plain[5:9])
    run(steps_by(change), **BACK)
    assert same(read[11:], plain[8:14])


@pytest.mark.every(4)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["in the last step", "while it is saved", "before the end"])
def test_a_signal_at_the_end_is_not_lost(run, tmp_path, monkeypatch, number, when):
    sent = []

    def send(*_):
        if not sent:
            sent.append(signal.raise_signal(number))
        return {}, {}

    if when == "while it is saved":
        monkeypatch.setattr(Saver, "wait", lambda self, wait=Saver.wait: (send(), wait(self)))
    if when == "before the end":
        monkeypatch.setattr(train.Writer, "close", send)
    step = steps_by(lambda n, *_: send() if n == 2 and when == "in the last step" else ({}, {}))
    with pytest.raises(SystemExit) as raised:
        run(step, train=dict(steps=2))
    assert raised.value.code not in (0, None) and sent
    assert checkpoints.saved_steps(tmp_path / "run") == [2]


def test_a_signal_to_a_run_that_is_trained_is_not_lost(run, monkeypatch):
    step = steps_by(lambda *_: ({}, {}))
    run(step, train=dict(steps=1))
    monkeypatch.setattr(Saver, "__exit__", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as raised:
        run(step, train=dict(steps=1))
    assert raised.value.code == 143
