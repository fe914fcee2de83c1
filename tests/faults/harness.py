"""Starts the commands of tiny runs for the tests of this folder.

A run is started by its command and looked at through its log, its files and /proc, as a user
would. Most commands are forked from a process that has imported everything (`server.py`), which
saves three seconds each; a test that is about the start gives `fork=False`.
"""

import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import compiling
from process_table import processes, session

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
# Digits of 8x8 pixels, 2 blocks of width 16, and 12 steps saved three times.
TINY = (
    "--config=configs/digits.py", "--config.data.split=train[:100]",
    "--config.data.test_split=test[:40]", "--config.model.depth=2", "--config.model.width=16",
    "--config.model.heads=2", "--config.model.patch=2", "--config.model.routes=((0,0),)",
    "--config.optimizer.warmup=0", "--config.train.batch_size=8", "--config.train.log_every=1",
    "--config.train.sample_every=6", "--config.train.steps=12", "--config.checkpoint.every=4",
    "--config.checkpoint.keep=2", "--config.sample.steps=2", "--config.sample.count=20",
    "--config.sample.batch_size=16", "--config.evaluate.samples=40",
    "--config.evaluate.guidance=unguided,sg", "--config.features.epochs=2",
    "--config.features.width=8",
)  # fmt: skip
NO_PICTURES = ("--config.train.sample_every=0",)
TRAIN_ONLY = (*NO_PICTURES, "--config.train.then=()")
PATIENCE = 600  # seconds that a tiny command may take on a busy machine


class Command:
    """A process of its own session; what it prints goes to a file."""

    def __init__(self, pid: int, log: pathlib.Path, ended: Callable[[float], int | None]):
        self.pid, self.log, self._ended, self.status = pid, log, ended, None

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def poll(self, timeout: float = 0) -> int | None:
        """Return the exit status once there is one; minus the signal's number if killed."""
        if self.status is None:
            self.status = self._ended(timeout)
        return self.status

    def wait(self, timeout: float = PATIENCE) -> int:
        status = self.poll(timeout)
        if status is None:
            self.send(signal.SIGKILL)
            raise AssertionError(f"still running after {timeout} s:\n{self.text()}")
        return status

    def send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def until(self, seen: Callable[[], Any], timeout: float = PATIENCE) -> bool:
        """Wait until `seen()`; return whether it came before the process ended."""
        end = time.monotonic() + timeout
        while not seen():
            if self.poll() is not None:
                return bool(seen())
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise AssertionError(f"not seen within {timeout} s:\n{self.text()}")
            time.sleep(0.003)
        return True

    def says(self, words: str, timeout: float = PATIENCE) -> bool:
        return self.until(lambda: words in self.text(), timeout)

    def left(self) -> list[int]:
        """Return the processes of its session that still run."""
        return [pid for pid in processes() if session(pid) == self.pid]


class Server:
    """Starts commands; see `server.py`."""

    def __init__(self, environment: dict[str, str]):
        self.process = subprocess.Popen(
            [sys.executable, HERE / "server.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment, cwd=ROOT,
        )  # fmt: skip
        self.requests, self.news, self.running = 0, threading.Condition(), True
        self.started: dict[int, int] = {}
        self.ended: dict[int, int] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            message = json.loads(line)
            with self.news:
                if "started" in message:
                    self.started[message["id"]] = message["started"]
                elif "status" in message:
                    self.ended[message["pid"]] = message["status"]
                self.news.notify_all()
        with self.news:
            self.running = False
            self.news.notify_all()

    def start(self, log: pathlib.Path, **request) -> Command:
        assert self.process.stdin
        self.requests += 1
        request |= {"id": self.requests, "log": str(log)}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        with self.news:
            self.news.wait_for(lambda: request["id"] in self.started or not self.running, PATIENCE)
            assert request["id"] in self.started, "server.py does not start commands"
            pid = self.started.pop(request["id"])
            self.ended.pop(pid, None)  # of an earlier process with this number

        def ended(timeout):
            with self.news:
                self.news.wait_for(lambda: pid in self.ended, timeout)
                return self.ended.get(pid)

        return Command(pid, log, ended)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)


class Lab:
    """A folder with a data set and compiled programs, in which commands are started."""

    def __init__(self, base: pathlib.Path):
        self.base = base
        self.data, self.programs = base / "data", base / "programs"
        self.environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
            "PYTHONPATH": str(HERE),
        }
        self.server: Server | None = None
        self.commands: list[Command] = []

    def start(
        self,
        workdir: pathlib.Path,
        *arguments: str,
        fork: bool = True,
        devices: int = 1,
        module: str = "sg_jax.main",
        base: Sequence[str] = TINY,
        descriptors: int = 0,
        user: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> Command:
        """Start a command of the run in `workdir`, the tiny one changed by `arguments`.

        `descriptors` limits its open files, and `user` is the number of the user that runs it.
        """
        log = self.base / "logs" / f"{workdir.name}.{len(self.commands)}.{os.getpid()}"
        log.parent.mkdir(exist_ok=True)
        log.touch()
        log.chmod(0o666)
        given = [*base, f"--config.data.data_dir={self.data}"] if base else []
        given += [*([f"--workdir={workdir}"] if base else []), *arguments]
        temporary = workdir.parent / "temporary"
        temporary.mkdir(parents=True, exist_ok=True)
        changes = {
            "TMPDIR": str(temporary),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {compiling.FAST}",
            **(environment or {}),
        }
        if fork:
            self.server = self.server or Server(self.environment)
            command = self.server.start(
                log, module=module, arguments=given, environment=changes, folder=str(ROOT),
                descriptors=descriptors, user=user,
            )  # fmt: skip
        else:
            assert user is None

            def limit():
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

            with log.open("w") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", module, *given], cwd=ROOT, stdout=output,
                    stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
                    env=self.environment | changes, preexec_fn=limit if descriptors else None,
                )  # fmt: skip

            def ended(timeout):
                try:
                    return process.wait(timeout)
                except subprocess.TimeoutExpired:
                    return None

            command = Command(process.pid, log, ended)
        self.commands.append(command)
        return command

    def start_group(self, workdir: pathlib.Path, *arguments: str, number: int, **options):
        """Start the processes of one run, as on several hosts."""
        if number == 1:
            return [self.start(workdir, *arguments, **options)]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        known = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(number)}
        return [
            self.start(
                workdir, *arguments, environment=known | {"JAX_PROCESS_ID": str(i)}, **options
            )
            for i in range(number)
        ]

    def run(self, workdir: pathlib.Path, *arguments: str, **options) -> str:
        """Run a command to its good end; return what it printed."""
        command = self.start(workdir, *arguments, **options)
        assert command.wait() == 0, command.text()
        return command.text()

    def copy(self, run: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
        return pathlib.Path(shutil.copytree(run, to, symlinks=True))

    def close(self) -> None:
        for command in self.commands:
            command.send(signal.SIGKILL)
            for pid in command.left():
                os.kill(pid, signal.SIGKILL)
        if self.server:
            self.server.close()


def is_one_sentence(text: str) -> bool:
    """Whether a command ended with one `Error: ...` line and no traceback."""
    lines = [line for line in text.splitlines() if "Error: " in line and "Warning: " not in line]
    return len(lines) == 1 and lines[0].startswith("Error: ") and "Traceback" not in text


def open_folder() -> Iterator[pathlib.Path]:
    """Yield a temporary folder that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="sg_jax_faults_") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        yield folder
