"""When a process that reads data ends: with its parent, and not on the parent's signals."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import wait

MOST_WORKERS, MOST_THREADS = 256, 1024  # a machine has no use for more
OFTEN = 0.5  # seconds between checks of the parent's process id


@contextlib.contextmanager
def without_signals() -> Iterator[None]:
    """Start threads and processes that Ctrl-C and SIGTERM do not reach.

    A terminal and Slurm send these to all processes of a command. The parent saves first, for which
    it may need batches, and then ends its readers.
    """
    resource_tracker.ensure_running()  # or the first process would, which unblocks the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(*_: int) -> None:
    """Make this process end within a second of its parent, even if the parent is killed.

    Call it in the child, as soon as it runs. A parent that is killed cannot close its readers, and
    they would wait for ever to hand over their next batch.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: multiprocessing.process.BaseProcess) -> None:
    # The pipe tells immediately, unless a process that the parent forked holds its other end.
    while os.getppid() == parent.pid and not wait([parent.sentinel], OFTEN):
        pass
    os._exit(1)
