"""Commands that do the same jobs at once share them out."""

import contextlib
import multiprocessing
import threading
import time

import pytest

from sg_jax.runs import sharing


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(sharing, "PAUSE", 0.02)


@pytest.fixture
def share(tmp_path):
    """(jobs, finished) -> the jobs as they come, each with whether another command finished it."""

    def of(jobs, finished=lambda job: False):
        return sharing.share(jobs, lambda job: tmp_path / "new" / f"{job}.lock", finished)

    return of


def test_alone_a_command_does_every_job_in_order(share, tmp_path):
    for job, theirs in share("abc"):
        assert not theirs
        assert [path.name for path in (tmp_path / "new").iterdir()] == [f"{job}.lock"]
    assert list((tmp_path / "new").iterdir()) == []
    assert [job for job, _ in share("abc")] == ["a", "b", "c"]
    assert list(share("")) == []


def test_what_is_finished_once_it_is_held_is_not_done_again(share):
    assert list(share("abc", lambda job: job == "b")) == [("a", 0), ("b", 1), ("c", 0)]


@pytest.mark.parametrize("together", [True, False])
def test_a_turn_is_waited_for(tmp_path, capsys, together):
    path = tmp_path / "new" / "a.lock"
    with sharing.turn(path, "there", together):
        assert path.exists()

        def later():
            with sharing.turn(path, "there", together):
                ended.append(path.exists())

        ended = []
        thread = threading.Thread(target=later)
        thread.start()
        time.sleep(0.1)
        assert not ended
    thread.join()
    assert ended == [True] and not path.exists()
    assert capsys.readouterr().out == "Another command is there: waiting for it.\n"


@pytest.mark.parametrize("finished", [True, False])
def test_what_another_command_holds_comes_last(share, tmp_path, capsys, finished):
    (tmp_path / "new").mkdir()
    there, ended = set(), threading.Event()
    with contextlib.ExitStack() as other:
        assert other.enter_context(sharing.locked(tmp_path / "new" / "a.lock"))

        def end():
            ended.wait()
            time.sleep(0.1)
            there.update("a" if finished else "")
            other.close()

        thread = threading.Thread(target=end)
        thread.start()
        found = []
        for job in share("abc", lambda job: job in there):
            found.append(job)
            if len(found) == 2:
                ended.set()
        thread.join()
    assert found == [("b", False), ("c", False), ("a", finished)]
    assert capsys.readouterr().out.count("Other commands are working on the last 1") == 1


def _hold(path, ready):
    with sharing.locked(path):
        ready.set()
        time.sleep(60)


@pytest.mark.slow
def test_a_command_that_was_killed_holds_nothing(share, tmp_path):
    (tmp_path / "new").mkdir()
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    process = spawn.Process(target=_hold, args=(tmp_path / "new" / "a.lock", ready))
    process.start()
    assert ready.wait(60)
    jobs = share("ab")
    assert next(jobs) == ("b", False)
    process.kill()
    process.join()
    assert list(jobs) == [("a", False)]
    assert list((tmp_path / "new").iterdir()) == []  # its file too


def test_a_job_that_fails_is_free_for_others(share, tmp_path):
    with contextlib.closing(share("ab")) as jobs, contextlib.suppress(RuntimeError):
        next(jobs)
        raise RuntimeError
    assert [job for job, _ in share("ab")] == ["a", "b"]


def test_two_commands_do_each_job_once(share):
    done, order = {}, {"first": [], "second": []}

    def command(name):
        for job, theirs in share(range(12), lambda job: job in done):
            assert theirs == (job in done)
            if not theirs:
                order[name].append(job)
                time.sleep(0.02)
                done[job] = name

    threads = [threading.Thread(target=command, args=(name,)) for name in order]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(order["first"] + order["second"]) == list(range(12))
    assert min(len(each) for each in order.values()) >= 3
