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


@pytest.fixture
def patient(monkeypatch):
    """For a test whose living run must not seem dead, however slow the machine is."""
    monkeypatch.setattr(lock, "BEAT", 0.25)


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
    threading.Timer(0.5, os.kill, (holder.pid, signal.SIGKILL)).start()
    with lock.hold(tmp_path, patience=60):
        said = capsys.readouterr().out
        assert f"s. --workdir={tmp_path} is in use" in said
        assert f"Taking over {tmp_path} from Process {holder.pid}" in said
    assert files.children(tmp_path) == []


def test_a_run_on_another_host_is_refused_while_its_heart_beats(tmp_path, patient):
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


def test_of_two_that_start_at_once_the_earlier_one_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "try_lock", lambda descriptor: None)  # a disk without locks
    write = lock._write

    def late(path, me, count):
        write(path, me, count)
        write(path, ELSEWHERE, 0)

    monkeypatch.setattr(lock, "_write", late)
    with pytest.raises(UserError, match="is in use: Process 1 on host 'tpu-7'"):
        with lock.hold(tmp_path):
            pass


def test_a_bucket_that_does_not_answer_ends_no_beat(tmp_path, monkeypatch):
    read, failed = lock._read, []

    def fails(path):
        failed.append(1)
        raise RuntimeError("HTTP 503")

    with lock.hold(tmp_path) as held:
        monkeypatch.setattr(lock, "_read", fails)
        held.check()
        time.sleep(0.2)
        monkeypatch.setattr(lock, "_read", read)
        before = json.loads((tmp_path / lock.NAME).read_text())["beat"]
        time.sleep(0.2)
        assert len(failed) > 2 and json.loads((tmp_path / lock.NAME).read_text())["beat"] > before


def test_a_run_that_was_replaced_stops(tmp_path):
    with lock.hold(tmp_path) as held:
        (tmp_path / lock.NAME).write_text(json.dumps(ELSEWHERE))
        with pytest.raises(
            UserError, match=r"Process 1 on host 'tpu-7' has taken over \S+, because"
        ):
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


def test_a_bucket(bucket, patient):
    with lock.hold("gs://bucket/run"):
        with pytest.raises(UserError, match=rf"gs://bucket/run is in use: Process {os.getpid()}"):
            with lock.hold("gs://bucket/run"):
                pass
    assert not (files.path("gs://bucket/run") / lock.NAME).exists()


@pytest.fixture(params=["bucket", "no locks"])
def unlocked(request, bucket, tmp_path, monkeypatch):
    """A folder where no file can be locked: in a bucket, or on a disk without locks."""
    if request.param == "bucket":
        return files.path("gs://bucket/run")
    monkeypatch.setattr(files, "try_lock", lambda file: None)
    return files.path(tmp_path / "run")


def test_without_locks_a_run_on_this_machine_is_refused(unlocked, patient):
    with lock.hold(unlocked):
        with pytest.raises(UserError, match=rf"run is in use: Process {os.getpid()}"):
            with lock.hold(unlocked):
                pass
    assert not (unlocked / lock.NAME).exists()


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("alive", [True, False])
def test_without_locks_only_the_beat_tells_whether_a_run_lives(
    unlocked, capsys, same, alive, request
):
    """In containers: another one has processes that are not seen here, and its successor's is 1."""
    if alive:
        request.getfixturevalue("patient")
    path, ended = unlocked / lock.NAME, threading.Event()
    pid = os.getpid() if same else 2**22 + 1  # which no process has
    other = {**ELSEWHERE, "machine": lock._machine(), "pid": pid}
    files.write_atomically(path, json.dumps({**other, "beat": 0}).encode())

    def beat():
        count = 0
        while alive and not ended.wait(0.01):
            count += 1
            files.write_atomically(path, json.dumps({**other, "beat": count}).encode())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        if alive:
            with pytest.raises(UserError, match=f"in use: Process {pid} on host 'tpu-7'"):
                with lock.hold(unlocked):
                    pass
        else:
            with lock.hold(unlocked):
                assert "gives no sign of life" in capsys.readouterr().out
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_not_written_through(tmp_path, there):
    """As in a run of someone else."""
    mine = tmp_path / "mine"
    if there:
        mine.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / lock.NAME).symlink_to(mine)
    with pytest.raises(UserError, match=rf"{lock.NAME} is a link to {mine}, .*: delete the link"):
        with lock.hold(tmp_path / "run"):
            pass
    assert mine.exists() == there and (not there or mine.read_text() == "mine")
