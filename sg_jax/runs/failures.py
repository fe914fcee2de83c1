"""A sentence on what ended a command from outside: a full disk, missing rights, limits, memory."""

import errno
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator

from sg_jax.errors import UserError, one_line

KEPT = "Complete checkpoints are kept, and the same command continues."
# What libraries say, in an error of any type, and what it means.
CAUSES = {
    errno.ENOSPC: ("no space is left on its disk", "Free some, or give a folder elsewhere."),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, or give a folder elsewhere."),
    errno.EROFS: ("its file system is read-only", "Give a folder that can be written."),
    errno.EACCES: ("permission is denied", "Change its rights, or give another folder."),
    errno.EPERM: ("the operation is not permitted", "Change its rights, or give another folder."),
    errno.EMFILE: ("this process has too many open files", "Raise the limit: `ulimit -n 4096`."),
    errno.ENFILE: ("the machine has too many open files", "End other processes."),
    errno.EIO: ("its disk cannot be read or written", "Check the disk."),
    errno.ESTALE: ("the network disk no longer has it", "Mount it again."),
    errno.EFBIG: ("it is larger than its file system allows", "Give a folder elsewhere."),
    errno.ENAMETOOLONG: ("its name is too long", "Give a shorter one."),
    errno.ENOTDIR: ("a file is where a folder should be", "Move it away, or give another folder."),
    errno.EISDIR: ("a folder is where a file should be", "Move it away."),
    errno.ENOENT: ("it does not exist", "Was it deleted while the command ran?"),
}
OUTSIDE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EIO}
DEVICE = re.compile("RESOURCE_EXHAUSTED|OUT_OF_MEMORY|[Oo]ut of memory")
MEMORY = (
    "To train, lower config.train.batch_size, raise config.train.accumulate, set "
    "config.model.remat='full', or split the weights (config.mesh.fsdp). To sample, lower "
    "config.sample.batch_size."
)


class Failure(UserError):
    """Something outside failed, and may work again on the next try."""


def explain(error: BaseException, workdir: str = "") -> str:
    """Return what ended a command from outside and what to do, or "" for any other error.

    Args:
      error: what was raised. The errors that it was raised from, or while handling, count too.
      workdir: the folder of the run, to name if a library names no file.
    """
    for cause, direct in _chain(error):
        number, path = _system(cause)
        if number in CAUSES and (direct or number in OUTSIDE):
            what, remedy = CAUSES[number]
            # An error in removing a folder may name only a part of the path.
            place = os.path.join(workdir, path) if path else workdir  # an absolute path stays
            return f"{place or 'A file'}: {what}. {remedy} {KEPT}"
        if isinstance(cause, MemoryError) or number == errno.ENOMEM:
            return f"This machine has run out of memory ({one_line(cause)}). {MEMORY}"
        if DEVICE.search(str(cause)):
            return f"A device has run out of memory ({one_line(cause)}). {MEMORY}"
    return ""


def quiet() -> None:
    """Keep tracebacks of such errors, and of a stop, in background threads off the screen.

    The code that waits for the thread reports its error.
    """

    def expected(error: BaseException | None) -> bool:
        late = str(error) == "Event loop is closed"  # a write that ends after another has failed
        return late or isinstance(error, SystemExit) or bool(error and explain(error))

    def without(hook: Callable) -> Callable:
        return lambda found: None if expected(found.exc_value) else hook(found)

    def shown(record: logging.LogRecord) -> bool:
        return not (record.exc_info and expected(record.exc_info[1]))

    native = sys.excepthook  # which threads of native code call too
    sys.excepthook = lambda kind, error, trace: (
        None if expected(error) else native(kind, error, trace)
    )
    threading.excepthook = without(threading.excepthook)
    sys.unraisablehook = without(sys.unraisablehook)
    for name in ("absl", "asyncio", "concurrent.futures"):
        logging.getLogger(name).addFilter(shown)


def _chain(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    """Yield an error and all that led to it, each once, and whether it was certainly the reason."""
    waiting: list[tuple[BaseException | None, bool]] = [(error, True)]
    seen: set[int] = set()
    while waiting:
        found, direct = waiting.pop(0)
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found, direct
        group = found.exceptions if isinstance(found, BaseExceptionGroup) else ()
        waiting += [(e, direct) for e in (found.__cause__, *group)]
        waiting.append((found.__context__, False))


def _system(error: BaseException) -> tuple[int | None, str]:
    """Return the operating system's number of an error and the file, as far as they are known."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno, "" if error.filename is None else os.fspath(error.filename)
    text = str(error)
    for number in CAUSES:
        if os.strerror(number) in text and number != errno.ENOENT:
            named = re.search(r'"([^"]+)"', text)
            return number, named[1] if named else ""
    return None, ""
