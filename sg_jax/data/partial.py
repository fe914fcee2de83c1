"""A folder next to a data set's place, to write it in until it is complete."""

import contextlib
import fcntl
import pathlib
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from typing import IO

from sg_jax.errors import UserError
from sg_jax.runs import files

DAY = 24 * 3600  # seconds without a change after which another host's folder counts as abandoned
LOCK = "lock"  # file that its writer locks; the system releases the lock when the writer ends


@contextlib.contextmanager
def folder(root: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """Yield a new folder in `root`, which is removed at the end: move what is complete out first.

    Folders of the same `name` whose writers were killed are removed too.

    Args:
      root: folder of prepared data sets; it is made if it is missing.
      name: of the data set.

    Raises:
      UserError: `root` cannot be written.
    """
    files.check_writable(root)
    with contextlib.ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            for path in root.iterdir():
                if path.name.startswith(f".{name}.") and path.name.endswith(files.PARTIAL):
                    _remove_abandoned(path)
            made = root / f".{name}.{_host()}.{uuid.uuid4().hex[:8]}{files.PARTIAL}"
            made.mkdir()
            stack.callback(shutil.rmtree, made, ignore_errors=True)
            lock = stack.enter_context((made / LOCK).open("w"))
            with contextlib.suppress(OSError):  # a file system without locks
                _hold(lock)
        except OSError as error:
            raise UserError(
                f"{root} cannot be written ({error.strerror}): give another folder."
            ) from None
        yield made


def _remove_abandoned(path: pathlib.Path) -> None:
    """Remove a folder unless its writer may still run, as far as this host can tell."""
    with contextlib.suppress(OSError):  # it is in use, or another process removes it
        if f".{_host()}." not in path.name and _last_change(path) > time.time() - DAY:
            return
        with (path / LOCK).open("r+") as lock:
            _hold(lock)
            shutil.rmtree(path, ignore_errors=True)


def _hold(lock: IO[str]) -> None:
    """Hold the lock on an open file until it is closed; raise an OSError if it is taken."""
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _host() -> str:
    return "".join(c if c.isalnum() else "-" for c in socket.gethostname())


def _last_change(path: pathlib.Path) -> float:
    """Return when something in a folder last changed, in seconds since 1970."""
    return max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
