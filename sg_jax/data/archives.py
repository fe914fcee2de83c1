"""Image files in a .zip or .tar: indexed once, then read anywhere by several threads at once."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import posixpath
import resource
import stat
import tarfile
import time
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sg_jax.data.checks import Outside, not_read
from sg_jax.data.containers import (
    LINKS,
    MOST_BYTES,
    NO_IMAGES,
    OUTSIDE,
    TOLD,
    LeftOut,
    kind_of,
    readable,
)
from sg_jax.errors import UserError, one_line
from sg_jax.runs.progress import log

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
PACKED = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst", ".7z", ".rar", ".lz4")
SUFFIXES = (".zip", ".tar", *PACKED)  # endings by which a name is taken for an archive
UTF_8 = 0x800  # the flag of a name in UTF-8; without it, zipfile takes it for code page 437
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd"}
OFTEN = 10.0  # seconds between progress lines
MOST_OPEN = 256  # archives that a process keeps open, if its limit of open files allows it


class _Member(NamedTuple):
    """Where the bytes of a file are. In a zip they follow a header at `start`."""

    start: int
    stored: int  # bytes in the archive
    size: int  # bytes of the file
    method: int = STORED
    crc: int = -1  # none


@dataclasses.dataclass(frozen=True, eq=False)
class Archive:
    """The images in an archive, as `containers.Files` describes them."""

    path: str
    stamp: tuple[int, int]  # its size and modification time when it was indexed
    zipped: bool
    names: list[str]
    beside: dict[str, _Member]
    left_out: LeftOut
    index: np.ndarray  # int64 [N, 5], the values of a `_Member`

    def read(self, i: int) -> bytes:
        return self._contents(_Member(*map(int, self.index[i])))

    def read_beside(self, path: str) -> bytes:
        return self._contents(self.beside[path])

    def _contents(self, member: _Member) -> bytes:
        opened = _opened(self.path, self.stamp)  # it stays open while this name refers to it
        return _contents(opened.descriptor, self.zipped, member)

    def place(self, i: int) -> str:
        return f"{readable(self.path)}: {readable(self.names[i])}"

    def version(self, ids: np.ndarray) -> bytes:
        return os.fsencode(f"{self.path}\n{self.stamp}") + ids.tobytes()


class _Opened:
    """An open file, closed once nothing refers to it. Reading at an offset moves no position."""

    def __init__(self, path: str):
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)


def _most_open() -> int:
    """Return how many archives may stay open: a share of the files that this process may open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN if limit == resource.RLIM_INFINITY else min(MOST_OPEN, limit // 4)


@functools.lru_cache(maxsize=_most_open())
def _opened(path: str, stamp: tuple[int, int]) -> _Opened:
    """Open an archive; the most recently read ones stay open."""
    opened = _Opened(path)
    if _stamp(os.fstat(opened.descriptor)) != stamp:
        raise Outside("the archive has changed since it was indexed: start again")
    return opened


def index(path: pathlib.Path, told: tuple[str, ...] = TOLD) -> Archive:
    """List the images in an archive, without reading them.

    Args:
      path: a .zip, or an uncompressed .tar.
      told: name endings of files that describe images.

    Raises:
      UserError: it does not allow random access, or is encrypted, damaged or cut short.
    """
    try:
        with open(path, "rb") as file:
            begins = file.read(8)
            found = _stamp(os.fstat(file.fileno()))
    except OSError as cause:
        raise not_read(os.fspath(path), cause, "let this user read it") from cause
    packed = next((kind for magic, kind in _MAGIC.items() if begins.startswith(magic)), "")
    if packed or path.suffix.lower() in PACKED:
        raise UserError(
            f"{path} is compressed as a whole{f' by {packed}' if packed else ''}, so its images "
            "cannot be read in any order: unpack it into a folder, or make a .zip or an "
            "uncompressed .tar of the images."
        )
    return _indexed(os.path.realpath(path), found, told)


def stamp_of(path: pathlib.Path) -> tuple[int, int] | None:
    """Return what changes when an archive is written again; None if it cannot be read."""
    try:
        return _stamp(path.stat())
    except OSError:
        return None


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=4)
def _indexed(path: str, found: tuple[int, int], told: tuple[str, ...]) -> Archive:
    zipped = zipfile.is_zipfile(path) and not path.lower().endswith(".tar")
    left_out = LeftOut()
    members: dict[str, _Member] = {}
    beside: dict[str, _Member] = {}
    try:
        listed = _zip_members(path, left_out) if zipped else _tar_members(path, left_out, found[0])
        for given, member in listed:
            name = _clean(given)
            if not name:
                left_out.add(OUTSIDE, given)
            elif not (reason := kind_of(name)):
                members[name] = member  # the last of several with one name, as when unpacking
            elif reason == NO_IMAGES and name.endswith(told):
                beside[name] = member
            else:
                left_out.add(reason, name)
    except UserError:
        raise
    except Exception as cause:  # damaged archives raise many kinds of errors
        raise UserError(
            f"{readable(path)} is not a .zip or .tar archive, or is damaged or cut short "
            f"({one_line(cause)}): make or copy it again."
        ) from cause
    names = sorted(members)
    table = np.array([members[name] for name in names], np.int64).reshape(len(names), 5)
    return Archive(path, found, zipped, names, beside, left_out, table)


