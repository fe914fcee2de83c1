"""A run's files, on a disk or in a bucket; each is written completely or not at all."""

import contextlib
import fnmatch
import os
import pathlib
import resource
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import IO, Any

import fsspec
from etils import epath

from sg_jax.errors import UserError, shown

# A cached listing would hide what other hosts, and Orbax with its own client, have written.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


PARTIAL = ".partial"  # how the name of a file ends while it is written
MOST_OPEN = 2**16  # files that a command opens at once; TFDS keeps each file of a split open
GRACE = 1.0  # seconds within which a new file may not be locked yet


def allow_many() -> None:
    """Let this process open up to `MOST_OPEN` files if the system allows it; 1,024 are usual."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN if most == resource.RLIM_INFINITY else min(most, MOST_OPEN)
    if limit != resource.RLIM_INFINITY and limit < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def path(name: str | os.PathLike) -> epath.Path:
    """Return a path with pathlib's methods, in a bucket for "gs://BUCKET/FOLDER", otherwise local.

    A leading "~" stands for the user's home, as in a shell.

    Raises:
      UserError: this is not a path, the package for buckets is missing, or the address is of
        another kind.
    """
    if not isinstance(name, str | os.PathLike):
        raise UserError(f"{shown(name)} must be a path, such as 'runs/digits'.")
    scheme, separator, rest = os.fspath(name).partition("://")
    if not separator:
        return _at_home(name)
    try:
        fsspec.get_filesystem_class(scheme)
        found = epath.Path(name)
    except ImportError:
        package = {"gs": "gcsfs", "s3": "s3fs"}.get(scheme, f"what fsspec needs for {scheme}")
        raise UserError(
            f"{os.fspath(name)!r} is in a bucket, which needs a package that is not installed: "
            f"`pip install {package}`."
        ) from None
    except (KeyError, ValueError):
        found = None
    if found is None or not rest.strip("/"):
        raise UserError(
            f"{os.fspath(name)!r} must be a local folder or gs://BUCKET/FOLDER, a folder in a "
            f"bucket of Google Cloud Storage."
        )
    return found


def _at_home(name: str | os.PathLike) -> epath.Path:
    try:
        return epath.Path(pathlib.Path(name).expanduser())
    except RuntimeError:
        raise UserError(
            f"{os.fspath(name)!r} begins with a user that this machine does not have: write ./ "
            "before a name with a tilde, or the whole path."
        ) from None


def is_remote(name: str | os.PathLike) -> bool:
    """Return whether a path is in a bucket, where a file can be replaced but not appended to."""
    return "://" in os.fspath(name)


def absolute(name: str | os.PathLike) -> epath.Path:
    """Return the path from the root of the file system, or from its bucket."""
    found = path(name)
    return found if is_remote(name) else epath.Path(pathlib.Path(found).absolute())


def same(one: str | os.PathLike, other: str | os.PathLike) -> bool:
    """Return whether two paths lead to the same place, however they are written."""
    places = [os.fspath(absolute(name)).rstrip("/") for name in (one, other)]
    real = [place if is_remote(place) else os.path.realpath(place) for place in places]
    return real[0] == real[1]


def children(folder: str | os.PathLike) -> list[epath.Path]:
    """Return what is in a folder, by name; an empty list if there is no folder.

    Not by glob, which takes a bracket or a star in the folder's own name for a pattern.
    """
    found = path(folder)
    if not found.is_dir():
        return []
    # A bucket lists a folder made by hand as a file of that name inside it, which does not exist.
    return sorted(
        child
        for child in found.iterdir()
        if child.name != found.name or not is_remote(found) or child.exists()
    )


def named(folder: str | os.PathLike, pattern: str) -> list[epath.Path]:
    """Return the paths in a folder that fit a pattern such as "*/samples/*.png", by name."""
    first, _, rest = pattern.partition("/")
    found = [child for child in children(folder) if fnmatch.fnmatchcase(child.name, first)]
    return [path for child in found for path in named(child, rest)] if rest else found


def check_writable(folder: str | os.PathLike) -> None:
    """Raise unless files can be written to a folder, or the folder can be made.

    A bucket is not checked.

    Raises:
      UserError: the folder is a file, or may not be written; its disk is away, read-only or full.
    """
    if is_remote(folder):
        return
    target = absolute(folder)
    there = next(p for p in (target, *target.parents) if p.exists() or os.path.islink(p))
    if not there.exists():
        raise UserError(
            f"{there} is a link to {os.readlink(there)}, which does not exist: mount its disk, or "
            "delete the link."
        )
    if not there.is_dir():
        raise UserError(f"{there} is a file, but a folder is needed: give another folder.")
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"a" * 4096)
            file.flush()
    except OSError as error:
        raise UserError(
            f"{there} cannot be written ({error.strerror}): make it writable, make room on its "
            "disk, or give another folder."
        ) from None


def write_atomically(name: str | os.PathLike, content: bytes) -> epath.Path:
    """Write `content` so that no reader ever sees half a file, even after an interruption.

    Args:
      name: the file to create or replace; missing folders are made.
      content: all its bytes.

    Returns:
      `name` as a path.
    """
    with writing(name) as file:
        file.write(content)
    return path(name)


@contextlib.contextmanager
def writing(name: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Yield a file to write large content in parts; it appears as by `write_atomically`."""
    target = path(name)
    if is_remote(target):
        with tempfile.NamedTemporaryFile() as file:
            yield file
            file.flush()
            # Not through an open file of the bucket: however that is closed, what has been written
            # so far becomes the object.
            system, place = fsspec.core.url_to_fs(os.fspath(target))
            system.put_file(file.name, place)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system. Not tempfile: only
    # the owner can read its files, and reports are shared.
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with open(partial, "xb") as file:
            try_lock(file)  # which shows `tidy` that it is being written
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a machine that stops may leave an empty file
            os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary() -> Iterator[None]:
    """Remove, at the end, the temporary files and folders that a library makes in this block."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


@contextlib.contextmanager
def making(name: str | os.PathLike) -> Iterator[epath.Path]:
    """Yield a folder to fill, which appears under its name when all is in it, or not at all.

    In a bucket it is the folder itself. What a killed command left is removed by the next one.

    Raises:
      UserError: something is there already, or the folder cannot be written.
    """
    target = absolute(name)
    if target.exists() and (not target.is_dir() or children(target)):
        raise UserError(f"{target} already exists and is not empty: give a new folder.")
    if is_remote(target):
        yield target
        return
    check_writable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in children(target.parent):
        ours = left.name.startswith(f".{target.name}.") and left.name.endswith(PARTIAL)
        if ours and left.is_dir() and time.time() - os.stat(left).st_mtime > GRACE:
            with _locked(left) as dead:
                if dead:
                    shutil.rmtree(left, ignore_errors=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}{PARTIAL}")
    partial.mkdir()
    try:
        with _locked(partial):
            yield partial
            os.replace(partial, target)  # also over an empty folder
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: epath.Path) -> Iterator[bool]:
    """Lock a folder, and yield whether that was possible."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        yield bool(try_lock(opened))
    finally:
        os.close(opened)


