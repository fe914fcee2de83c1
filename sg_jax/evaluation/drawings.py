"""Write the images of a drawing as they come, so that only one batch of them is in memory.

    samples/NAME/000000.png, 000001.png, ...   each image
    samples/NAME/prompts.jsonl                 for prompts: {"file_name": ..., "prompt": ...}
    samples/NAME.npz                           all of them, with their labels
    samples/NAME.png                           the first ones side by side

Latents have no image files and no picture. The .npz file is completed after the images, and the
picture is written last: a folder without these two is from a drawing that was interrupted, and
`already` finds what the next call need not draw again.
"""

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath

from sg_jax.data.images import decode, png
from sg_jax.errors import UserError
from sg_jax.evaluation import image_sets, pictures
from sg_jax.evaluation.reading import BATCH
from sg_jax.runs import files
from sg_jax.runs.progress import log

SHOWN = 200  # most images in a picture
PROMPTS = "prompts.jsonl"
THREADS = 8  # that encode and write images


@contextlib.contextmanager
def writing(
    folder: str | os.PathLike,
    name: str,
    labels: np.ndarray | Sequence[str],
    about: str,
    shape: tuple[int, int, int],
    latents: bool = False,
    there: int = 0,
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield the function that writes the next images, uint8 [b, H, W, C], or latents, float32.

    All of them must be given before the end; the .npz file appears only then.

    Args:
      folder: where to write.
      name: name of the files.
      labels: those of all images [B]; for a network of texts the prompts, which get their own file.
      about: how they were drawn, in words.
      shape: H, W and C.
      latents: whether these are latents.
      there: how many of the first images have their files already; see `already`.
    """
    place = files.path(folder)
    kind, dtype = ("latents", np.float32) if latents else ("images", np.uint8)
    done = 0

    def add(images: np.ndarray) -> None:
        nonlocal done
        array.write(np.ascontiguousarray(images, dtype).tobytes())
        if not latents:
            new = range(max(there - done, 0), len(images))
            names = [place / name / _file(done + i) for i in new]
            list(pool.map(_write_png, images[new.start :], names))  # raises what a thread raised
        done += len(images)

    with (
        ThreadPoolExecutor(THREADS, "pictures") as pool,
        files.writing(place / f"{name}.npz") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        members = dict(about=np.array(about))
        if isinstance(labels, np.ndarray):
            members = dict(labels=labels) | members
        else:
            beside = place / f"{name}_prompts.jsonl" if latents else place / name / PROMPTS
            _write_prompts(beside, labels, latents)
        for member, value in members.items():
            with archive.open(_member(member), "w") as array:
                np.lib.format.write_array(array, value, allow_pickle=False)
        with archive.open(_member(kind), "w", force_zip64=True) as array:
            header = dict(
                descr=np.lib.format.dtype_to_descr(np.dtype(dtype)),
                fortran_order=False,
                shape=(len(labels), *shape),
            )
            np.lib.format.write_array_header_1_0(array, header)
            yield add
        assert done == len(labels), f"{done} of {len(labels)} images"


def already(folder: str | os.PathLike, name: str, count: int) -> int:
    """Return how many of the first images an interrupted drawing left; 0 if it was completed."""
    place = files.path(folder)
    if (place / f"{name}.npz").exists():
        return 0
    names = {path.name for path in files.children(place / name)}
    return next((i for i in range(count) if _file(i) not in names), count)


def read(
    folder: str | os.PathLike, name: str, count: int, shape: tuple[int, int, int]
) -> Iterator[np.ndarray]:
    """Yield the first `count` images of an interrupted drawing, uint8 [b, H, W, C].

    Raises:
      UserError: one of them is damaged, or of another shape.
    """
    place = files.path(folder) / name

    def image(i: int) -> np.ndarray:
        path = place / _file(i)
        try:
            found = decode(path.read_bytes(), shape[-1])
        except UserError as error:
            raise UserError(f"{path} {error}: delete it, and it is drawn again.") from None
        if found.shape != shape:
            raise UserError(f"{path} has the shape {list(found.shape)}: delete {place}.")
        return found

    with ThreadPoolExecutor(THREADS, "pictures") as pool:
        for first in range(0, count, BATCH):
            yield np.stack(list(pool.map(image, range(first, min(first + BATCH, count)))))


def _write_prompts(path: epath.Path, prompts: Sequence[str], latents: bool) -> None:
    """Write the prompt of each image, one per line, next to the images; latents go by number."""
    with files.writing(path) as file:
        for i, prompt in enumerate(prompts):
            which = {"number": i} if latents else {"file_name": _file(i)}
            line = json.dumps({**which, "prompt": prompt}, ensure_ascii=False)
            file.write(f"{line}\n".encode(errors="replace"))  # half a surrogate pair is not UTF-8


class Kept:
    """All images of an evaluation, for other people's evaluators: FOLDER/000000.png and so on.

    Args:
      folder: where to write.
      as_npz: whether FOLDER.npz is also written at the end, as ADM's evaluator reads it (arr_0).
    """

    def __init__(self, folder: epath.Path, as_npz: bool):
        self._folder, self._as_npz = folder, as_npz
        files.check_writable(folder)

    def add(self, images: np.ndarray, first: int) -> None:
        """Write images uint8 [b, H, W, C], numbered from `first`."""
        names = [self._folder / _file(first + i) for i in range(len(images))]
        with ThreadPoolExecutor(THREADS, "pictures") as pool:
            list(pool.map(_write_png, images, names))

    def finish(self, count: int) -> None:
        """Write the .npz, if it is wanted, and log where the `count` images are."""
        where = [self._folder]
        if self._as_npz:
            found = image_sets.open_images(self._folder)
            path = self._folder.with_suffix(".npz")
            with files.writing(path) as file, zipfile.ZipFile(file, "w") as archive:
                image_sets.write(archive, found.batches(), (count, *found.image_shape))
            where.append(path)
        log(f"All images are kept: {' and '.join(map(str, where))}.")


def save_grid(
    images: np.ndarray, columns: int, path: str | os.PathLike, name: str = ""
) -> epath.Path:
    """Write whole rows of the first images [B, H, W, C] side by side; return the path.

    `name` is the name of the data; see `pictures.credited`.
    """
    rows = max(1, min(len(images), SHOWN) // columns)
    shown = images[: rows * columns].reshape(rows, columns, *images.shape[1:])
    return pictures.save_png(pictures.credited(pictures.grid(shown), name), path)


def _file(number: int) -> str:
    return f"{number:06d}.png"


def _member(name: str) -> zipfile.ZipInfo:
    """Return the description of an array, whose bytes do not depend on the time."""
    member = zipfile.ZipInfo(f"{name}.npy")
    member.compress_type = zipfile.ZIP_DEFLATED
    return member


def _write_png(image: np.ndarray, path: epath.Path) -> None:
    files.write_atomically(path, png(image).getvalue())
