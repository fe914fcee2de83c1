"""Start commands by forking a process that has imported everything, which saves each the imports.

Reads requests from standard input, a JSON object per line, and writes the pid of each command and
later its status. A command runs `python -m MODULE` as a session of its own, so that whatever it
starts can be found. No JAX backend exists before the fork.
"""

import importlib
import json
import os
import pathlib
import pkgutil
import resource
import runpy
import select
import signal
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]


def load() -> None:
    """Import what a command would: all of sg_jax but its main file, and what it imports late."""
    import sg_jax

    for module in pkgutil.walk_packages(sg_jax.__path__, "sg_jax."):
        if module.name != "sg_jax.main":
            importlib.import_module(module.name)
    for name in ("matplotlib.pyplot", "orbax.checkpoint", "grain.python"):
        importlib.import_module(name)


def say(**message) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def serve() -> dict:
    """Answer requests until there are no more; in a command's process, return its request."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    say(ready=True)
    waiting = b""
    while True:
        readable, _, _ = select.select([0, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    break
                if not pid:
                    break
                say(pid=pid, status=os.waitstatus_to_exitcode(status))
        if 0 in readable:
            found = os.read(0, 1 << 16)
            if not found:
                sys.exit()
            *lines, waiting = (waiting + found).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid = os.fork()
                if not pid:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.close(woken)
                    os.close(wake)
                    return request
                say(id=request["id"], started=pid)


def become(request: dict) -> None:
    """Take the command's environment, limits, output and user."""
    os.setsid()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # or else as at the imports
    os.chdir(request["folder"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, 1024)
    if request["descriptors"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (request["descriptors"],) * 2)
    if request["user"] is not None:
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    load()
    request = serve()
    become(request)
    sys.argv = [request["module"], *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
