"""One training at a time in a folder."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest

from sg_jax.errors import UserError
from sg_jax.runs import files, lock

ELSEWHERE = {"host": "tpu-7", "pid": 1, "since": "yesterday", "token": "other", "machine": "?"}


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)


def _hold(folder, ready):
    with lock.hold(folder):
        ready.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in the folder."""
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    process = spawn.Process(target=_hold, args=(str(tmp_path), ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_folder_is_held_and_released(tmp_path):
    for _ in range(2):
        with lock.hold(tmp_path / "new" / "run") as held:
            assert (
                json.loads((tmp_path / "new" / "run" / lock.NAME).read_text())["pid"] == os.getpid()
            )
            held.check()
        assert files.children(tmp_path / "new" / "run") == []


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path, holder, capsys):
    with pytest.raises(
        UserError, match=rf"is in use: Process {holder.pid} on host '.*' has trained"
    ):
        with lock.hold(tmp_path):
            pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with lock.hold(tmp_path):
        assert f"over from Process {holder.pid}" in capsys.readouterr().out
    assert files.children(tmp_path) == []


def test_a_run_on_another_host_is_refused_while_its_heart_beats(tmp_path):
    path, ended = tmp_path / lock.NAME, threading.Event()
    path.write_text(json.dumps({**ELSEWHERE, "beat": 0}))

    def beat():
        count = 0
        while not ended.wait(0.02):
            count += 1
            path.write_text(json.dumps({**ELSEWHERE, "beat": count}))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(
            UserError, match=r"in use: Process 1 on host 'tpu-7' has trained .* yesterday"
        ):
            with lock.hold(tmp_path):
                pass
    finally:
        ended.set()
        thread.join()


def test_a_dead_run_of_another_host_is_replaced(tmp_path, capsys):
    (tmp_path / lock.NAME).write_text(json.dumps(ELSEWHERE))
    with lock.hold(tmp_path):
        printed = capsys.readouterr().out
    assert "Process 1 on host 'tpu-7'" in printed and "no sign of life" in printed


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00" * 5000, "[" * 4000])
def test_a_foreign_file_is_replaced(tmp_path, content):
    (tmp_path / lock.NAME).write_text(content)
    with lock.hold(tmp_path) as held:
        held.check()
    assert files.children(tmp_path) == []


def test_a_run_that_was_replaced_stops(tmp_path):
    with lock.hold(tmp_path) as held:
        (tmp_path / lock.NAME).write_text(json.dumps(ELSEWHERE))
        with pytest.raises(UserError, match=r"Process 1 on host 'tpu-7' has taken \S+ over"):
            held.check()
        time.sleep(0.1)
    assert json.loads((tmp_path / lock.NAME).read_text()) == ELSEWHERE  # the other's, left alone


def test_its_heart_beats(tmp_path):
    with lock.hold(tmp_path):
        seen, until = set(), time.monotonic() + 20
        while len(seen) < 3 and time.monotonic() < until:
            seen.add(json.loads((tmp_path / lock.NAME).read_text())["beat"])
            time.sleep(0.01)
    assert len(seen) >= 3


def test_a_bucket(bucket):
    with lock.hold("gs://bucket/run"):
        with pytest.raises(UserError, match=rf"gs://bucket/run is in use: Process {os.getpid()}"):
            with lock.hold("gs://bucket/run"):
                pass
    assert not (files.path("gs://bucket/run") / lock.NAME).exists()
