"""Checksums of a checkpoint: a flipped bit or a lost or foreign file is noticed when it is loaded.

    workdir/checkpoints/STEP/sha256.json  {"model/d/0e2f...": "9f86d0...", ...}

The library behind our checkpoints checks its indices, but not the numbers of the arrays. This file
is written once the checkpoint is complete, or, after a kill between the two, when the run goes on.
In a bucket there is no such file: the bucket itself checks every object that it stores and sends.
"""

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Iterable, Iterator

from etils import epath

from sg_jax.errors import UserError
from sg_jax.runs import files
from sg_jax.runs.progress import log

NAME = "sha256.json"
SMALL = 10**8  # bytes of arrays; fewer are never too many
PROPORTION = 100  # bytes of arrays per byte on disk
THREADS = 8  # that read and hash; hashing lets other threads use Python


class Damaged(UserError):
    """Report a checkpoint that is not as it was written."""

    def __init__(self, folder: epath.Path, what: str):
        super().__init__(f"The checkpoint {folder} is damaged: {what}.")


def seal(folder: epath.Path) -> None:
    """Write the checksums of a complete checkpoint that has none; not in a bucket."""
    if files.is_remote(folder) or not folder.is_dir() or (folder / NAME).exists():
        return
    try:
        sums = _sums(folder, list(_files(folder)))
        files.write_atomically(folder / NAME, json.dumps(sums, indent=0).encode())
    except FileNotFoundError:  # it was rotated out meanwhile
        return


def is_complete(folder: epath.Path) -> bool:
    """Return whether a checkpoint has checksums, and all the files that they are of."""
    try:
        return all((folder / name).is_file() for name in json.loads((folder / NAME).read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def verify(folder: epath.Path, parts: Iterable[str]) -> bool:
    """Raise unless the files of some parts of a checkpoint are those that were written.

    It reads the files once more, at about 1.5 GB/s for each of up to eight threads. A checkpoint
    without checksums is accepted, and the log says so: it was written by an earlier version, or the
    run was killed between the two.

    Args:
      folder: of the checkpoint.
      parts: such as "ema"; what belongs to no part is always verified.

    Returns:
      Whether there were checksums to compare with.

    Raises:
      Damaged: a file is missing, or differs.
      UserError: a file may not be read.
    """
    if files.is_remote(folder):
        return False
    path, parts = folder / NAME, set(parts)
    if not path.exists():
        log(f"The checkpoint {folder} has no {NAME}, so its files are not verified.")
        return False
    try:
        written = json.loads(path.read_bytes())
        if any(name.startswith("/") or ".." in name.split("/") for name in written):
            raise ValueError("files elsewhere")
        wanted = {name: written[name] for name in written if _belongs(name, parts)}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Damaged(folder, f"{NAME} is not a list of checksums") from None
    except PermissionError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    if missing := sorted(name for name in wanted if not (folder / name).is_file()):
        raise Damaged(folder, f"{missing[0]} is missing")
    try:
        found = _sums(folder, wanted)
    except PermissionError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}).") from None
    except OSError as error:
        raise Damaged(folder, f"{error.filename} cannot be read ({error.strerror})") from None
    if wrong := sorted(name for name in wanted if found[name] != wanted[name]):
        raise Damaged(folder, f"{wrong[0]} is not as it was written")
    return True


def check_size(folder: epath.Path, part: str, needed: int) -> None:
    """Raise if arrays take memory out of proportion to their files; a few bytes can ask for that.

    Args:
      folder: of the checkpoint; a bucket is not checked.
      part: such as "ema".
      needed: bytes of its arrays. Those of a network take about as much on disk.
    """
    if files.is_remote(folder) or needed < SMALL:
        return
    stored = sum(os.path.getsize(folder / part / name) for name in _files(folder / part))
    if needed > PROPORTION * stored:
        what = f"{part} would take {needed / 1e9:.1f} GB of memory, from {stored / 1e6:.1f} MB"
        raise Damaged(folder, what)


def _belongs(name: str, parts: set[str]) -> bool:
    """Return whether a file is in one of the parts, or in none at all."""
    first, separator, _ = name.partition("/")
    return not separator or first in parts


def _files(folder: epath.Path) -> Iterator[str]:
    """Yield the names of all files below a folder, except the checksums."""
    for root, _, names in os.walk(folder):
        for name in names:
            found = os.path.relpath(os.path.join(root, name), folder)
            if found != NAME and not name.endswith(files.PARTIAL):
                yield found.replace(os.sep, "/")


def _sums(folder: epath.Path, names: Iterable[str]) -> dict[str, str]:
    names = list(names)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: _sum(folder / name), names), strict=True))


def _sum(path: epath.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