def tidy(folder: str | os.PathLike) -> None:
    """Remove what killed writers left in a folder, and in the folders up to two levels below.

    Files that are being written are left alone, even those of other processes.
    """
    if is_remote(folder):
        return
    root = absolute(folder)
    below = _folders(root)
    for within in [root, *below, *(deeper for child in below for deeper in _folders(child))]:
        for name in os.listdir(within) if within.is_dir() else ():  # there may be a million
            if name.startswith(".") and name.endswith(PARTIAL):
                partial = within / name
                with contextlib.suppress(OSError):
                    age = time.time() - os.stat(partial).st_mtime
                    time.sleep(min(max(GRACE - age, 0.0), GRACE))  # a command may follow directly
                    if _is_dead(partial):
                        partial.unlink()


def _folders(folder: epath.Path) -> list[epath.Path]:
    """Return the folders in a folder, without those that a link only points to."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [folder / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _is_dead(path: epath.Path) -> bool:
    """Return whether nobody is writing a file; without file locks, whether it is a day old."""
    with open(path, "rb") as file:
        locked = try_lock(file)
    return time.time() - os.stat(path).st_mtime > 86_400 if locked is None else locked


def try_lock(file: Any) -> bool | None:
    """Lock an open file, or a descriptor, for this process.

    Returns:
      False if another process has locked it; None if the file system does not lock files.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (OSError, ImportError):
        return None
    return True
