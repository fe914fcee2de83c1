"""A run that is killed or stopped, at whatever moment, ends as if nothing had happened."""

import dataclasses
import pathlib
import random
import re
import shutil
import signal
import time
from collections.abc import Callable

import pytest
from harness import TRAIN_ONLY, Command
from remains import differences, losses, results, saved, tree

Seen = Callable[[Command, pathlib.Path], bool]


@dataclasses.dataclass(frozen=True)
class Moment:
    """Some time, up to `longest` seconds, after something was seen of a command."""

    name: str
    seen: Seen
    longest: float
    start: bool = False  # while it imports, or compiles with nothing kept of before

    def wait(self, command: Command, workdir: pathlib.Path, rng: random.Random) -> str:
        """Return what to call this moment; the command must still run."""
        after = rng.uniform(0, self.longest)
        name = f"{self.name} + {after:.3f} s"
        assert command.until(lambda: self.seen(command, workdir)), f"{name}: {command.text()}"
        time.sleep(after)
        return name


def says(words: str, longest: float) -> Moment:
    return Moment(words, lambda command, _: words in command.text(), longest)


def exists(pattern: str, longest: float) -> Moment:
    return Moment(pattern, lambda _, workdir: any(workdir.glob(pattern)), longest)


def anyone(command: Command, workdir: pathlib.Path) -> bool:
    return True


IMPORTS = Moment("start", anyone, 3.0, start=True)
COMPILE = dataclasses.replace(says("Step 1: training", 1.5), start=True)
SAVES = [exists(f"checkpoints/{step}*tmp*", 0.2) for step in (4, 8, 12)]
SAVED = [exists(f"checkpoints/{step}", 0.1) for step in (4, 8, 12)]
STEPS = [says(f"step {step:>2}/12", 0.05) for step in (2, 5, 7, 10, 11)]
PICTURE = says("step  6/12", 0.6)
LAST = says("step 12/12", 0.4)
DRAW = says("Draw 20 images", 0.5)
SAMPLES = says("image 20/20", 0.05)
CLASSIFIER = says("feature network: training", 0.8)
CLASSIFIED = says("epoch 2/2", 0.15)
MEASURE = says("real images: measuring", 0.1)
SCORED = says("drawing 1/2", 0.1)
REPORT = Moment(
    "last drawing", lambda command, _: bool(re.search(r"drawing (\d)/\1 ", command.text())), 0.6
)
# Three kills of each run, in the order of its phases.
KILLS = [
    (IMPORTS, SAVES[0], SCORED),
    (COMPILE, SAVES[1], DRAW),
    (STEPS[0], SAVES[2], CLASSIFIER),
    (SAVED[0], PICTURE, REPORT),
    (STEPS[1], SAVED[1], SAMPLES),
    (SAVES[0], STEPS[2], CLASSIFIED),
    (COMPILE, SAVED[2], MEASURE),
    (SAVES[0], SAVES[1], SAVES[2]),
    (STEPS[3], LAST, REPORT),
    (IMPORTS, COMPILE, DRAW),
    (SAVES[1], SAVES[2], SCORED),
    (STEPS[1], STEPS[4], SAMPLES),
    (PICTURE, LAST, CLASSIFIER),
    (SAVED[0], SAVED[2], REPORT),
]
KILLS_OF_TWO = [
    (SAVES[0], DRAW),
    (STEPS[1], LAST),
    (COMPILE, SAVES[1]),
    (SAVES[2], SCORED),
]
# Which runs read with two processes.
READERS = {1, 5, 10}


def nothing_left(command: Command) -> None:
    """Whatever a killed command had started ends within seconds."""
    end = time.monotonic() + 20
    while command.left():
        assert time.monotonic() < end, f"{command.left()} of {command.pid} still run"
        time.sleep(0.1)


def interrupted(lab, workdir, moments, rng, *arguments, number=1, alone=False) -> list[str]:
    """Kill the run of `workdir` at these moments; return them. `alone`: one process only."""
    killed = []
    for moment in moments:
        cold = {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "cold")} if moment.start else {}
        options = {"fork": not moment.start, "environment": cold} if number == 1 else {}
        group = lab.start_group(workdir, *arguments, number=number, **options)
        killed.append(moment.wait(group[0], workdir, rng))
        victims = group if not alone else [rng.choice(group)]
        ended = [command for command in victims if command.poll() is not None]
        assert not ended, f"ended before {killed[-1]}: {ended[0].text()}"
        for command in victims:
            command.send(signal.SIGKILL)
        for command in group:
            status = command.wait(120)
            assert status == -signal.SIGKILL or (command not in victims and status)
            nothing_left(command)
    return killed


