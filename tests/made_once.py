"""What several tests look at and is made once, also where pytest-xdist has several workers."""

import fcntl
import os


def folder(tmp_path_factory, name):
    """A folder of that name that all workers of this test run share."""
    base = tmp_path_factory.getbasetemp()
    base = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    base.mkdir(exist_ok=True)
    return base


def maker(base):
    """Return once(name, fill) -> folder in `base` that fill(folder) has filled, for all workers."""

    def once(name, fill):
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (base / f"{name}.done").exists():
                fill(base / name)
                (base / f"{name}.done").touch()
        return base / name

    return once
