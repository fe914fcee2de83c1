"""One training at a time in a folder: a file says who trains there, and that it is alive.

    workdir/training.json  {"host": "tpu-0", "pid": 4711, "since": "...", "beat": 12, ...}

A second run is refused, whether on this host or on another that shares the folder. A killed run is
noticed: the operating system releases the file, and its beat no longer changes. In a bucket, and
where the file system does not lock files, only the beat shows it. A process number would not: a
restarted container has the same number as the one before, and cannot see others.
"""

import contextlib
import datetime
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from sg_jax.errors import UserError
from sg_jax.parallel import processes
from sg_jax.runs import files
from sg_jax.runs.progress import log
from sg_jax.runs.sharing import opened, try_locked

NAME = "training.json"
BEAT = 10.0  # seconds between two beats
SILENCE = 3.5  # beats after which a run counts as dead, unless a lock shows that it is alive


class InUse(UserError):
    """Another run trains in the folder."""


class Held:
    """A folder in which this run trains."""

    def __init__(self, path: epath.Path | None, token: str = ""):
        self._path, self._token = path, token

    def check(self) -> None:
        """Raise a UserError if another run has taken the folder over, as after a long pause."""
        if self._path is not None and (other := self.other()):
            raise UserError(
                f"{_who(other)} has taken over {self._path.parent}, because this run gave no sign "
                f"of life for {BEAT * SILENCE:.0f} seconds. Nothing was overwritten."
            )

    def other(self) -> dict[str, Any] | None:
        """Return what another run that holds the folder says, as far as this can be known now."""
        assert self._path is not None
        try:
            found = _read(self._path)
        except Exception:  # a bucket that does not answer raises many kinds of errors
            return None
        return found if found is not None and found.get("token") != self._token else None


@contextlib.contextmanager
def hold(workdir: str | os.PathLike, patience: float = 0.0) -> Iterator[Held]:
    """Hold a folder while training there; all processes of a run call this.

    Args:
      workdir: the folder.
      patience: seconds to wait for another run to leave it.

    Raises:
      UserError: another run trains there; all processes raise it.
    """
    with contextlib.ExitStack() as stack:
        held, refused = Held(None), None
        if processes.is_writer():
            until = time.monotonic() + patience
            while True:
                try:
                    held, refused = stack.enter_context(_hold(files.absolute(workdir))), None
                    break
                except UserError as error:
                    refused = error
                if not isinstance(refused, InUse) or time.monotonic() >= until:
                    break
                log(f"Waiting up to {until - time.monotonic():.0f} s. {refused}")
                time.sleep(min(5.0, patience))
        if processes.from_writer([refused is not None])[0]:
            raise refused or UserError(f"--workdir={workdir} is in use: see process 0.")
        yield held


@contextlib.contextmanager
def _hold(folder: epath.Path) -> Iterator[Held]:
    files.check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    me: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "token": uuid.uuid4().hex,
        "machine": _machine(),
    }
    held, ended = Held(path, me["token"]), threading.Event()
    with contextlib.ExitStack() as stack:
        locked = None if files.is_remote(path) else stack.enter_context(try_locked(path))
        if locked is False:
            raise _held(path, _read(path) or {})
        _refuse_living(path, me, bool(locked))
        _write(path, me, 0)
        if not locked:  # of two that start together, the later write wins
            time.sleep(min(2.0, BEAT))
            if other := held.other():
                raise _held(path, other)
        thread = threading.Thread(target=_beat, args=(held, path, me, ended), daemon=True)
        thread.start()
        try:
            yield held
        finally:
            ended.set()
            thread.join()
            with contextlib.suppress(OSError, UserError):
                held.check()
                path.unlink()


def _refuse_living(path: epath.Path, me: dict[str, Any], locked: bool) -> None:
    """Raise if the run that wrote the file is alive.

    This waits for its beat, unless it was on this machine and the file is `locked` now.
    """
    other = _read(path)
    if other is None:
        return
    if locked and other.get("machine") == me["machine"]:
        log(f"Taking over {path.parent} from {_who(other)}, which has ended.")
        return
    wait = BEAT * SILENCE
    log(f"{_who(other)} trained in {path.parent}: waiting up to {wait:.0f} s for a sign of life.")
    until = time.monotonic() + wait
    while time.monotonic() < until:
        time.sleep(min(1.0, BEAT))
        if (now := _read(path)) is not None and now != other:
            raise _held(path, now)
    log(f"Taking over {path.parent} from {_who(other)}, which gives no sign of life.")


def _held(path: epath.Path, other: dict[str, Any]) -> InUse:
    return InUse(
        f"--workdir={path.parent} is in use: {_who(other)} has trained there since "
        f"{other.get('since', 'a moment ago')}. Wait for it, stop it, or give another folder."
    )


def _who(other: dict[str, Any]) -> str:
    return f"Process {other.get('pid', '?')} on host {other.get('host', '?')!r}"


def _beat(held: Held, path: epath.Path, me: dict[str, Any], ended: threading.Event) -> None:
    """Show that this run is alive, until it ends or is replaced."""
    count = 0
    while not ended.wait(BEAT):
        count += 1
        try:
            held.check()
            _write(path, me, count)
        except UserError:  # replaced; the next save says so
            return
        except Exception:  # such as a full disk, which ends the run elsewhere, or a bucket's error
            continue


def _write(path: epath.Path, me: dict[str, Any], count: int) -> None:
    content = json.dumps({**me, "beat": count}).encode()
    if files.is_remote(path):
        files.write_atomically(path, content)
        return
    # In place, because a file that replaced it would not be locked.
    descriptor = opened(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, content.ljust(512) + b"\n", 0)
    finally:
        os.close(descriptor)


def _read(path: epath.Path) -> dict[str, Any] | None:
    """Return what the file says; None if it is missing, empty or foreign."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(4096))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _machine() -> str:
    """Return an id that differs between machines, even of the same name, and between restarts."""
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    return socket.gethostname()
