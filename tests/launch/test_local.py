"""launch/local.sh: several processes on this machine."""

import os
import shlex
import signal
import sys
import time

from stand_ins import MAIN, wait_for

UNTIL_SIGNAL = """import signal, sys, time
got = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda n, _: got.append(n))
print("ready", flush=True)
while not got:
    time.sleep(0.02)
time.sleep(0.3)
print("saved after", len(got))
sys.exit(1)
"""


def local_log(place, index: int) -> str:
    path = place.repository / f"runs/logs/process_{index}.log"
    return path.read_text() if path.exists() else ""


def test_local_starts_every_process(place):
    out, _ = place.run("local.sh", "--processes=3", "--devices=4", "--", *MAIN, BEHAVIOUR="exit 0")
    shown = [out, local_log(place, 1), local_log(place, 2)]
    words = [text.splitlines()[0].split() for text in shown]
    assert [w[:4] for w in words] == [["process", str(i), "of", "3"] for i in range(3)]
    assert len({w[5] for w in words}) == 1 and words[0][5].startswith("localhost:")
    assert all(w[6] == "--xla_force_host_platform_device_count=4" for w in words)
    given = "".join(f"<{word}>" for word in ["-m", "sg_jax.main", *MAIN])
    assert [text.splitlines()[1] for text in shown] == [given] * 3


def test_local_ends_all_when_one_fails(place):
    behaviour = 'if [ "$JAX_PROCESS_ID" = 1 ]; then sleep 0.3; exit 7; fi; until_term'
    out, err = place.run("local.sh", "--", *MAIN, BEHAVIOUR=behaviour, status=7)
    assert out.endswith("ready\nsaved after 1\n")
    assert "process 1 ended with status 7" in err


def test_local_kills_what_does_not_end(place):
    behaviour = '[ "$JAX_PROCESS_ID" = 0 ] || exit 7; trap "" TERM; while :; do sleep 0.1; done'
    place.run("local.sh", "--grace=0", "--", *MAIN, BEHAVIOUR=behaviour, status=7)


def test_local_passes_sigterm_on_once_and_waits(place):
    process = place.popen("local.sh", "--", *MAIN, BEHAVIOUR="until_term")
    wait_for(lambda: "ready" in local_log(place, 1))
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert out.endswith("saved after 1\n") and local_log(place, 1).endswith("saved after 1\n")


def test_local_passes_control_c_on_once(place):
    """The terminal signals all processes in its foreground: only local.sh may be one of them."""
    program = place.home / "until_signal.py"  # unlike bash, Python can handle an ignored SIGINT
    program.write_text(UNTIL_SIGNAL)
    behaviour = f"exec {sys.executable} {program}"
    process, terminal = place.on_terminal("local.sh", "--", *MAIN, BEHAVIOUR=behaviour)
    wait_for(lambda: "ready" in local_log(place, 1))
    time.sleep(0.3)
    os.write(terminal, b"\x03")
    assert process.wait(timeout=20) == 1
    assert local_log(place, 1).endswith("ready\nsaved after 1\n")
    assert b"saved after 1" in os.read(terminal, 10_000)


def test_local_passes_a_closed_terminal_on_once_and_waits(place):
    """The terminal tells the group of local.sh, in which no process is; a shell tells it again."""
    process, terminal = place.on_terminal("local.sh", "--", *MAIN, BEHAVIOUR="until_term")
    wait_for(lambda: "ready" in local_log(place, 1))
    time.sleep(0.3)
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=20) == 1
    assert local_log(place, 1).endswith("ready\nsaved after 1\n")


def test_dry_run_of_local(place):
    out, _ = place.run("local.sh", "--processes=2", "--devices=3", "--dry-run", "--", *MAIN)
    assert place.calls() == [] and not (place.repository / "runs").exists()
    lines = [shlex.split(line) for line in out.splitlines() if line.startswith("env ")]
    assert [line[3] for line in lines] == ["JAX_PROCESS_ID=0", "JAX_PROCESS_ID=1"]
    assert all(line[-len(MAIN) :] == MAIN and "JAX_PLATFORMS=cpu" in line for line in lines)
