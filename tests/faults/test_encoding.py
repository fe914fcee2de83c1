"""Encoding that is killed, in one process or two, ends as if nothing had happened."""

import random
import signal
import time

import pytest
from remains import contents
from test_kill import nothing_left

KILLS = 4


def ends_well(group) -> str:
    for command in group:
        assert command.wait() == 0, command.text()
    return group[0].text()


def same(folder, other) -> None:
    """Two data sets have the same files, apart from where their autoencoder lies."""
    found, wanted = contents(folder), contents(other)
    assert found.keys() == wanted.keys()
    assert not [name for name in found if found[name] != wanted[name]]


@pytest.fixture(scope="module")
def encoded(once, encode):
    """The data set, encoded without a break."""
    return once("encoded", lambda folder: ends_well(encode(folder))) / "made" / "1.0.0"


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_it_goes_on(encode, encoded, tmp_path, seed, number):
    rng, data, killed = random.Random(f"{seed} {number}"), tmp_path / "data", []
    unfinished = data / "made.unfinished"
    for _ in range(KILLS):
        group = encode(data, number=number)
        there = len(list(unfinished.glob("made-train*")))
        until = min(7, there + rng.randrange(3))

        def seen(files=until):
            return len(list(unfinished.glob("made-train*"))) >= files

        group[0].says("Encode ")
        group[0].until(seen)
        time.sleep(rng.uniform(0, 0.3))
        if all(command.poll() is None for command in group):
            killed.append(len(list(unfinished.glob("made-train*"))))
        for command in group:
            command.send(signal.SIGKILL)
        for command in group:
            command.wait(120)
            nothing_left(command)
        if (data / "made").exists():
            break
    assert killed
    if not (data / "made").exists():
        ends_well(encode(data, number=rng.choice([1, number])))
    assert not unfinished.exists()
    same(data / "made" / "1.0.0", encoded)


@pytest.mark.slow
def test_each_process_writes_its_own_files(encode, encoded, tmp_path):
    group = encode(tmp_path / "data", number=2)
    assert "Encode 100 images of process 0 of 2 into 4 files" in ends_well(group)
    same(tmp_path / "data" / "made" / "1.0.0", encoded)


@pytest.mark.slow
def test_two_commands_do_not_write_one_data_set(encode, tmp_path):
    first, second = (encode(tmp_path / "data")[0] for _ in range(2))
    statuses = sorted(command.wait() for command in (first, second))
    assert statuses == [0, 2], first.text() + second.text()
    texts = first.text() + second.text()
    assert "is being written by another command" in texts or "exists: delete it" in texts
