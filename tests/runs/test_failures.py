"""Errors of the system, however deep a library has wrapped them, become one sentence."""

import errno
import logging
import os
import sys
import threading

import pytest

from sg_jax.runs import failures


def raised(function):
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def from_cause(cause):
    def fail():
        raise RuntimeError("a library failed") from cause

    return raised(fail)


def while_cleaning_up(cause):
    def fail():
        try:
            raise cause
        finally:
            {}["missing"]

    return raised(fail)


def in_a_group(cause):
    return ExceptionGroup("tasks", [ValueError("other"), from_cause(cause)])


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/run/x.npz")
TENSORSTORE = ValueError(
    'RESOURCE_EXHAUSTED: Error writing local file "/disk/run/d/0": Failed writing: [OS error 28: '
    "ENOSPC No space left on device]"
)


@pytest.mark.parametrize("wrap", [lambda e: e, from_cause, while_cleaning_up, in_a_group])
@pytest.mark.parametrize(
    "error, words",
    [
        (FULL, ["/disk/run/x.npz: no space is left", "Free some"]),
        (TENSORSTORE, ["/disk/run/d/0: no space is left"]),
        (OSError(errno.ENOSPC, "No space left on device"), ["runs/a: no space is left"]),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ["quota"]),
        (OSError(errno.EROFS, "Read-only file system", "/x"), ["/x", "read-only"]),
        (OSError(errno.EMFILE, "Too many open files"), ["too many open files", "ulimit -n"]),
        (MemoryError(), ["This machine has run out of memory", "config.train.batch_size"]),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."),
            [
                "A device has run out of memory",
                "Out of memory allocating 8 bytes",
                "accumulate",
                "remat",
            ],
        ),
    ],
)
def test_the_cause_is_found_and_the_remedy_named(wrap, error, words):
    text = failures.explain(wrap(error), "runs/a")
    assert all(word in text for word in words), text
    assert "\n" not in text


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "/x"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"),
        IsADirectoryError(errno.EISDIR, "Is a directory", "/x"),
    ],
)
def test_rights_and_missing_files_are_the_cause_only_if_nothing_else_is(error):
    assert "/x" in failures.explain(error)
    assert "/x" in failures.explain(from_cause(error))
    assert failures.explain(while_cleaning_up(error)) == ""  # which may have been handled


def test_mistakes_of_the_program_are_not_explained():
    assert failures.explain(KeyError("x")) == failures.explain(from_cause(ValueError("y"))) == ""


def test_such_errors_in_threads_and_logs_print_nothing(monkeypatch, capsys, caplog):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    filters = {
        name: list(logging.getLogger(name).filters)
        for name in ("absl", "asyncio", "concurrent.futures")
    }

    def fail(error):
        def run():
            raise error

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        sys.excepthook(type(error), error, None)
        try:
            raise error
        except Exception:
            logging.getLogger("absl").exception("A thread failed.")

    try:
        failures.quiet()
        fail(FULL)
        fail(RuntimeError("Event loop is closed"))
        assert capsys.readouterr().err == "" and not caplog.records
        fail(KeyError("a mistake"))
        assert "a mistake" in capsys.readouterr().err and len(caplog.records) == 1
    finally:
        for name, before in filters.items():
            logging.getLogger(name).filters[:] = before