def same_as(whole, workdir, moments) -> None:
    """No bit, no file and no line of the log differs."""
    assert not differences(results(workdir), results(whole)), moments
    assert tree(workdir) == tree(whole), moments
    assert len(losses(workdir)) == 12


def same_end_as(whole, workdir) -> None:
    """The same, except for the checkpoint before the last: a stopped run saves where it stops."""

    def ends(names):
        return {n for n in names if not re.match(r"checkpoints/(?!12\b)\d+", n)}

    found, want = results(workdir), results(whole)
    assert not differences({n: found[n] for n in ends(found)}, {n: want[n] for n in ends(want)})
    assert ends(tree(workdir)) == ends(tree(whole))
    assert len(losses(workdir)) == 12 and len(saved(workdir)) == 2


@pytest.fixture
def workdir(tmp_path):
    """A run's folder beside one for temporary files, which must be empty in the end."""
    yield tmp_path / "run"
    assert not list((tmp_path / "temporary").iterdir())


@pytest.fixture(scope="session")
def whole_of_two(lab, once):
    """The tiny run of two processes, uninterrupted."""

    def fill(folder):
        group = lab.start_group(folder, number=2)
        statuses = [command.wait() for command in group]
        assert not any(statuses), group[0].text()

    return once("whole_of_two", fill)


@pytest.mark.slow
def test_a_run_that_is_killed_three_times_ends_the_same(lab, whole, workdir):
    rng = random.Random(0)
    killed = interrupted(lab, workdir, (SAVES[1], LAST, SCORED), rng)
    lab.run(workdir)
    same_as(whole, workdir, killed)


@pytest.mark.slow
@pytest.mark.parametrize("i", range(len(KILLS)))
def test_42_kills(lab, whole, workdir, i):
    readers = ("--config.data.workers=2",) if i in READERS else ()
    killed = interrupted(lab, workdir, KILLS[i], random.Random(i), *readers)
    lab.run(workdir, *readers)
    same_as(whole, workdir, killed)


LOOKS = (
    *TRAIN_ONLY, "--config.train.heldout_every=3", "--config.train.evaluate_every=3",
    "--config.train.evaluate_samples=20", "--config.checkpoint.keep=1",
)  # fmt: skip
LOOKED = [says(f"Step {step}: {what}", 0.1) for step in (3, 6, 9, 12) for what in ("h", "f")]
BEST = [exists("best.json", 0.1)] + [
    says(f"Step {step} is the best", 0.2) for step in (3, 6, 9, 12)
]
KILLS_OF_BEST = [
    (BEST[1], BEST[2], BEST[3], BEST[4]),
    (BEST[0], SAVES[1], BEST[2], LOOKED[6]),
    (CLASSIFIER, LOOKED[0], SAVED[2], BEST[4]),
]


@pytest.fixture(scope="session")
def whole_of_best(lab, once):
    """A run that keeps its best checkpoint by each metric, uninterrupted."""

    def fill(folder):
        for metric in ("heldout_loss", "recall"):
            lab.run(folder / metric, *LOOKS, f"--config.checkpoint.keep_best={metric}")

    return once("whole_of_best", fill)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["heldout_loss", "recall"])
@pytest.mark.parametrize("i", range(len(KILLS_OF_BEST)))
def test_kills_lose_no_best_checkpoint(lab, whole_of_best, workdir, i, metric):
    rng, keep = random.Random(200 + i), f"--config.checkpoint.keep_best={metric}"
    killed = []
    for moment in KILLS_OF_BEST[i]:
        command = lab.start(workdir, *LOOKS, keep)
        killed.append(moment.name)
        command.until(lambda seen=moment.seen, c=command: seen(c, workdir))  # or it has ended
        time.sleep(rng.uniform(0, moment.longest))
        command.send(signal.SIGKILL)
        command.wait(120)
    lab.run(workdir, *LOOKS, keep)
    whole = whole_of_best / metric
    same_as(whole, workdir, killed)
    assert (workdir / "best.json").read_bytes() == (whole / "best.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("i", range(len(KILLS_OF_TWO)))
def test_8_kills_of_two_processes(lab, whole_of_two, workdir, i):
    rng = random.Random(100 + i)
    killed = interrupted(lab, workdir, KILLS_OF_TWO[i], rng, number=2, alone=i % 2 == 1)
    group = lab.start_group(workdir, number=2)
    assert [command.wait() for command in group] == [0, 0], group[0].text()
    same_as(whole_of_two, workdir, killed)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [0, 1])
