"""Files that are damaged: the next command has the right result, or names the file in a sentence.

Each file of a run and of a data set in turn is truncated, has one bit flipped, is deleted, is
replaced by another kind of file, or may not be written. A command never ends in a traceback, never
goes on with other numbers, and deletes nothing.
"""

import dataclasses
import os
import pathlib
import random
import re
import shutil

import numpy as np
import pytest
from damages import DAMAGE, flip, replace, truncate
from harness import NO_PICTURES, Command, is_one_sentence, open_folder
from remains import contents, differences, results, saved

NOBODY = 65534
LATEST = "checkpoints/8"
# Commands after the damage, by name. Each is one of a run that was trained for 8 steps.
COMMANDS = {
    "train on": (),  # to step 12, then sample and evaluate
    "sample": ("--mode=sample", "--config.train.steps=8"),
    "evaluate": ("--mode=evaluate", "--config.train.steps=8", "--config.evaluate.guidance=sg,cfg"),
}
# What a command adds to or writes anew, also if it ends with an error later.
REWRITTEN = (
    r"config\.json|metrics\.jsonl|loss\.png|report\..*|guidance\.png|scores\.csv|samples/[^/]*"
    r"|samples/.*\.png|classifier\.npz|real\.npz|tensorboard/.*"
)


@pytest.fixture(scope="session")
def half(lab, once):
    """The tiny run after 8 of its 12 steps, with checkpoints 4 and 8, samples and scores."""
    return once("half", lambda folder: lab.run(folder, "--config.train.steps=8"))


@dataclasses.dataclass
class Expected:
    """The results of a command on an undamaged run, and if only checkpoint 4 is left."""

    latest: dict
    before: dict


@pytest.fixture(scope="session")
def expected(lab, once, half):
    """Command's name -> `Expected`."""

    def one(name):
        def fill(folder):
            for step in (4, 8):
                workdir = lab.copy(half, folder / f"from {step}")
                if step == 4:
                    shutil.rmtree(workdir / "checkpoints" / "8")
                lab.run(workdir, *COMMANDS[name])

        folder = once(f"after {name}", fill)
        if name not in found:
            found[name] = Expected(results(folder / "from 8"), results(folder / "from 4"))
        return found[name]

    found: dict[str, Expected] = {}
    return one


def files_of(workdir: pathlib.Path) -> list[str]:
    """Return the files of a run: of checkpoints, those of the latest; of many images, the first."""
    names = sorted(str(p.relative_to(workdir)) for p in workdir.rglob("*") if p.is_file())
    names = [n for n in names if not re.search(r"/0000(?!00)\d\d\.png$", n)]
    latest = f"checkpoints/{saved(workdir)[-1]}/"
    return [n for n in names if n.startswith(latest) or not n.startswith("checkpoints/")]


def is_named(file: str, text: str) -> bool:
    """Whether a message names a file, or the checkpoint that it is of."""
    folder = re.match(r"checkpoints/\d+", file)
    return pathlib.Path(file).name in text or bool(folder and folder[0] in text)


def faults(command: Command, workdir, file, before: dict, want: Expected) -> list[str]:
    """Return what is wrong with how a command ended in a run with this damaged file."""
    status, text = command.wait(), command.text()
    after = contents(workdir)
    wrong = ["a traceback"] if "Traceback" in text else []
    if status:
        if not is_one_sentence(text):
            wrong.append("not one sentence")
        elif not is_named(file, text):
            wrong.append("a sentence that does not name the file")
        if before.get(file) != after.get(file):
            wrong.append("an error, but the file was changed")
    else:
        fell_back = LATEST in file and is_named(file, text)
        differs = differing(workdir, file, before, want.latest)
        if differs and fell_back:
            differs = differing(workdir, file, before, want.before)
        if file == "scores.csv" and (is_named(file, text) or file not in before):
            # Scores that earlier commands had written cannot come back.
            differs = [name for name in differs if name not in ("scores.csv", "report.json")]
        if differs:
            wrong.append(f"other results: {differs[:9]}")
    lost = [name for name in before.keys() - after.keys() if not is_rotated(name, workdir)]
    if lost:
        wrong.append(f"deleted: {lost[:9]}")
    kept = [name for name in before.keys() & after.keys() if not re.fullmatch(REWRITTEN, name)]
    changed = [name for name in kept if before[name] != after[name] and name != file]
    if changed and not (LATEST in file and all(LATEST in name for name in changed)):
        wrong.append(f"changed: {changed[:9]}")
    return wrong


