"""Import and export, killed or on a full disk: all is there, or nothing. And damaged weights."""

import pathlib
import random
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest
import random_weights
from damages import DAMAGE
from harness import is_one_sentence
from remains import contents
from test_full_disk import disk, levels, size  # noqa: F401  (a fixture)

import sg_jax
from sg_jax.models.dit import DiT
from sg_jax.weights import convert

SIZES = dict(image_size=8, channels=4, num_classes=5, patch=2, width=64, depth=3, heads=4)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of TREAD's weights, of 600 KB."""
    network = random_weights.network(lambda rngs: DiT(**SIZES, rngs=rngs), 1.0)
    path = tmp_path_factory.mktemp("published") / "tread.npz"
    np.savez(path, **convert.to_state_dict(network, "tread"))
    return path


def importing(file, folder):
    return ("--mode=import", f"--from={file}", "--family=tread", f"--workdir={folder}")


def exporting(run, target):
    return ("--mode=export", f"--workdir={run}", f"--to={target}")


@pytest.fixture(scope="module")
def run(lab, file, tmp_path_factory):
    """An imported run. Do not write there."""
    folder = tmp_path_factory.mktemp("imported") / "run"
    command = lab.start(folder, *importing(file, folder), base=())
    assert command.wait() == 0, command.text()
    return folder


def cases(file, run, folder):
    """What is made, and the command that makes it."""
    return {
        folder / "run": importing(file, folder / "run"),
        folder / "exported": exporting(run, folder / "exported"),
        folder / "exported.safetensors": exporting(run, folder / "exported.safetensors"),
    }


def rest(folder, target):
    return sorted(p.name for p in folder.iterdir() if p.name not in (target.name, "temporary"))


@pytest.mark.slow
def test_killed_at_random_moments(lab, file, run, tmp_path):
    rng, killed, wrong = random.Random(0), 0, []
    for number, (target, command) in enumerate(cases(file, run, tmp_path).items()):
        began = time.monotonic()
        assert lab.start(target, *command, base=()).wait() == 0
        takes = time.monotonic() - began
        sg_jax.load(target)
        for _ in range(8):
            shutil.rmtree(target) if target.is_dir() else target.unlink()
            running = lab.start(target, *command, base=())
            time.sleep(rng.uniform(0.3, 1.0) * takes)
            running.send(signal.SIGKILL)
            killed += running.wait() != 0
            if target.exists():
                sg_jax.load(target)  # raises if only a part is there
            else:
                time.sleep(1.1)  # what is left is a second old before it is taken for left
                assert lab.start(target, *command, base=()).wait() == 0
                sg_jax.load(target)
            left = rest(tmp_path, target)
            wrong += [f"{number}: {left}"] if target.suffix == "" and len(left) > number else []
    assert killed > 8 and not wrong, wrong


@pytest.mark.slow
def test_a_full_disk(lab, file, run, disk):  # noqa: F811
    elsewhere = disk.folder.parent / "elsewhere"
    elsewhere.mkdir()
    for target, command in cases(file, run, disk.folder).items():
        largest = 3 * size(run)
        ended = []
        for free in levels(largest, 6):
            disk.leave(free)
            done = lab.start(
                elsewhere / "x", *command, base=(), environment={"TMPDIR": str(elsewhere)}
            )
            ended.append(done.wait())
            if ended[-1]:
                assert is_one_sentence(done.text()) and "space" in done.text(), done.text()
                assert not rest(disk.folder, disk.folder / "ballast"), "something is left"
            else:
                sg_jax.load(target)
                shutil.rmtree(target) if target.is_dir() else target.unlink()
            disk.make_room()
        assert any(ended) and not all(ended)


# Damaged files.


@pytest.fixture(scope="module")
def written(lab, run, encode, once, tmp_path_factory):
    """A folder with an exported run, the same in files and for diffusers, and encoded images."""
    folder = tmp_path_factory.mktemp("written")
    for command in (
        exporting(run, folder / "exported"),
        exporting(run, folder / "exported.safetensors"),
        exporting(run, folder / "exported.npz"),
        (*exporting(run, folder / "diffusers"), "--family=diffusers_dit"),
    ):
        lab.run(folder / "x", *command, base=())
    for command in encode(folder / "data"):
        assert command.wait() == 0, command.text()
    return folder


def reading(folder, target):
    """The command that reads what `written` has, and what it makes."""
    made = folder / "made"
    if target == "data":
        return ("--mode=latents", "--check", f"--to={folder / 'data'}", "--name=made"), None
    if target == "exported":
        return ("--mode=sample", f"--workdir={folder / target}"), folder / target / "samples"
    return ("--mode=import", f"--from={folder / target}", f"--workdir={made}"), made


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "target", ["exported", "exported.safetensors", "exported.npz", "diffusers", "data"]
)
def test_every_file_in_turn(lab, written, tmp_path, target, damage):
    """The result of before, or one sentence that names the file; nothing is changed."""

    def result(made):
        if made is None:
            return []
        if made.name == "samples":
            (path,) = made.glob("*.npz")
            return [(name, array.tobytes()) for name, array in np.load(path).items()]
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(sg_jax.load(made))]

    def copy():
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        source = written / target
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / target)
        return folder

    folder = copy()
    command, made = reading(folder, target)
    lab.run(folder / "x", *command, base=())
    want, wrong, root = result(made), [], written / target
    files = sorted(p.relative_to(written) for p in root.rglob("*") if p.is_file()) or [target]
    files = [file for file in files if (written / file).stat().st_size]
    for file in files:
        for seed in range(4 if damage == "one bit flipped" else 1):
            folder = copy()
            DAMAGE[damage](folder / file, random.Random(f"{seed} {file}"))
            before = contents(folder)
            running = lab.start(folder / "x", *command, base=())
            status, text, problems = running.wait(), running.text(), []
            checkpoint = re.search(r"checkpoints/\d+", str(file))
            named = [pathlib.Path(file).name, *([checkpoint[0]] if checkpoint else [])]
            # Small files describe a data set; that they do not fit may be the fault of either.
            named += ["/made"] if target == "data" and named[0].endswith(".json") else []
            if status and not (is_one_sentence(text) and any(name in text for name in named)):
                problems.append("not one sentence that names it")
            if not status and result(made) != want:
                problems.append("another result")
            after = contents(folder)
            if changed := [name for name in before if before[name] != after.get(name)]:
                problems.append(f"changed: {changed[:5]}")
            if status and made is not None and made.exists():
                problems.append("something was made")
            if problems:
                wrong.append(f"{file}, {seed}: {'; '.join(problems)}\n{text}")
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong)
