"""WebDataset tars: the files of an image have one name and different endings.

    00000.tar: 000000000.jpg   the image, or .png, .webp and so on
               000000000.txt   its caption
               000000000.json  what is known about it: its caption, its aesthetics score

This is how img2dataset writes COYO, and how JourneyDB can be packed (.json with "prompt" and
"Task2"). config.data.name is "wds:FOLDER", "wds:FILE.tar", or several of these with how often the
images of each come in an epoch: "wds:./coyo@0.5,./journeydb@2". The half is then the same in every
epoch. `config.data.aesthetics` is the least score of an image. If no image of a part has a score,
as in synthetic data, all of them are taken.

Tars are read in random order, which suits a disk. `--mode latents` stores them once as a data set.
"""

import bisect
import dataclasses
import functools
import hashlib
import itertools
import operator
import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from sg_jax.data import archives, pool, splits, web_tar
from sg_jax.data.archives import Archive
from sg_jax.data.captions import KEYS, texts
from sg_jax.data.checks import not_read
from sg_jax.data.containers import readable
from sg_jax.data.encoded import Encoded, with_shape
from sg_jax.data.images import WHITE
from sg_jax.errors import UserError, one_line, shown
from sg_jax.runs import files as paths
from sg_jax.runs.progress import Progress, log

PREFIX = "wds:"
MOST_TIMES = 100
_PART = re.compile(r"(?P<path>.+?)(@(?P<times>\d+(\.\d+)?))?")


@dataclasses.dataclass(frozen=True, eq=False)
class Shards:
    """The images of several tars, by number."""

    archives: tuple[Archive, ...]
    ends: tuple[int, ...]  # number after the last image of a tar

    def find(self, i: int) -> tuple[Archive, int]:
        """Return the tar of image `i`, and the image's number in it."""
        shard = bisect.bisect_right(self.ends, i)
        return self.archives[shard], i - (self.ends[shard - 1] if shard else 0)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ShardSource(Encoded):
    """A split of WebDataset tars. They have one class, because captions describe their images."""

    shards: Shards = dataclasses.field(repr=False)
    ids: np.ndarray = dataclasses.field(repr=False)  # numbers in `shards`

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, i: int) -> tuple[bytes, int]:
        archive, number = self.shards.find(int(self.ids[i]))
        return archive.read(number), 0

    def label_of(self, i: int) -> int:
        return 0

    def place(self, i: int) -> str:
        archive, number = self.shards.find(int(self.ids[i]))
        return archive.place(number)

    def file_of(self, i: int) -> str:
        """Return the tar that holds example `i`."""
        return readable(self.shards.find(int(self.ids[i]))[0].path)

    @property
    def captions(self) -> "_Captions":
        """The captions of the examples."""
        return _Captions(self)

    def version(self) -> bytes:
        """Return bytes that change with the tars, and with how they are read."""
        found = hashlib.sha256(repr((self.split, self.image_shape, self.image_size)).encode())
        for archive in self.shards.archives:
            found.update(os.fsencode(f"{archive.path}\n{archive.stamp}\n"))
        found.update(self.ids.tobytes())
        return found.digest()


@dataclasses.dataclass(frozen=True)
class _Captions:
    """The captions of a source: those of an image's .txt and .json, each once."""

    source: ShardSource

    def __getitem__(self, i: int) -> tuple[str, ...]:
        archive, number = self.source.shards.find(int(self.source.ids[operator.index(i)]))
        try:
            plain, about = web_tar.beside(archive, number, ".txt"), web_tar.about(archive, number)
            task = about.get("Task2")
            given = [plain, *(about.get(key) for key in KEYS)]
            given.append(task.get("Caption") if isinstance(task, dict) else None)
            return tuple(dict.fromkeys(text for value in given for text in texts(value)))
        except (OSError, UserError) as cause:
            what = f"The captions of {self.source.place(i)}"
            raise not_read(what, cause, "mend or remove them") from cause

    def version(self) -> bytes:
        return self.source.version()


def claims(name: str) -> bool:
    """Return whether a name stands for WebDataset tars."""
    return name.startswith(PREFIX)


def is_here(name: str) -> bool:
    """Return whether every file and folder of a name exists."""
    return all(paths.path(path).exists() for path, _ in _parts(name))


def absolute(name: str) -> str:
    """Return a name that means the same tars in any folder."""
    parts = map(str.strip, name.removeprefix(PREFIX).split(","))
    named = zip(_parts(name), parts, strict=True)
    return PREFIX + ",".join(
        f"{paths.absolute(path)}{part.removeprefix(path)}" for (path, _), part in named
    )


