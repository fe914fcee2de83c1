"""Rates, the time left, and where time went."""

import errno
import io
import os
import pty

import pytest

from sg_jax.runs.progress import Ahead, Progress, Spent, clock, counted, log


@pytest.mark.parametrize(
    "seconds, expected",
    [(0, "0:00"), (59.6, "1:00"), (123, "2:03"), (3723, "1:02:03"), (90_000, "25:00:00")],
)
def test_a_clock(seconds, expected):
    assert clock(seconds) == expected


@pytest.fixture
def clock_hands(monkeypatch):
    """A list whose last number is the time."""
    hands = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: hands[-1])
    return hands


def test_a_progress_line(capsys, clock_hands):
    progress = Progress(start=0, total=100, images_per_step=8)
    clock_hands.append(110.0)
    rates = progress.update(20, loss=0.5)  # 20 steps in 10 seconds, 80 to go
    assert rates == {"steps_per_second": 2.0, "images_per_second": 16.0}
    line = capsys.readouterr().out
    for part in ("20/100", "loss 0.5", "2.00 steps/s", "16 images/s", "ETA 0:40"):
        assert part in line
    clock_hands.append(112.0)
    assert progress.update(22)["steps_per_second"] == 1.0  # since the last line


def test_time_spent_otherwise_is_left_out(clock_hands):
    progress = Progress(start=0, total=100, images_per_step=8)
    clock_hands.append(500.0)
    progress.restart(0)
    clock_hands.append(501.0)
    assert progress.update(4)["steps_per_second"] == 4.0


def test_no_rate_is_made_of_no_steps(capsys, clock_hands):
    """As after the first step of a run, which is its compile."""
    assert Progress(start=1, total=100, images_per_step=8).update(1, loss=0.5) == {}
    assert "loss 0.5" in capsys.readouterr().out


def test_the_time_left_of_pieces_follows_their_cost(capsys, clock_hands):
    ahead = Ahead(pieces=3, cost=10.0, unit="drawing")
    clock_hands.append(120.0)
    ahead.update(4.0, kid=0.5)  # 4 of 10 in 20 seconds, so 6 take 30
    assert capsys.readouterr().out == "drawing 1/3  kid 0.5  ETA 0:30\n"
    clock_hands.append(140.0)
    ahead.update(1.0)
    ahead.update(7.0)  # more than was expected
    assert capsys.readouterr().out == "drawing 2/3  ETA 0:40\ndrawing 3/3  ETA 0:00\n"


def test_the_time_spent_adds_up(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    spent = Spent()
    for seconds in (1.0, 2.0):
        with spent.on("compile"):
            now += seconds
        now += 41.5
    with pytest.raises(OSError), spent.on("writing"):
        now += 4.0
        raise OSError
    assert spent.report("steps") == (
        "Time: 1:30: steps 1:23 (92.2%), compile 3.0 s (3.3%), writing 4.0 s (4.4%)."
    )


@pytest.mark.parametrize(
    ("seconds", "digits", "text"),
    [
        (0.04, 1, "0.0 s"),
        (59.94, 1, "59.9 s"),
        (59.96, 1, "1:00"),
        (3725.0, 1, "1:02:05"),
        (7, 0, "0:07"),
    ],
)
def test_short_times_have_digits(seconds, digits, text):
    assert clock(seconds, digits) == text


def test_one_thing_is_not_many():
    assert [counted(n, "file") for n in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]


@pytest.mark.parametrize("open_two", [os.pipe, pty.openpty])
def test_lines_that_nobody_reads_end_nothing(monkeypatch, open_two):
    """As when Ctrl-C also ended the tee that they are piped into, or the terminal was closed."""
    reading, writing = open_two()
    with open(writing, "w") as output:
        monkeypatch.setattr("sys.stdout", output)
        log("one")
        os.close(reading)
        log("two")
        log("three")


def test_a_full_disk_is_told(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr("sys.stdout", Full())
        log("one")
