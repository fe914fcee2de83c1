"""Call a function once for each of many files, in several processes as soon as it takes long."""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

A = TypeVar("A")
R = TypeVar("R")

ALONE = 5.0  # seconds of work before processes are considered
WORTH = 20.0  # seconds of work left for which they are started: each imports for a second or two
MOST = 32  # processes
AHEAD = 64  # results of a process that may wait for their turn
_BEGIN = "from sg_jax.data import pool; pool.serve()"


@contextlib.contextmanager
def mapped(function: Callable[[A], R], arguments: Sequence[A]) -> Iterator[Iterator[R]]:
    """Yield an iterator of the results, in the order of the arguments.

    Processes are programs of their own. Those of `multiprocessing` would run the user's script
    anew, which does harm unless it guards its main part. None outlives the context.

    Args:
      function: a function of a module, without effects: a call that fails in a process is made
        again in this one, which raises its error.
      arguments: they must be picklable, like the results.
    """
    with contextlib.ExitStack() as stack:
        yield _results(function, arguments, stack)


def _results(
    function: Callable[[A], R], arguments: Sequence[A], stack: contextlib.ExitStack
) -> Iterator[R]:
    began = time.perf_counter()
    for done, argument in enumerate(arguments):
        spent, left = time.perf_counter() - began, len(arguments) - done
        count = min(_cores(), MOST, left)
        if done and count > 1 and spent > ALONE and spent / done * left > WORTH:
            yield from _together(function, arguments[done:], count, stack)
            return
        yield function(argument)


def _cores() -> int:
    """Return how many cores this process may use."""
    can_tell = hasattr(os, "sched_getaffinity")  # on Linux
    return len(os.sched_getaffinity(0)) if can_tell else os.cpu_count() or 1


def _together(
    function: Callable[[A], R], arguments: Sequence[A], count: int, stack: contextlib.ExitStack
) -> Iterator[R]:
    free: queue.SimpleQueue[_Process] = queue.SimpleQueue()
    for _ in range(count):
        free.put(stack.enter_context(_Process()))

    def ask(argument: A) -> R:
        process = free.get()  # there are as many as threads
        try:
            return process.ask(function, argument)
        finally:
            free.put(process)

    threads = ThreadPoolExecutor(count)
    # The context ends with this, and then ends the processes.
    stack.callback(threads.shutdown, wait=False, cancel_futures=True)
    step = AHEAD * count
    for first in range(0, len(arguments), step):
        yield from threads.map(ask, arguments[first : first + step])


class _Process:
    """A process that calls functions. It ends with the context, or when this process does."""

    def __enter__(self) -> "_Process":
        seen = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        # The processes compute nothing on chips, and only one process can have a TPU.
        environment = {**os.environ, "PYTHONPATH": seen, "JAX_PLATFORMS": "cpu"}
        self.child = subprocess.Popen(
            [sys.executable, "-P", "-c", _BEGIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self.ended = False
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True
        self.child.kill()
        self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            with contextlib.suppress(OSError):  # what was not sent yet
                pipe.close()  # type: ignore[union-attr]

    def ask(self, function: Callable[[A], R], argument: A) -> R:
        """Return the result of a call, made in this process if that one fails or is gone."""
        found: tuple[R] | None = None
        try:
            self.child.stdin.write(pickle.dumps((function, argument)))  # type: ignore[union-attr]
            self.child.stdin.flush()  # type: ignore[union-attr]
            found = pickle.load(self.child.stdout)  # type: ignore[arg-type]
        except (OSError, ValueError, EOFError, pickle.UnpicklingError):
            if self.ended:
                raise
        return found[0] if found else function(argument)


def serve() -> None:
    """Answer what `_Process` asks, as long as it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this
    answers, sys.stdout = sys.stdout.buffer, open(os.devnull, "w")
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            function, argument = pickle.load(sys.stdin.buffer)
            answer: tuple[Any] | None
            try:
                answer = (function(argument),)
            except Exception:
                answer = None
            pickle.dump(answer, answers)
            answers.flush()
