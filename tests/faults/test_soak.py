"""A long training holds what a short one holds: files, threads, memory, time per step."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import time

import matplotlib
import numpy as np
import pytest
from harness import HERE, TRAIN_ONLY, Command
from process_table import descriptors, memory, threads
from remains import saved

matplotlib.use("Agg")
TICK = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a process holds at some time."""

    time: float  # seconds
    step: int
    descriptors: int
    threads: int
    memory: float  # MB
    temporary: int  # files and folders in its folder for temporary files
    cpu: float  # seconds


def read(command: Command, temporary: pathlib.Path) -> Reading:
    with command.log.open("rb") as file:
        file.seek(max(0, command.log.stat().st_size - 2000))
        steps = re.findall(rb"step +([\d,]+)/", file.read())
    fields = pathlib.Path(f"/proc/{command.pid}/stat").read_text().rpartition(")")[2].split()
    return Reading(
        time.monotonic(),
        int(steps[-1].replace(b",", b"")) if steps else 0,
        descriptors(command.pid),
        threads(command.pid),
        memory(command.pid),
        sum(1 for _ in temporary.rglob("*")),
        (int(fields[11]) + int(fields[12])) / TICK,
    )


def watch(command: Command, temporary: pathlib.Path, every: float) -> list[Reading]:
    """Read what a process holds until it ends."""
    found = []
    while command.poll(every) is None:
        try:
            found.append(read(command, temporary))
        except (FileNotFoundError, ProcessLookupError):
            break  # it has just ended
    assert command.wait() == 0, command.text()[-3000:]
    return found


def growth(readings: list[Reading], name: str) -> float:
    """Return how much more the highest value of the last third is than that of the middle one."""
    third = len(readings) // 3
    middle, last = readings[third : 2 * third], readings[2 * third :]
    return max(getattr(r, name) for r in last) - max(getattr(r, name) for r in middle)


@pytest.mark.slow
def test_sixty_saves_with_few_descriptors(lab, whole, tmp_path):
    """A run that leaked one file in a save would grow by 20 from one third to the next."""
    flags = ("--config.train.steps=60", "--config.checkpoint.every=1")
    command = lab.start(tmp_path / "run", *TRAIN_ONLY, *flags, descriptors=128)
    readings = [r for r in watch(command, tmp_path / "temporary", 0.1) if r.step]
    assert saved(tmp_path / "run") == [59, 60]
    assert max(r.descriptors for r in readings) < 100
    assert growth(readings, "descriptors") <= 6 and growth(readings, "threads") <= 6


@pytest.mark.slow
def test_twenty_thousand_steps(lab, tmp_path):
    """400 saves and 400 pictures in one process; draws soak.png."""
    flags = (
        "--config.train.steps=20000", "--config.checkpoint.every=50",
        "--config.checkpoint.keep_period=0",
        "--config.train.sample_every=50", "--config.train.log_every=10",
        "--config.train.then=evaluate",
    )  # fmt: skip
    command = lab.start(tmp_path / "run", *flags)
    readings = [r for r in watch(command, tmp_path / "temporary", 1) if 0 < r.step < 20000]
    warm = [r for r in readings if r.step > 2000]
    cpu = per_thousand(warm)
    lost = lost_by_orbax(tmp_path / "run" / "checkpoints" / "20000", tmp_path / "alone")
    lost_in_a_third = lost * 120  # 18,000 warm steps hold 360 saves
    plot(readings, HERE / "soak.png")
    print(
        f"{len(readings)} readings; growth from the middle third to the last: "
        f"descriptors {growth(warm, 'descriptors')}, threads {growth(warm, 'threads')}, "
        f"memory {growth(warm, 'memory'):.1f} of {warm[-1].memory:.0f} MB, of which the library "
        f"behind checkpoints alone loses {lost_in_a_third:.1f}; temporary files at most "
        f"{max(r.temporary for r in warm)}; CPU seconds per 1,000 steps {np.round(cpu, 2)}"
    )
    assert saved(tmp_path / "run") == [19950, 20000]
    assert growth(warm, "descriptors") <= 6 and growth(warm, "threads") <= 6
    assert growth(warm, "memory") - lost_in_a_third < 0.05 * warm[-1].memory
    assert warm[-1].temporary == warm[0].temporary == 0
    assert np.median(cpu[-4:]) < 1.15 * np.median(cpu[:4])


ALONE = """
import re, shutil, sys
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

def memory():
    text = open("/proc/self/status").read()
    return sum(int(re.search(k + r":\\s+(\\d+)", text)[1]) for k in ("RssAnon", "VmSwap")) / 1e3

stored, folder = sys.argv[1:]
parts = {}
for part in ("model", "ema", "opt_state"):
    found = ocp.metadata(stored, part).metadata
    parts[part] = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in found.items()}
for save in range(1, 201):
    ocp.save_checkpointables(f"{folder}/{save}", parts)
    shutil.rmtree(f"{folder}/{save - 1}", ignore_errors=True)
    if save == 50:
        before = memory()
print((memory() - before) / 150)
"""


def lost_by_orbax(checkpoint: pathlib.Path, folder: pathlib.Path) -> float:
    """Return the MB that a process loses in each save by Orbax alone, of the same arrays.

    TensorStore loses what describes an array whenever Orbax asks for it as JSON (measured with
    versions 0.1.74 to 0.1.86): `spec.to_json()` in a loop shows it. It does not grow with the
    arrays' sizes.
    """
    script = [sys.executable, "-c", ALONE, str(checkpoint), str(folder)]
    found = subprocess.run(script, capture_output=True, text=True, check=True)
    return float(found.stdout)


def per_thousand(readings: list[Reading]) -> np.ndarray:
    """Return the CPU seconds of each 1,000 steps: a clock would show what else runs here."""
    steps = np.array([r.step for r in readings])
    marks = np.arange(steps[0], steps[-1], 1000)
    return np.diff(np.interp(marks, steps, [r.cpu for r in readings]))


def plot(readings: list[Reading], path: pathlib.Path) -> None:
    import matplotlib.pyplot as plt

    steps = [r.step for r in readings]
    figure, axes = plt.subplots(5, 1, figsize=(7, 8), sharex=True)
    names = ("descriptors", "threads", "memory", "temporary")
    for axis, name in zip(axes, names, strict=False):
        axis.plot(steps, [getattr(r, name) for r in readings], linewidth=0.8)
        axis.set_ylabel(name + (", MB" if name == "memory" else ""))
        axis.set_ylim(bottom=0)
    cpu = per_thousand(readings)
    axes[-1].plot(steps[0] + 1000 * np.arange(1, len(cpu) + 1), cpu, marker=".", linewidth=0.8)
    axes[-1].set(ylabel="CPU s per 1,000", ylim=(0, None), xlabel="training step")
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    plt.close(figure)
