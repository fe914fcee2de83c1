"""Groups of processes, and the runs that several tests look at.

Those are made once, also where pytest-xdist gives the tests to different workers.
"""

import made_once
import pytest
from groups import STEPS, Group


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return made_once.folder(tmp_path_factory, "multihost")


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
    return made_once.maker(base)


@pytest.fixture(scope="session")
def one(once, run):
    """8 steps, samples and scores, by one process with one device."""
    then = "--config.train.then=sample,evaluate"
    return once("one", lambda folder: run(folder, *STEPS, then))


@pytest.fixture(scope="session")
def four(once, run):
    """The same 8 steps by four processes with a device each; saved after 4 too."""
    return once("four", lambda folder: run(folder, *STEPS, number=4))
