"""What a process that reads data does besides reading: it ends when its parent has ended."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait

OFTEN = 0.5  # seconds between two looks at the parent's number


def end_with_parent(*_: int) -> None:
    """Let this process end within a second of its parent, even if that is killed.

    Call it in the child, as soon as it runs. A parent that is killed cannot close its readers, and
    they would wait for ever to hand over their next batch.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: multiprocessing.process.BaseProcess) -> None:
    # The pipe tells at once. It does not if a process that the parent forked holds its other end.
    while os.getppid() == parent.pid and not wait([parent.sentinel], OFTEN):
        pass
    os._exit(1)
