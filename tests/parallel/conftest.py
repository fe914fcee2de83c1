"""Groups of processes, and the runs that several tests look at.

Those are made once, also where pytest-xdist gives the tests to different workers.
"""

import fcntl
import os

import pytest
from groups import STEPS, Group


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A folder that all workers of this test run share."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "multihost"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def start(base):
    """Workdir, arguments, number, devices -> a running group, at the end of the tests no more."""
    groups = []

    def make(*arguments, **options):
        groups.append(Group(base, *arguments, **options))
        return groups[-1]

    yield make
    for group in groups:
        group.kill()


@pytest.fixture(scope="session")
def run(start):
    """The same, run to its good end."""

    def make(*arguments, **options):
        group = start(*arguments, **options)
        statuses = group.end()
        assert not any(statuses), "\n".join(map(group.text, range(len(statuses))))
        return group.text()

    return make


@pytest.fixture(scope="session")
def once(base):
    """Name, function -> folder that the function has filled, once for all workers."""

    def make(name, fill):
        with (base / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (base / f"{name}.done").exists():
                fill(base / name)
                (base / f"{name}.done").touch()
        return base / name

    return make


@pytest.fixture(scope="session")
def one(once, run):
    """8 steps, samples and scores, by one process with one device."""
    then = "--config.train.then=sample,evaluate"
    return once("one", lambda folder: run(folder, *STEPS, then))


@pytest.fixture(scope="session")
def four(once, run):
    """The same 8 steps by four processes with a device each; saved after 4 too."""
    return once("four", lambda folder: run(folder, *STEPS, number=4))
