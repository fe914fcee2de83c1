"""Commands that work in one folder at the same time wait for each other and divide their jobs.

The operating system locks files, and releases what a killed command held. So commands on one
machine know of each other, and so do those on several machines if their file system locks files
across them. A bucket cannot be locked: there each command acts as if it were alone.
"""

import contextlib
import errno
import functools
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar

from etils import epath

from sg_jax.errors import UserError
from sg_jax.parallel import processes
from sg_jax.runs import files
from sg_jax.runs.progress import log

PAUSE = 1.0  # seconds between two checks of what others hold
FREE, HELD, FINISHED = range(3)

Job = TypeVar("Job")


@contextlib.contextmanager
def locked(path: os.PathLike) -> Iterator[bool]:
    """Lock a file, made if need be, for this process; yield False if another one has locked it.

    The file is not removed. On file systems without locks, it counts as locked by nobody else.
    """
    with try_locked(path) as free:
        yield free is not False


@contextlib.contextmanager
def try_locked(path: os.PathLike) -> Iterator[bool | None]:
    """Do what `locked` does, but yield None on file systems without locks."""
    while True:
        descriptor = opened(path, os.O_RDWR | os.O_CREAT)
        free = files.try_lock(descriptor)
        if free is None:
            break
        if not free:
            os.close(descriptor)
            yield False
            return
        # The previous holder may have removed the file between the two lines above.
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                break
        os.close(descriptor)
    try:
        yield free
    finally:
        os.close(descriptor)


def opened(path: os.PathLike, flags: int) -> int:
    """Return a descriptor of a file in a run.

    Raises:
      UserError: it is a link, by which someone else's run could have another file written.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(
            f"{os.fspath(path)} is a link to {os.path.realpath(path)}, which would be written to: "
            "delete the link."
        ) from None


@contextlib.contextmanager
def alone(folder: str | os.PathLike) -> Iterator[None]:
    """Wait for other commands in such a block for this folder, and make later ones wait.

    The folder itself is locked, so that no file is left behind.
    """
    if files.is_remote(folder):
        yield
        return
    import fcntl

    place = files.path(folder)
    place.mkdir(parents=True, exist_ok=True)
    number = os.open(place, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


@contextlib.contextmanager
def turn(path: epath.Path, what: str, together: bool = True) -> Iterator[None]:
    """Wait until no other command is in such a block for a file, which exists during the block.

    Args:
      path: the file.
      what: what another command is doing, for the log.
      together: whether all processes of a command call this, or the writer alone.
    """
    told = False
    while True:
        with _held(path, lambda: False, together) as state:
            if state == FREE:
                yield
                return
        if not told:
            log(f"Another command is {what}: waiting for it.")
            told = True
        time.sleep(PAUSE)


def share(
    jobs: Sequence[Job],
    file_of: Callable[[Job], epath.Path],
    finished: Callable[[Job], bool],
) -> Generator[tuple[Job, bool], None, None]:
    """Yield every job, and whether another command has finished it; the caller does the rest.

    A job is held until the next one is asked for. Jobs that another command holds come last: this
    waits for them, and yields each as finished, or as free after all. All processes of a command
    call this.

    Args:
      jobs: the jobs, in the order to do them in.
      file_of: the path of a job's file, which is removed after it.
      finished: whether a job's result is there. The writer calls it, for jobs that it holds.
    """
    left, told = list(jobs), 0
    while left:
        later = []
        for job in left:
            with _held(file_of(job), functools.partial(finished, job)) as state:
                if state == HELD:
                    later.append(job)
                else:
                    yield job, state == FINISHED
        if later and len(later) == len(left):
            if len(later) != told:
                told = len(later)
                log(f"Other commands are working on the last {told}: waiting for them.")
            time.sleep(PAUSE)
        left = later


@contextlib.contextmanager
def _held(path: epath.Path, finished: Callable[[], bool], together: bool = True) -> Iterator[int]:
    """Hold a file if it is free; yield the state of its job, the same in all processes."""
    with contextlib.ExitStack() as stack:
        state = FREE
        if processes.is_writer():
            if not stack.enter_context(_taken(path)):
                state = HELD
            elif finished():
                state = FINISHED
        yield int(processes.from_writer([state])[0]) if together else state


@contextlib.contextmanager
def _taken(path: epath.Path) -> Iterator[bool]:
    """Lock a file, which exists during the block; yield False if another command has it."""
    with contextlib.ExitStack() as stack:
        free = True
        if not files.is_remote(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if free := stack.enter_context(locked(path)):
                stack.callback(path.unlink, missing_ok=True)
        yield free
