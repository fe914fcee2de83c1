"""Signals end a command with one sentence and a status, whatever its main thread does.

Each test is a process of its own, without jax.
"""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
START = """
import hashlib, os, signal, sys, threading, time
from sg_jax.parallel import stops
stops.GRACE = 0.3
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
stops.install()

def ready():
    print("ready", flush=True)

def native():  # 100 s in C, where no Python handler runs
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)
"""
INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.fixture
def ended():
    """Code, signals or seconds to wait -> the process after them: status, output, errors."""

    def run(code, *signals, timeout=20):
        process = subprocess.Popen(
            [sys.executable, "-c", START + code], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout.readline() == "ready\n"
            for sent in signals:
                time.sleep(sent) if isinstance(sent, float) else process.send_signal(sent)
            output, error = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return process.returncode, output.splitlines(), error.splitlines()

    return run


@pytest.mark.parametrize("number", [INT, TERM, HUP])
@pytest.mark.parametrize(
    "code",
    [
        "ready(); time.sleep(60)",
        "ready(); native()",
        # A library keeps the exception to itself.
        "def wait():\n try:\n  time.sleep(60)\n except BaseException:\n  wait()\nready(); wait()",
        "threading.Thread(target=time.sleep, args=(60,)).start(); ready(); time.sleep(60)",
        # Python ignores what is raised here, and prints it.
        "import gc\ngc.callbacks.append(lambda *_: (ready(), time.sleep(60)))\ngc.collect()",
    ],
    ids=["python", "native", "swallowed", "thread", "ignored"],
)
def test_a_signal_ends_the_command(ended, code, number):
    status, _, (line,) = ended(code, number)
    assert status == 128 + number
    assert line.startswith(f"Stopped by {number.name}.")


def test_a_command_is_not_done_because_a_library_kept_the_exception(ended):
    code = "stops.GRACE = 10\ntry:\n ready(); time.sleep(60)\nexcept BaseException:\n pass\n"
    assert ended(f"{code}stops.finish()", TERM)[0] == 143
    assert ended("ready(); stops.finish(); time.sleep(0.3)")[0] == 0


def test_what_was_begun_is_cleaned_up_even_if_the_signal_comes_again(ended):
    code = """
stops.GRACE = 10  # so long may this take on a busy machine
try:
    ready()
    for _ in range(600):  # a signal just before a long sleep would be noticed only after it
        time.sleep(0.1)
finally:
    time.sleep(0.2); print("clean")
"""
    assert ended(code, TERM, 0.1, TERM)[:2] == (143, ["clean"])
    status, output, _ = ended(code, INT, TERM)
    assert status in (130, 143) and output == ["clean"]  # whichever comes first


DEFERRED = """
with stops.deferred() as received:
    ready()
    while not received:
        time.sleep(0.01)
    {save}
    print("saved")
sys.exit(1)
"""


@pytest.mark.parametrize("signals", [(INT,), (TERM,), (HUP,), (INT, TERM), (TERM, TERM)])
def test_deferred_signals_leave_time_to_save(ended, signals):
    """keep_running.sh passes a Ctrl-C on as SIGTERM, so a process may get both."""
    status, output, errors = ended(DEFERRED.format(save="time.sleep(0.5)"), *signals)
    assert (status, output) == (1, ["saved"])
    told = ["Ctrl-C: saving after this step. Another one ends the command immediately."]
    assert errors in {(INT,): [told], (INT, TERM): [[], told]}.get(signals, [[]])  # in any order


def test_what_nohup_ignores_stays_ignored(ended):
    code = "ready(); time.sleep(1); print('done')"
    ignored = "signal.signal(signal.SIGHUP, signal.SIG_IGN); stops.install()\n"
    assert ended(ignored + code, HUP)[:2] == (0, ["done"])
    ignored = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    assert ended(ignored + DEFERRED.format(save="pass"), HUP, 0.2, TERM)[:2] == (1, ["saved"])


def test_two_signals_at_once_are_one(ended):
    """As `timeout --signal INT` sends them."""
    status, output, _ = ended(DEFERRED.format(save="time.sleep(0.5)"), INT, INT, INT)
    assert (status, output) == (1, ["saved"])


def test_a_second_ctrl_c_ends_at_once(ended):
    for save in ("time.sleep(60)", "native()"):
        status, output, errors = ended(DEFERRED.format(save=save), INT, 0.5, INT)
        assert (status, output) == (130, []) and "second Ctrl-C" in errors[-1]


def test_a_signal_to_a_fork_is_not_the_parents(ended):
    code = """
ready()
child = os.fork()
if not child:
    time.sleep(60)
time.sleep(0.1)
with stops.deferred():
    os.kill(child, signal.SIGINT)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)
    print("still here")
"""
    assert ended(code)[:2] == (0, ["130", "still here"])


def test_without_install_nothing_is_handled():
    from sg_jax.parallel import stops

    before = [signal.getsignal(number) for number in stops.SIGNALS]
    with stops.deferred() as received:
        signal.raise_signal(INT)
        assert received == [INT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(INT)
    assert [signal.getsignal(number) for number in stops.SIGNALS] == before
