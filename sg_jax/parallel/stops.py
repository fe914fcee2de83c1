"""Ctrl-C, SIGTERM and a closed terminal end a command with one sentence, at any moment.

A command that is stopped says so, cleans up, and ends with status 130 (Ctrl-C), 143 (SIGTERM) or
129 (SIGHUP, from a closed terminal; if `nohup` ignores it, it stays ignored). If that takes more
than `GRACE` seconds, because a library waits or swallows the exception, another thread ends the
command. Training keeps signals `deferred`, saves, and ends by itself. A second Ctrl-C always ends
the command immediately, unless it comes within `TOGETHER` seconds: `timeout` signals a command and
then its group, which includes the command.

This file imports nothing that takes time, so that it works while jax is imported.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 5.0  # seconds in which a stopped command may clean up
TOGETHER = 0.3  # seconds in which nobody presses Ctrl-C twice


class Stopped(SystemExit):
    """A signal ends the command; the code is its status."""


_deferring = 0  # how many blocks are `deferred`
_told = 0  # the status of a command that has reported that it is stopped


def install() -> None:
    """Handle the signals of this process from here on; call it in the main thread."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in SIGNALS:
        if not _stays_ignored(number):
            signal.signal(number, _handle)
    # The main thread handles a signal only when it is back from native code, such as a compile.
    # This pipe tells another thread immediately.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_watch, args=(reading,), name="stops", daemon=True).start()
    # Where Python ignores exceptions, as in callbacks of its garbage collector, it prints them.
    native = sys.unraisablehook
    sys.unraisablehook = lambda found: (
        None if isinstance(found.exc_value, Stopped) else native(found)
    )


def take_back() -> None:
    """Handle SIGTERM again after jax has taken it; without `install`, let it end the process."""
    ours = signal.getsignal(signal.SIGINT) is _handle
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, _handle if ours else signal.SIG_DFL)


@contextlib.contextmanager
def deferred(
    numbers: Sequence[int] = SIGNALS, then: Callable[[int], object] | None = None
) -> Iterator[list[int]]:
    """Only note the signals that come in this block, after which the caller ends the command.

    Args:
      numbers: the signals.
      then: called with each of them.

    Yields:
      The signals so far, to look at now and then.
    """
    global _deferring
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, _: Any) -> None:
        again = number == signal.SIGINT and number in received
        received.append(number)
        if again and before[number] is not _handle:  # in a notebook, say; else `_watch` ends it
            raise KeyboardInterrupt
        if then is not None:
            then(number)

    with contextlib.suppress(ValueError):  # not the main thread: signals stay as they are
        for number in numbers:
            if not _stays_ignored(number):
                before[number] = signal.signal(number, note)
    _deferring += 1
    try:
        yield received
    finally:
        _deferring -= 1
        for number, old in before.items():
            signal.signal(number, old)


def _stays_ignored(number: int) -> bool:
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


def end(number: int) -> NoReturn:
    """End the command because of a signal, by an exception."""
    _tell(number)
    raise Stopped(128 + number)


def finish() -> None:
    """End a command that is done but was stopped: a library may have swallowed the exception."""
    if _told:
        leave(_told)


def leave(status: int) -> NoReturn:
    """End the process after cleaning up: Python's own exit crashes if jax is still computing."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _handle(number: int, _: Any) -> None:
    if not _told:  # otherwise it would interrupt the cleanup
        end(number)


def _watch(reading: int) -> None:
    """End the process if its main thread does not; this runs in a thread of its own."""
    received: list[int] = []
    first = 0.0  # when the first of them came
    while data := os.read(reading, 1):
        number, now = data[0], time.monotonic()
        if number in received and now - first < TOGETHER:
            continue
        first = first or now
        if number == signal.SIGINT and number in received:
            _write("Stopped immediately by the second Ctrl-C. All complete work is kept.")
            os._exit(128 + number)
        if number in SIGNALS and not received:
            if not _deferring:
                timer = threading.Timer(GRACE, _end_now, [number])
                timer.daemon = True
                timer.start()
            elif number == signal.SIGINT:
                _write("Ctrl-C: saving after this step. Another one ends the command immediately.")
        received.append(number)


def _end_now(number: int) -> None:
    _tell(number)
    os._exit(128 + number)


def _tell(number: int) -> None:
    global _told
    if not _told:
        _told = 128 + number
        name = signal.Signals(number).name
        _write(f"Stopped by {name}. All complete work is kept; repeat the command for the rest.")


def _write(text: str) -> None:
    with contextlib.suppress(OSError):  # not print: the signal may have interrupted one
        os.write(2, f"{text}\n".encode())
