"""launch/keep_running.sh: tries again, passes signals on."""

import os
import signal
import subprocess
import time

import pytest
from stand_ins import wait_for


def keep_running(place, command: str, **environment: str) -> subprocess.Popen:
    return place.popen("keep_running.sh", "bash", "-c", f"echo x >>times; {command}", **environment)


def times(place) -> int:
    path = place.home / "times"
    return len(path.read_text().split()) if path.exists() else 0


@pytest.mark.parametrize(
    ("command", "environment", "status", "runs"),
    [
        ('[ "$(wc -l <times)" -eq 3 ]', {}, 0, 3),  # fails twice
        ("exit 2", {}, 2, 1),
        ("exit 7", {"MAX_FAILURES": "2"}, 7, 3),
        # A run that lasted long enough does not count as a failure in a row.
        ('[ "$(wc -l <times)" -eq 5 ]', {"MAX_FAILURES": "1", "HEALTHY_SECONDS": "0"}, 0, 5),
    ],
)
def test_keep_running(place, command, environment, status, runs):
    process = keep_running(place, command, **environment)
    process.communicate(timeout=20)
    assert (process.returncode, times(place)) == (status, runs)


def test_keep_running_passes_sigterm_on_once_and_waits(place):
    process = keep_running(
        place,
        "trap 'echo TERM >>got' TERM; echo >ready; while [ ! -e got ]; do sleep 0.02; done;"
        " sleep 0.3; exit 1",
    )
    wait_for((place.home / "ready").exists)
    process.send_signal(signal.SIGTERM)
    wait_for((place.home / "got").exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 1 and times(place) == 1
    assert (place.home / "got").read_text() == "TERM\n"


def test_keep_running_ends_with_its_terminal(place):
    command = "trap 'exit 1' TERM HUP; echo x >>times; while :; do sleep 0.02; done"
    process, terminal = place.on_terminal("keep_running.sh", "bash", "-c", command)
    wait_for(lambda: times(place))
    time.sleep(0.2)
    os.close(terminal)
    assert process.wait(timeout=5) == 1 and times(place) == 1


def test_keep_running_ends_in_the_pause(place):
    process = keep_running(place, "exit 9", PAUSE_SECONDS="60")
    wait_for(lambda: times(place))
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=5)
    assert process.returncode == 9 and times(place) == 1


def test_keep_running_lets_the_command_end_after_sigusr1(place):
    process = keep_running(place, "echo >ready; while [ ! -e go ]; do sleep 0.02; done; exit 1")
    wait_for((place.home / "ready").exists)
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    assert process.poll() is None
    (place.home / "go").touch()
    process.communicate(timeout=20)
    assert process.returncode == 1 and times(place) == 1
