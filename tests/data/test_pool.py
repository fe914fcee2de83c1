"""Calls in several processes: results, order and errors as in one, and nothing left over."""

import math
import os

import pytest

from sg_jax.data import pool

PID = "__import__('os').getpid()"


@pytest.fixture
def soon(monkeypatch):
    """Start processes after the first call, as if it had taken long; there are two cores."""
    monkeypatch.setattr(pool, "ALONE", 0.0)
    monkeypatch.setattr(pool, "WORTH", 0.0)
    monkeypatch.setattr(pool, "_cores", lambda: 2)


def test_short_work_starts_no_process():
    with pool.mapped(eval, [PID] * 5) as found:
        assert set(found) == {os.getpid()}


def test_results_come_in_order_from_processes_that_end_with_the_context(soon, monkeypatch):
    monkeypatch.setattr(pool, "AHEAD", 3)  # several rounds
    with pool.mapped(eval, [f"({i}, {PID})" for i in range(20)]) as found:
        numbers, pids = zip(*found, strict=True)
    assert numbers == tuple(range(20)) and pids[0] == os.getpid()
    assert len(set(pids)) == 3
    for pid in set(pids) - {os.getpid()}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_error_is_raised_here_and_ends_the_rest(soon):
    seen = []
    with (
        pytest.raises(ValueError, match="math domain error"),
        pool.mapped(math.sqrt, [4.0, 9.0, -1.0, *[1.0] * 50]) as found,
    ):
        seen.extend(found)
    assert seen == [2.0, 3.0]


def test_a_process_that_dies_is_replaced_by_this_one(soon):
    die = f"{PID} != {os.getpid()} and __import__('os')._exit(1)"
    with pool.mapped(eval, [die] * 6) as found:
        assert list(found) == [False] * 6