def test_a_signal_to_one_of_two_processes_saves_the_same_step(lab, workdir, chosen):
    endless = ("--config.train.steps=1000000", "--config.checkpoint.every=1000000")
    group = lab.start_group(workdir, *TRAIN_ONLY, *endless, number=2)
    assert group[0].says("step       8/")
    begun = time.monotonic()
    group[chosen].send(signal.SIGTERM)
    statuses = [command.wait(60) for command in group]
    took = time.monotonic() - begun
    print(f"SIGTERM to process {chosen}: both ended after {took:.1f} s")
    (step,) = saved(workdir)  # had they saved different steps, neither would be complete
    assert took < 30 and statuses[0] == statuses[1] and statuses[0] not in (0, 2)
    assert f"at step {step} of 1000000; saved." in group[0].text()
    assert len(losses(workdir)) == step
    for command in group:
        assert "Traceback" not in command.text()
        nothing_left(command)


# Ctrl-C and SIGTERM.

JAX_LOADED = Moment(
    "import of jaxlib",
    lambda command, _: "jaxlib" in pathlib.Path(f"/proc/{command.pid}/maps").read_text(),
    1.0,
    start=True,
)
STOPS = (
    JAX_LOADED, COMPILE, STEPS[0], SAVES[1], says("step 12/12", 0.0), DRAW, SAMPLES, CLASSIFIER,
    CLASSIFIED, SCORED, REPORT,
)  # fmt: skip


def stop(lab, workdir, moment, number, rng) -> list[str]:
    """Send a signal at a moment; return what was wrong with the end of the command."""
    cold = {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "cold")} if moment.start else {}
    command = lab.start(workdir, fork=not moment.start, environment=cold)
    name = moment.wait(command, workdir, rng)
    if command.poll() is not None:
        return []  # it had ended in these few milliseconds
    command.send(number)
    status, text = command.wait(60), command.text()
    sentences = [line for line in text.splitlines() if "Stopped by " in line]
    if status == -number and not sentences and "report.html" in text.splitlines()[-1]:
        return []  # all was done, and Python was ending
    wrong = []
    if status in (0, 2):
        wrong.append(f"status {status}")
    if len(sentences) != 1 or not sentences[0].startswith("Stopped by "):
        wrong.append(f"sentences {sentences}")
    if "Traceback" in text:
        wrong.append("a traceback")
    nothing_left(command)
    return [f"{signal.Signals(number).name} at {name}: {', '.join(wrong)}\n{text}"] if wrong else []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_any_phase_is_one_sentence(lab, whole, workdir, number):
    rng, wrong = random.Random(number), []
    for moment in STOPS:
        if moment in (SCORED, REPORT):  # an earlier stop may have come after the last drawing
            (workdir / "scores.csv").unlink(missing_ok=True)
        wrong += stop(lab, workdir, moment, number, rng)
    assert not wrong, "\n\n".join(wrong)
    lab.run(workdir)
    same_end_as(whole, workdir)


@pytest.mark.slow
def test_a_signal_at_the_last_step_and_in_the_evaluation_stops(lab, whole, tmp_path):
    workdir = lab.copy(whole, tmp_path / "run")
    for name in ("checkpoints/12", "samples/scored"):
        shutil.rmtree(workdir / name)
    for name in ("scores.csv", "report.html", "report.json", "guidance.png"):
        (workdir / name).unlink()
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join(lines[:8]))
    rng = random.Random(0)
    wrong = [
        text
        for moment, number in ((says("step 12/12", 0), signal.SIGTERM), (SCORED, signal.SIGINT))
        for text in stop(lab, workdir, moment, number, rng)
    ]
    assert not wrong, "\n\n".join(wrong)
    lab.run(workdir)
    same_end_as(whole, workdir)
