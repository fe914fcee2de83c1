"""Real processes on this machine, as on several hosts, and what they leave in a run's folder."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import compiling
import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
    "--config=configs/digits.py", "--config.data.split=train[:100]",
    "--config.data.test_split=test[:40]", "--config.model.depth=1", "--config.model.width=16",
    "--config.model.heads=2", "--config.model.patch=2", "--config.model.routes=((0,0),)",
    "--config.optimizer.warmup=0", "--config.train.batch_size=8", "--config.train.log_every=1",
    "--config.train.sample_every=0", "--config.train.then=()", "--config.checkpoint.every=4",
    "--config.checkpoint.keep=9", "--config.sample.steps=2", "--config.sample.count=20",
    "--config.sample.batch_size=16", "--config.evaluate.samples=40",
    "--config.evaluate.guidance=unguided,sg",
)  # fmt: skip
FSDP = ("--config.mesh.data=1", "--config.mesh.fsdp=4")
STEPS = ("--config.train.steps=8",)


class Group:
    """Processes of one run: `number` of them with `devices` devices each, or of other `code`."""

    def __init__(self, base, workdir, *arguments, number=1, devices=1, code=""):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        given = (*TINY, f"--config.data.data_dir={base / 'data'}", f"--workdir={workdir}")
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(base / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {compiling.FAST}",
        }
        self.logs = [base / f"{workdir.name}.{time.monotonic_ns()}.{i}" for i in range(number)]
        self.processes = []
        for i, log in enumerate(self.logs):
            if number > 1:
                environment |= {
                    "JAX_COORDINATOR_ADDRESS": address,
                    "JAX_NUM_PROCESSES": str(number),
                    "JAX_PROCESS_ID": str(i),
                }
            with log.open("w") as file:  # not a pipe, which a long run would fill
                main = ["-c", code] if code else ["-m", "sg_jax.main"]
                command = [sys.executable, *main, *given, *arguments]
                self.processes.append(
                    subprocess.Popen(
                        command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
                    )
                )

    def text(self, i=0):
        return self.logs[i].read_text()

    def wait_for(self, words, timeout=200):
        """Wait until process 0 has printed `words`."""
        until = time.monotonic() + timeout
        while words not in self.text():
            assert self.processes[0].poll() is None and time.monotonic() < until, self.text()
            time.sleep(0.1)

    def end(self, timeout=300):
        """Return the exit statuses; nothing is left running."""
        try:
            return [process.wait(timeout) for process in self.processes]
        finally:
            self.kill()

    def kill(self):
        for process in self.processes:
            process.kill()


def losses(workdir):
    records = list(map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()))
    found = {r["step"]: r["loss"] for r in records}
    assert list(found) == [r["step"] for r in records]  # each written once, by one process
    return found


def assert_same_losses(workdir, expected):
    """Compare steps 1 to 8: also the batches are the same, as two of them differ by far more."""
    found, expected = losses(workdir), losses(expected)
    steps = range(1, 9)
    assert np.abs(np.diff([expected[s] for s in steps])).min() > 1e-3
    np.testing.assert_allclose([found[s] for s in steps], [expected[s] for s in steps], rtol=2e-5)


def saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
