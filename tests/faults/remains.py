"""What is left in the folder of a run: read, and compared with that of another run."""

import csv
import json
import pathlib
from typing import Any

import numpy as np
import tensorstore

# What a clock wrote, or depends on that, and so differs between two equal runs.
CLOCK = ("steps_per_second", "images_per_second", "tflops_per_second", "check")


def arrays(item: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the arrays of a part of a checkpoint, such as checkpoints/8/model, by their paths."""
    store = {"driver": "ocdbt", "base": f"file://{item}/"}
    keys = [key.decode() for key in tensorstore.KvStore.open(store).result().list().result()]
    names = [key.removesuffix("/zarr.json") for key in keys if key.endswith("/zarr.json")]
    found = {}
    for name in names:
        where = {"driver": "zarr3", "kvstore": {**store, "path": f"{name}/"}}
        found[name] = np.asarray(tensorstore.open(where, open=True).result().read().result())
    assert found, item
    return found


def saved(workdir: pathlib.Path) -> list[int]:
    """Return the steps of the checkpoints."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return sorted(int(name) for name in names if name.isdigit())


def records(workdir: pathlib.Path) -> list[dict]:
    """Return the lines of metrics.jsonl, without what a clock wrote."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]


def losses(workdir: pathlib.Path) -> np.ndarray:
    """Return the loss of each step; each step must be there once, in order."""
    found = [record for record in records(workdir) if "loss" in record]
    assert [record["step"] for record in found] == list(range(1, len(found) + 1))
    return np.array([record["loss"] for record in found])


def _rows(path: pathlib.Path) -> list[dict]:
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows: list[dict] = list(csv.DictReader(file))
    else:
        rows = json.loads(path.read_text())
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def results(workdir: pathlib.Path) -> dict[str, Any]:
    """Return all that a run computed, by name: arrays, records and the bytes of pictures.

    What cannot be read is an entry that says so.
    """
    found: dict[str, Any] = {}
    items = [item for step in saved(workdir) for item in _items(workdir, step)]
    others = [path for path in sorted(workdir.rglob("*")) if path.is_file()]
    for path in [*items, *others]:
        name = str(path.relative_to(workdir))
        try:
            if path in items:
                found |= {f"{name}, {key}": value for key, value in arrays(path).items()}
            elif path.suffix == ".npz":
                with np.load(path) as file:
                    found |= {f"{name}, {key}": file[key] for key in file.files}
            elif path.suffix == ".npy":
                found[name] = np.load(path)
            elif path.suffix == ".png" and "samples" in path.relative_to(workdir).parts:
                found[name] = path.read_bytes()
            elif path.name in ("scores.csv", "report.json"):
                found[name] = _rows(path)
            elif path.name == "metrics.jsonl":
                found[name] = records(workdir)
        except Exception as error:
            found[name] = f"cannot be read: {error}"
    return found


def _items(workdir: pathlib.Path, step: int) -> list[pathlib.Path]:
    """Return the parts of a checkpoint: model, ema, opt_state, progress."""
    folder = workdir / "checkpoints" / str(step)
    return [path for path in sorted(folder.iterdir()) if (path / "_METADATA").exists()]


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return the names of what is not equal, bit for bit."""
    names = [f"{name} (only in one)" for name in sorted(found.keys() ^ expected.keys())]
    for name in sorted(found.keys() & expected.keys()):
        a, b = found[name], expected[name]
        if isinstance(b, np.ndarray):
            same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        else:
            same = a == b
        if not same:
            names.append(name)
    return names


def tree(workdir: pathlib.Path) -> set[str]:
    """Return the files and folders of a run; names that are random are left out."""
    found = set()
    for path in workdir.rglob("*"):
        name = path.relative_to(workdir)
        if path.parent.name == "d" or (name.parts[0] == "tensorboard" and len(name.parts) > 1):
            continue  # Orbax's data files, and the log of TensorBoard of each start
        found.add(str(name))
    return found


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Return every file of a folder and its bytes."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}
