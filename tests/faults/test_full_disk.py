"""A disk that fills up, at every kind of write: one sentence, and with room the command goes on."""

import os
import pathlib
import shutil
import subprocess

import pytest
from harness import TRAIN_ONLY, is_one_sentence
from remains import contents, differences, results, saved, tree

KB = 1024
SIZE = 16 * KB * KB
BALLAST = "ballast"


class Disk:
    """A small file system that is filled up until a given number of bytes is free."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def leave(self, free: int) -> None:
        state = os.statvfs(self.folder)
        count = state.f_bavail * state.f_frsize - free
        assert count >= 0
        with (self.folder / BALLAST).open("ab") as file:
            file.write(bytes(count))

    def make_room(self) -> None:
        (self.folder / BALLAST).unlink()


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    yield Disk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def start(lab, disk, workdir, *arguments, **options):
    """Start a command whose temporary files are on another disk."""
    elsewhere = disk.folder.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    return lab.start(workdir, *arguments, environment={"TMPDIR": str(elsewhere)}, **options)


def ends_well(command) -> str:
    assert command.wait() == 0, command.text()
    return command.text()


def full(command, disk, before=()) -> list[str]:
    """Return what is wrong with how a command ended on a full disk."""
    status, text = command.wait(), command.text()
    wrong = []
    if not status:
        wrong.append("status 0 on a full disk")
    elif not is_one_sentence(text):
        wrong.append("not one sentence")
    elif "space" not in text or not any(str(p) in text for p in (disk.folder, disk.folder.name)):
        wrong.append("a sentence that does not say where there is no space")
    lost = set(before) - set(contents(disk.folder))
    wrong += [f"lost: {sorted(lost)[:5]}"] if lost else []
    return [*wrong, text] if wrong else []


def size(workdir) -> int:
    """Return the bytes that a run takes, in blocks of 4 KB."""
    return sum(-(-p.stat().st_size // 4096) * 4096 for p in workdir.rglob("*") if p.is_file())


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit(lab, whole, disk):
    workdir = disk.folder / "run"
    one = size(whole / "checkpoints" / "12")
    disk.leave(int(2.5 * one))
    wrong = full(start(lab, disk, workdir, *TRAIN_ONLY), disk)
    assert not wrong, "\n".join(wrong)
    assert saved(workdir) and 12 not in saved(workdir)
    disk.make_room()
    text = ends_well(start(lab, disk, workdir, *TRAIN_ONLY))
    assert "Continue " in text
    found, want = results(workdir), results(whole)
    assert not differences(found, {name: want.get(name) for name in found})
    assert not [name for name in tree(workdir) if "tmp" in name or "partial" in name]


def levels(highest: int, count: int) -> list[int]:
    return [highest * i // count // 4096 * 4096 for i in range(count)]


@pytest.mark.slow
def test_every_write_of_a_run(lab, whole, disk):
    """Train, sample and score with less and less room, and then continue with enough."""
    wrong, workdir = [], disk.folder / "run"
    fits = size(whole)
    for free in levels(fits + size(whole / "checkpoints" / "12"), 16):
        disk.leave(free)
        command = start(lab, disk, workdir)
        if command.wait() == 0 and free >= fits - 16 * KB:
            problems = []  # it did fit
        else:
            problems = full(command, disk)
        disk.make_room()
        again = start(lab, disk, workdir)
        if again.wait():
            problems.append(f"with room, status {again.wait()}:\n{again.text()}")
        else:
            problems += differences(results(workdir), results(whole))
            problems += sorted(tree(workdir) ^ tree(whole))
        if problems:
            wrong.append(f"{free // KB} KB free: {problems}")
        shutil.rmtree(workdir)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    "removed",
    [
        ("samples",),
        ("samples", "classifier.npz", "real.npz", "scores.csv"),
        ("real.npz", "scores.csv"),
        ("scores.csv", "report.html", "report.json", "guidance.png"),
    ],
)
def test_every_write_of_sampling_and_scoring(lab, whole, disk, removed):
    """The run is trained already; parts of what follows are missing."""
    wrong, workdir = [], disk.folder / "run"
    for free in [4 * KB * i for i in (0, 1, 2, 3, 4, 6, 8, 12, 16, 24)]:
        lab.copy(whole, workdir)
        for name in removed:
            path = workdir / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        before = [name for name in contents(disk.folder) if "tensorboard" not in name]
        disk.leave(free)
        command = start(lab, disk, workdir)
        problems = full(command, disk, before) if command.wait() else []
        disk.make_room()
        again = start(lab, disk, workdir)
        if again.wait():
            problems.append(f"with room, status {again.wait()}:\n{again.text()}")
        else:
            missing = {"samples/step_0000006.png", "samples/step_0000012.png"}  # of training
            found, want = results(workdir), results(whole)
            problems += [n for n in differences(found, want) if n.split(" (")[0] not in missing]
            problems += sorted((tree(workdir) ^ tree(whole)) - missing)
        if problems:
            wrong.append(f"{free // KB} KB free: {problems}")
        shutil.rmtree(workdir)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 4 * KB, 100 * KB, 300 * KB, 600 * KB])
def test_a_data_set_that_does_not_fit(lab, whole, disk, tmp_path, free):
    """The digits are prepared at the first use."""
    data = disk.folder / "data"
    disk.leave(free)
    flags = (*TRAIN_ONLY, f"--config.data.data_dir={data}")
    wrong = full(start(lab, disk, tmp_path / "run", *flags), disk)
    assert not wrong, "\n".join(wrong)
    disk.make_room()
    ends_well(start(lab, disk, tmp_path / "run", *flags))
    assert not [path for path in data.rglob("*") if "incomplete" in path.name]


@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 4 * KB, 40 * KB])
def test_latents_that_do_not_fit(lab, disk, make_latents, free):
    disk.leave(free)
    wrong = full(make_latents(disk.folder / "data"), disk)
    assert not wrong, "\n".join(wrong)
    disk.make_room()
    ends_well(make_latents(disk.folder / "data"))
    assert not [path for path in disk.folder.rglob("*") if "incomplete" in path.name]


@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 4 * KB, 60 * KB, 200 * KB, 500 * KB, 1040 * KB])
def test_encoded_images_that_do_not_fit(disk, encode, free):
    elsewhere = {"TMPDIR": str(disk.folder.parent)}
    disk.leave(free)
    (command,) = encode(disk.folder / "data", environment=elsewhere)
    wrong = full(command, disk)
    assert not wrong, "\n".join(wrong)
    left = {p: p.stat().st_mtime_ns for p in disk.folder.rglob("made-train*")}
    disk.make_room()
    (command,) = encode(disk.folder / "data", environment=elsewhere)
    text = ends_well(command)
    assert not left or f"{len(left)} files are there already" in text
    names = {p.name: p.stat().st_mtime_ns for p in disk.folder.rglob("*") if p.is_file()}
    assert len([name for name in names if name.startswith("made-train")]) == 8
    assert all(names[path.name] == time for path, time in left.items())  # not written again
    assert not [name for name in names if "partial" in name]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("--mode=sweep", "--config.sweep.gamma_strong=(0.0,)", "--config.sweep.gamma_weak=(0.9,)",
         "--config.sweep.scale=(2.0,)", "--config.sweep.samples=40"),
        ("--mode=diversity", "--config.diversity.samples=40"),
        ("--mode=bench", "--config.bench.repeats=3"),
        ("--mode=sample", "--config.sample.guidance=cfg"),
    ],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_other_modes(lab, whole, disk, arguments):
    workdir = lab.copy(whole, disk.folder / "run")
    before = contents(workdir)
    for free in (0, 8 * KB):
        disk.leave(free)
        command = start(lab, disk, workdir, *arguments)
        wrong = full(command, disk) if free == 0 or command.wait() else []
        assert not wrong, "\n".join(wrong)
        disk.make_room()
    ends_well(start(lab, disk, workdir, *arguments))
    after = contents(workdir)
    assert not [name for name in before if "checkpoints" in name and before[name] != after[name]]
    assert not [name for name in tree(workdir) if "tmp" in name or "partial" in name]


@pytest.mark.slow
def test_a_comparison_that_does_not_fit(lab, whole, disk):
    command = ("--mode=compare", str(whole), f"--out={disk.folder / 'out'}")
    disk.leave(0)
    wrong = full(start(lab, disk, disk.folder / "none", *command, base=()), disk)
    assert not wrong, "\n".join(wrong)
    disk.make_room()
    ends_well(start(lab, disk, disk.folder / "none", *command, base=()))