def is_rotated(name: str, workdir: pathlib.Path) -> bool:
    """Whether a file was of a checkpoint that newer ones, as many as are kept, replaced."""
    step = re.match(r"checkpoints/(\d+)", name)
    return bool(step) and len([s for s in saved(workdir) if s >= int(step[1])]) >= 2


def differing(workdir, file: str, before: dict, want: dict) -> list[str]:
    """Return the results that are not as wanted; the damaged file may lie there as it was."""
    found, want = results(workdir), dict(want)
    path = workdir / file
    latest = {name: data for name, data in before.items() if name.startswith(LATEST)}
    if LATEST in file and latest == {k: v for k, v in contents(workdir).items() if k in latest}:
        # The command has not written this checkpoint.
        found, want = (
            {k: v for k, v in d.items() if not k.startswith(f"{LATEST}/")} for d in (found, want)
        )
    elif (path.read_bytes() if path.is_file() else None) == before.get(file):
        found, want = (
            {k: v for k, v in d.items() if k.split(",")[0] != file} for d in (found, want)
        )
    elif file == "metrics.jsonl":
        found[file] = [r for r in found[file] if r["step"] > 8]  # the others were damaged
        want[file] = [r for r in want[file] if r["step"] > 8]
    return differences(found, want)


def check(lab, half, folder, file, damage, name, expected, seed=0, **options) -> list[str]:
    """Damage a file of a copy of the run, run the command, and return what is wrong."""
    workdir = lab.copy(half, folder / "run")
    damage(workdir / file, random.Random(f"{seed} {pathlib.Path(file).parent}"))
    before = contents(workdir)
    command = lab.start(workdir, *COMMANDS[name], **options)
    wrong = faults(command, workdir, file, before, expected(name))
    shutil.rmtree(workdir)
    return [f"{file}, {name}: {'; '.join(wrong)}\n{command.text()}"] if wrong else []


def one_like(half, pattern: str) -> str:
    return next(name for name in files_of(half) if re.fullmatch(pattern, name))


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern, damage",
    [
        pytest.param(
            r"checkpoints/12/opt_state/ocdbt.process_0/d/.*", flip, marks=pytest.mark.slow
        ),
        pytest.param(r"checkpoints/12/model/_METADATA", truncate, marks=pytest.mark.slow),
        pytest.param(r"samples/scored/.*", truncate, marks=pytest.mark.slow),
        (r"config\.json", replace),
    ],
)
def test_a_damaged_file_of_a_whole_run(lab, whole, tmp_path, pattern, damage):
    """The same command again: it mends what it can, to the same bits, or names the file."""
    workdir = lab.copy(whole, tmp_path / "run")
    (workdir / "scores.csv").unlink()  # so that it scores again
    file = one_like(workdir, pattern)
    damage(workdir / file, random.Random(0))
    before = contents(workdir)
    command = lab.start(workdir)
    if command.wait():
        assert is_one_sentence(command.text()) and is_named(file, command.text()), command.text()
        assert contents(workdir) == before
    else:
        assert not differences(results(workdir), results(whole))
        assert is_named(file, command.text()), command.text()


def images(workdir) -> np.ndarray:
    (path,) = (workdir / "samples").glob("*.npz")
    with np.load(path) as file:
        return file["images"]


@pytest.mark.slow
def test_samples_of_a_damaged_average_are_of_the_checkpoint_before(lab, whole, tmp_path):
    workdirs = [lab.copy(whole, tmp_path / name / "run") for name in ("damaged", "older")]
    file = one_like(workdirs[0], r"checkpoints/12/ema/ocdbt.process_0/d/.*")
    flip(workdirs[0] / file, random.Random(0))
    shutil.rmtree(workdirs[1] / "checkpoints" / "12")
    for workdir in workdirs:
        shutil.rmtree(workdir / "samples")
    before = contents(workdirs[0])
    texts = [lab.run(workdir, "--mode=sample") for workdir in workdirs]
    assert is_named(file, texts[0]), texts[0]
    drawn, want, latest = (images(workdir) for workdir in (*workdirs, whole))
    assert np.array_equal(drawn, want) and not np.array_equal(drawn, latest)
    after = contents(workdirs[0])
    assert not [name for name in before if "checkpoints" in name and before[name] != after[name]]


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_file_of_a_run(lab, half, expected, tmp_path, name, damage):
    wrong = []
    for file in files_of(half):
        for seed in range(3 if damage == "one bit flipped" else 1):
            wrong += check(lab, half, tmp_path, file, DAMAGE[damage], name, expected, seed)
    assert not wrong, f"{len(wrong)} of {len(files_of(half))} files:\n\n" + "\n".join(wrong)