def _clean(name: str) -> str:
    """Return a name in an archive without "./", or "" if it leads out of it."""
    if "/" not in name:
        name = name.replace("\\", "/")  # as some Windows programs write it
    parts = [part for part in name.split("/") if part not in ("", ".")]
    outside = name.startswith("/") or ".." in parts or (parts and parts[0].endswith(":"))
    return "" if outside else "/".join(parts)


def _zip_members(path: str, left_out: LeftOut) -> Iterator[tuple[str, _Member]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                left_out.add(LINKS, _name(info))
                continue
            member = _Member(
                info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC
            )
            if info.flag_bits & 1:
                raise UserError(f"{readable(path)} is encrypted: unpack it into a folder.")
            if member.method not in (STORED, DEFLATED) and not kind_of(info.filename):
                raise UserError(
                    f"{readable(path)} is compressed by method {member.method}, which is not "
                    "read: make it again with `zip -0`, which stores images as is, or unpack it."
                )
            yield _name(info), member


def _name(info: zipfile.ZipInfo) -> str:
    """Return a name in a zip; `zip` and a Mac's Finder write it in UTF-8 without saying so."""
    if not info.flag_bits & UTF_8:
        with contextlib.suppress(UnicodeError):
            return info.filename.encode("cp437").decode()  # as `zipfile` has read it
    return info.filename


def _tar_members(path: str, left_out: LeftOut, size: int) -> Iterator[tuple[str, _Member]]:
    known: dict[str, _Member] = {}
    links: list[tuple[str, str]] = []
    told = time.monotonic()
    with tarfile.open(path, "r:") as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # or it would keep them all
            if info.issym() or info.islnk():
                beside = posixpath.dirname(info.name) if info.issym() else ""
                links.append((info.name, posixpath.normpath(f"{beside}/{info.linkname}")))
            elif info.isreg() and not info.issparse():
                member = _Member(info.offset_data, info.size, info.size)
                known[posixpath.normpath(info.name)] = member
                yield info.name, member
            elif not info.isdir():
                left_out.add(NO_IMAGES, info.name)
            if time.monotonic() - told > OFTEN:
                told = time.monotonic()
                log(f"Indexing {readable(path)}: {archive.offset / size:.0%} ...")
        end = archive.offset
    with open(path, "rb") as file:  # a tar that is cut short lacks the end marker
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(f"after {end:,} of {size:,} bytes there is no end")
        if any(file.read(2**20)):
            raise ValueError(f"more data follows its end at {end:,} of {size:,} bytes")
    for name, target in links:
        if target.lstrip("/") in known:
            yield name, known[target.lstrip("/")]
        else:
            left_out.add(LINKS, name)


def _contents(descriptor: int, zipped: bool, member: _Member) -> bytes:
    """Return the bytes of a file, checked where the archive has a checksum."""
    if max(member.size, member.stored) > MOST_BYTES:
        raise UserError(f"it has more than {MOST_BYTES:,} bytes")
    start = member.start
    if zipped:
        header = os.pread(descriptor, 30, start)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise UserError("the archive is damaged there")
        start += 30 + int.from_bytes(header[26:28], "little")
        start += int.from_bytes(header[28:30], "little")
    stored = os.pread(descriptor, member.stored, start)
    if len(stored) != member.stored:
        raise UserError("the archive is cut short")
    try:
        unpack = zlib.decompressobj(-zlib.MAX_WBITS)
        plain = stored if member.method == STORED else unpack.decompress(stored, member.size + 1)
    except zlib.error as cause:
        raise UserError(f"the archive is damaged there ({cause})") from None
    if len(plain) != member.size or member.crc not in (-1, zlib.crc32(plain)):
        raise UserError("the archive is damaged there: its checksum differs")
    return plain
