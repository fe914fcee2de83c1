"""A run that continues on another machine: the same batches, and losses to a millionth."""

import itertools
import signal

import numpy as np
import pytest
from harness import TRAIN_ONLY
from remains import losses, results, saved

# So few steps at this rate let rounding grow little; another batch changes a loss by 0.1.
GENTLE = (*TRAIN_ONLY, "--config.optimizer.learning_rate=1e-4", "--config.checkpoint.keep=9")
EXACT = 1e-6


@pytest.fixture(scope="session")
def alone(lab, once):
    """The gentle run by one process with one device, uninterrupted."""
    return once("alone", lambda folder: lab.run(folder, *GENTLE))


def part(lab, workdir, until: int | None, *arguments, number: int, devices: int = 1) -> None:
    """Run processes until a checkpoint is complete, then kill them; without one, to the end."""
    group = lab.start_group(workdir, *GENTLE, *arguments, number=number, devices=devices)
    if until:
        assert group[0].until(lambda: until in saved(workdir)), group[0].text()
        for command in group:
            command.send(signal.SIGKILL)
        statuses = [command.wait() for command in group]
        assert statuses == [-signal.SIGKILL] * number, "ended before it was killed"
    else:
        assert [command.wait() for command in group] == [0] * number, group[0].text()


def same_losses(workdir, alone) -> float:
    """Return the largest difference between the losses of two runs, of 12 steps each."""
    found, want = losses(workdir), losses(alone)
    assert len(found) == len(want) == 12
    return float(np.abs(found - want).max())


@pytest.mark.slow
def test_losses_tell_batches_apart(alone):
    assert np.abs(np.diff(losses(alone))).min() > 1e3 * EXACT


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers, devices, arguments",
    [
        ((4, 1, 2), (1, 1, 1), ()),
        ((1, 4, 1), (1, 1, 4), ()),
        ((1, 1), (8, 2), ()),
        ((1, 1), (2, 8), ()),
        ((1, 1), (8, 2), ("--config.mesh.data=1", "--config.mesh.fsdp=-1")),
        ((2, 1, 2), (2, 2, 1), ("--config.mesh.data=1", "--config.mesh.fsdp=-1")),
    ],
)
def test_other_processes_and_devices(lab, alone, tmp_path, numbers, devices, arguments):
    workdir = tmp_path / "run"
    untils = (4, 8)[: len(numbers) - 1]
    for number, count, until in itertools.zip_longest(numbers, devices, untils):
        part(lab, workdir, until, *arguments, number=number, devices=count)
    difference = same_losses(workdir, alone)
    print(f"processes {numbers}, devices {devices}, {arguments}: {difference:.1e}")
    assert difference < EXACT


@pytest.mark.slow
def test_other_readers_change_no_bit(lab, alone, tmp_path):
    workdir = tmp_path / "run"
    settings = (("workers=2", "threads=4"), ("workers=0", "threads=0"), ("workers=1", "threads=1"))
    for (workers, threads), until in zip(settings, (4, 8, None), strict=True):
        flags = (f"--config.data.{workers}", f"--config.data.{threads}")
        part(lab, workdir, until, *flags, number=1)
    assert same_losses(workdir, alone) == 0
    found, want = results(workdir), results(alone)
    last = [name for name in want if name.startswith("checkpoints/12/")]
    assert last and all(np.array_equal(found[name], want[name]) for name in last)