# Data sets.

IMAGES = (*NO_PICTURES, "--config.train.then=()", "--config.train.steps=8")
LATENTS = (
    *IMAGES, "--config.data.name=tiny_latents", "--config.data.split=train",
    "--config.model.patch=1",
)  # fmt: skip
SETS = {"digits": IMAGES, "tiny_latents": LATENTS}


@pytest.fixture(scope="session")
def data_sets(lab, once, whole, make_latents):
    """A folder with both data sets, and the runs of each."""

    def fill(folder):
        shutil.copytree(lab.data, folder / "data")
        command = make_latents(folder / "data")
        assert command.wait() == 0, command.text()
        for name, arguments in SETS.items():
            lab.run(folder / name, *arguments, f"--config.data.data_dir={folder / 'data'}")

    return once("data sets", fill)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", SETS)
def test_every_file_of_a_data_set(lab, data_sets, tmp_path, name, damage):
    want, wrong = results(data_sets / name), []
    root = data_sets / "data"
    files = [path.relative_to(root) for path in (root / name).rglob("*") if path.is_file()]
    for file in sorted(files):
        for seed in range(8 if damage == "one bit flipped" else 1):
            data, workdir = tmp_path / "data", tmp_path / "run"
            shutil.copytree(root, data)
            DAMAGE[damage](data / file, random.Random(f"{seed} {file}"))
            before = contents(data)
            command = lab.start(workdir, *SETS[name], f"--config.data.data_dir={data}")
            status, text = command.wait(), command.text()
            found = []
            # Two small files describe a data set; that they do not fit may be the fault of either.
            named = file.name in text or (file.suffix == ".json" and f"/{name}" in text)
            if status and not (is_one_sentence(text) and named and "Did you mean" not in text):
                found.append("not one sentence that names it")
            if not status and differences(results(workdir), want):
                found.append("other results")
            if contents(data) != before:
                found.append("the data set was changed")
            if found:
                wrong.append(f"{file}, {seed}: {'; '.join(found)}\n{text}")
            shutil.rmtree(data)
            shutil.rmtree(workdir, ignore_errors=True)
    assert not wrong, "\n".join(wrong)


# Files and folders that may not be written.


@pytest.fixture
def stranger(lab, half):
    """A lab and a run of a user to whom permissions apply, and that user."""
    if os.getuid() == 0 and not can_read_as(NOBODY, pathlib.Path(__file__)):
        pytest.skip("permissions do not bind root, and another user cannot read this checkout")
    user = NOBODY if os.getuid() == 0 else None
    for folder in open_folder():
        for name in ("data", "programs"):
            shutil.copytree(lab.base / name, folder / name)
        shutil.copytree(half, folder / "half")
        yield folder, user


def can_read_as(user: int, path: pathlib.Path) -> bool:
    """Whether a user other than root can read a file of this checkout."""
    return all(p.stat().st_mode & 0o005 == 0o005 for p in path.resolve().parents)


def give(folder: pathlib.Path, user: int | None) -> None:
    """Make a user the owner of a folder and all that is in it."""
    if user is not None:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, user, user)


def protected(workdir: pathlib.Path) -> list[str]:
    """Return what is made read-only in turn: all but the files of checkpoints, and the run."""
    names = [str(p.relative_to(workdir)) for p in sorted(workdir.rglob("*"))]
    names = [n for n in names if not re.search(r"/0000(?!00)\d\d\.png$", n)]
    return [".", *(n for n in names if not re.match(r"checkpoints/\d+/", n))]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_what_may_not_be_written(lab, half, expected, stranger, name):
    folder, user = stranger
    wrong = []
    for file in protected(half):
        workdir = lab.copy(folder / "half", folder / "run")
        give(folder / "run", user)
        (folder / "temporary").mkdir(exist_ok=True)
        give(folder / "temporary", user)
        path = workdir / file
        path.chmod(0o555 if path.is_dir() else 0o444)
        before = contents(workdir)
        command = lab.start(
            workdir, *COMMANDS[name], f"--config.data.data_dir={folder / 'data'}", user=user,
            environment={"JAX_COMPILATION_CACHE_DIR": str(folder / "programs")},
        )  # fmt: skip
        problems = faults(command, workdir, file, before, expected(name))
        if command.wait() and path.is_dir() and "Draw" in command.text():
            problems.append("noticed after drawing")
        if problems:
            wrong.append(f"{file}, {name}: {'; '.join(problems)}\n{command.text()}")
        path.chmod(0o755)
        shutil.rmtree(workdir)
    assert not wrong, "\n".join(wrong)
