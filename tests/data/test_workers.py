"""Readers end with the process that started them, also if it is killed."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

SCRIPT = """
import multiprocessing, os, time
from sg_jax.data.workers import end_with_parent

def read(pipe):
    end_with_parent()
    pipe.send(os.getpid())
    time.sleep(60)

if __name__ == "__main__":
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    multiprocessing.get_context("spawn").Process(target=read, args=(theirs,)).start()
    print(ours.recv(), flush=True)
    time.sleep(60)
"""
TRAINING = """
import time
from sg_jax.data.pipeline import train_iterator
from sg_jax.data.sources import open_source

if __name__ == "__main__":
    source = open_source("digits", "train", {data_dir!r}, image_size=64)
    batches = train_iterator(source, batch_size=64, seed=0, workers=2)
    [next(batches) for _ in range(4)]
    print("ready", flush=True)
    time.sleep(60)
"""
ROOT = pathlib.Path(__file__).parents[2]


def _stat(pid):
    """Return (state, parent) of a process; ("", 0) if there is none."""
    try:
        state, parent, *_ = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    return state, int(parent)


def _started(tmp_path, script):
    (tmp_path / "script.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "script.py")]
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    return parent, parent.stdout.readline().strip()


def _seconds_until_gone(pids):
    began = time.monotonic()
    while any(_stat(pid)[0] not in ("", "Z") for pid in pids):
        assert time.monotonic() - began < 10, "they live on"
        time.sleep(0.01)
    return time.monotonic() - began


def test_a_child_ends_when_its_parent_is_killed(tmp_path):
    parent, child = _started(tmp_path, SCRIPT)
    assert _stat(int(child))[1] == parent.pid
    parent.kill()
    assert _seconds_until_gone([int(child)]) < 3  # of which all but tenths is the machine's load


@pytest.mark.slow
def test_the_readers_of_a_killed_training_end_and_free_their_memory(tmp_path, digits_dir):
    before = _shared_memory()
    parent, _ = _started(tmp_path, TRAINING.format(data_dir=str(digits_dir)))
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    children = [pid for pid in numbers if _stat(pid)[1] == parent.pid]
    assert len(children) == 3  # two readers, and the one that frees shared memory
    parent.kill()
    assert _seconds_until_gone(children) < 5
    blocks = _shared_memory() - before  # another test may hold some of them for a few seconds
    began = time.monotonic()
    while left := blocks & _shared_memory():
        assert time.monotonic() - began < 60, f"{left} are still there"
        time.sleep(0.1)


def _shared_memory():
    return set(os.listdir("/dev/shm"))