def open_shards(
    name: str,
    split: str,
    data_dir: str | None = None,
    image_size: int | None = None,
    *,
    channels: int = 0,
    background: tuple[int, int, int] = WHITE,
    aesthetics: float = 0.0,
) -> ShardSource:
    """Open one split; see `data.sources.open_source`."""
    parts = tuple(_parts(name))
    tars = tuple(tuple(_tars(path, name)) for path, _ in parts)
    stamps = tuple(archives.stamp_of(path) for path in itertools.chain.from_iterable(tars))
    shards, found = _taken(name, parts, tars, stamps, aesthetics)
    chosen = np.concatenate([part for _, part in splits.select(name, split, {"train": len(found)})])
    source = ShardSource(
        name=name,
        split=split,
        class_names=("image",),
        image_size=image_size,
        background=background,
        image_shape=(0, 0, 0),
        shards=shards,
        ids=found[chosen],
    )
    return with_shape(source, channels)


@functools.lru_cache(maxsize=2)
def _taken(
    name: str,
    parts: tuple[tuple[str, float], ...],
    tars: tuple[tuple[pathlib.Path, ...], ...],
    stamps: tuple[tuple[int, int] | None, ...],
    aesthetics: float,
) -> tuple[Shards, np.ndarray]:
    """Return the images in tars, and the numbers of those to take.

    Looking at the tars of millions of images takes minutes, and commands open several splits.

    Args:
      name, aesthetics: see `data.sources.open_source`.
      parts: what `_parts` yields.
      tars: those of each part.
      stamps: of all tars, so that changed ones are looked at again.
    """
    looked: list[tuple[Archive, np.ndarray]] = []
    progress = Progress(0, len(stamps), 1, unit="tar")
    asked = [(path, name, aesthetics > 0) for path in itertools.chain.from_iterable(tars)]
    with pool.mapped(web_tar.look, asked) as found_in:
        for each in found_in:
            looked.append(each)
            progress.sometimes(len(looked))
    every = tuple(archive for archive, _ in looked)
    shards = Shards(every, tuple(itertools.accumulate(len(a.names) for a in every)))
    ids, first, said, scored = [], 0, [], False
    ends = itertools.accumulate(map(len, tars))
    for (given, times), its, end in zip(parts, tars, ends, strict=True):
        known = np.concatenate([scores for _, scores in looked[end - len(its) : end]])
        scores = known if np.isfinite(known).any() else None
        own = np.arange(first, first + len(known))
        ids.append(_repeated(own if scores is None else own[scores >= aesthetics], times))
        without = " (they have no scores)" if aesthetics and scores is None else ""
        said.append(
            f"{given}: {len(own):,} images in {len(its)} tars, {len(ids[-1]):,} taken{without}"
        )
        scored |= scores is not None
        first += len(own)
    if aesthetics and not scored:
        raise UserError(
            f"config.data.aesthetics={aesthetics:g} needs a score of each image, and no .json of "
            f"{shown(name)} has one of {', '.join(web_tar.SCORES)}: set it to 0, or add them."
        )
    found = np.concatenate(ids)
    if not len(found):
        raise UserError(
            f"config.data.name={shown(name)} has no images"
            + (f" with a score of config.data.aesthetics={aesthetics:g}: lower it." if aesthetics
               else f" in its tars ({'; '.join(said)}): give others.")
        )  # fmt: skip
    log(f"Images in {shown(name)}: {'; '.join(said)}.")
    return shards, found


def _parts(name: str) -> Iterator[tuple[str, float]]:
    """Yield each path of a name, and how often its images come."""
    for part in name.removeprefix(PREFIX).split(","):
        match = _PART.fullmatch(part.strip())
        times = float(match["times"]) if match and match["times"] else 1.0
        if not match or not 0 < times <= MOST_TIMES:
            raise UserError(
                f"config.data.name={shown(name)}: {shown(part)} must be a path, and may end in "
                f"@TIMES, how often its images come in an epoch, above 0 and at most {MOST_TIMES}: "
                f"{PREFIX}./coyo@0.5,./journeydb@2."
            )
        yield match["path"], times


def _tars(given: str, name: str) -> list[pathlib.Path]:
    path = pathlib.Path(paths.absolute(given))
    try:
        found = sorted(path.glob("**/*.tar")) if path.is_dir() else [path] * path.is_file()
    except OSError as cause:
        raise UserError(
            f"config.data.name={shown(name)}: {given} cannot be read ({one_line(cause)})."
        ) from None
    if not found:
        raise UserError(
            f"config.data.name={shown(name)}: {given} is neither a .tar nor a folder of them: "
            "give the folder of the tars."
        )
    return found


def _repeated(ids: np.ndarray, times: float) -> np.ndarray:
    """Return ids this often; for a fraction, those whose hashes come first, in their order."""
    whole, rest = int(times), times - int(times)
    count = len(ids) if rest else 0
    hashes = (hashlib.sha256(b"%d" % i).digest()[:8] for i in range(count))
    keys = np.fromiter(map(int.from_bytes, hashes), np.uint64, count)
    return np.concatenate([*[ids] * whole, ids[np.sort(np.argsort(keys)[: round(rest * count)])]])
