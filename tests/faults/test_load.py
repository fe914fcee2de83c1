"""Where the time goes: waiting for a slow source, and saving checkpoints."""

import re

import pytest
from harness import TRAIN_ONLY

STEPS = 60, 260
LONG = ("--config.checkpoint.every=1000000", "--config.train.log_every=20")
WAIT = 0.01  # seconds that an image takes to read; a batch has 8
# A transformer of 12 blocks and width 832: 100 million parameters.
LARGE = (
    "--config=configs/digits.py", "--config.model.depth=12", "--config.model.width=832",
    "--config.model.heads=13", "--config.model.patch=2", "--config.train.batch_size=32",
    "--config.train.log_every=1", "--config.checkpoint.every=4", "--config.train.steps=8",
    *TRAIN_ONLY,
)  # fmt: skip
FAST = {"XLA_FLAGS": ""}  # compiled as users do
INTERVAL = 1000  # config.checkpoint.every, unless a config sets it


def times(text: str) -> dict[str, float]:
    """Return the seconds of each part of a training, as it prints them at its end."""
    line = next(line for line in text.splitlines() if line.startswith("Time: "))
    total, parts = re.fullmatch(r"Time: (.+?): ([a-z].*)\.", line).groups()
    found = re.findall(r"([a-z][a-z ]*) ([\d:.]+(?: s)?) \(", parts)
    return {name: in_seconds(value) for name, value in [*found, ("total", total)]}


def in_seconds(text: str) -> float:
    """Return the seconds of a text such as "3.5 s" or "1:03"."""
    parts = text.removesuffix(" s").split(":")
    return sum(float(part) * 60**i for i, part in enumerate(reversed(parts)))


def steady(short: str, long: str) -> float:
    """Return the share of waiting in the steps that one training has more than another.

    So what the first batch takes, which may be the start of processes, does not count.
    """
    more = {key: value - times(short)[key] for key, value in times(long).items()}
    return more["waiting for data"] / (more["waiting for data"] + more["steps"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "workers, threads, low, high",
    [(0, 0, 0.7, 1), (0, 4, 0.4, 0.9), (0, 32, 0, 0.3), (2, 16, 0, 0.3)],
)
def test_how_long_training_waits_for_a_slow_source(lab, tmp_path, workers, threads, low, high):
    """Eight images of 10 ms: 80 ms for a step of some 5 ms, divided by how many read at once."""
    flags = (f"--config.data.workers={workers}", f"--config.data.threads={threads}")
    texts = [
        lab.run(
            tmp_path / f"{steps}", *TRAIN_ONLY, *LONG, *flags, f"--config.train.steps={steps}",
            f"--config.data.name=slow:{1e3 * WAIT:g}", "--config.data.split=train",
            module="slow_source",
        )
        for steps in STEPS
    ]  # fmt: skip
    share = steady(*texts)
    print(f"workers {workers}, threads {threads}: {100 * share:.0f}% waiting; {times(texts[1])}")
    assert low <= share <= high


@pytest.mark.slow
def test_checkpoints_of_the_digits_cost_little(lab, tmp_path):
    """The quick start as it is: 1,500 steps, a checkpoint every 250."""
    text = lab.run(
        tmp_path / "run", "--config=configs/digits.py", *TRAIN_ONLY, base=("--mode=train",)
    )
    found = times(text)
    share = found["checkpoints"] / found["total"]
    print(f"digits: {100 * share:.2f}% of {found['total']:.0f} s for 6 checkpoints; {found}")
    assert share < 0.02


@pytest.mark.slow
def test_checkpoints_of_100_million_parameters_cost_little(lab, tmp_path):
    """Two checkpoints in 8 steps, from which the share at the default interval follows."""
    text = lab.run(tmp_path / "run", *LARGE, base=("--mode=train",), environment=FAST)
    found = times(text)
    step, save = found["steps"] / 7, found["checkpoints"] / 2
    share = save / (INTERVAL * step + save)
    print(f"100M: a step {step:.2f} s, a save {save:.2f} s: {100 * share:.2f}%; {found}")
    assert share < 0.02
