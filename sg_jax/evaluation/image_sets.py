"""Images that others made or chose: an .npz file such as ADM's, or a folder or archive of pictures.

They are read in order, a batch at a time, so that memory does not grow with their number.
"""

import contextlib
import dataclasses
import os
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath

from sg_jax.data import images as image_files
from sg_jax.data import pictures
from sg_jax.data.containers import Files
from sg_jax.errors import UserError, one_line
from sg_jax.evaluation.reading import BATCH, THREADS, ahead
from sg_jax.runs import arrays, files

IMAGES = "arr_0"  # ADM's name; what numpy.savez calls its first array
OTHERS = ("images",)  # the name in files of --mode sample
MOST_SMALL = 2**30  # most bytes of an array that is read whole


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images in order.

    Attributes:
      name: where they are.
      count: how many there are.
      image_shape: (H, W, C), with C 1 or 3.
    """

    name: str
    count: int
    image_shape: tuple[int, int, int]

    def __len__(self) -> int:
        return self.count

    def batches(self, start: int = 0, size: int = BATCH) -> Iterator[np.ndarray]:
        """Yield the images from number `start` on, uint8 [b, H, W, C] with b <= size."""
        raise NotImplementedError

    def version(self) -> str:
        """Return hex digits that change with the images, without reading them."""
        raise NotImplementedError


def open_images(name: str | os.PathLike, key: str = "images") -> ImageSet:
    """Open an .npz file with uint8 images, or a folder or an archive of image files.

    Args:
      name: where they are.
      key: what the set is called in messages.

    Raises:
      UserError: the set is missing or damaged, or its images differ in size.
    """
    path = files.path(name)
    if str(path).lower().endswith(".npz"):
        return _open_npz(path)
    found = pictures.files_at(os.fspath(name), key, "an .npz file of images (arr_0)")
    return _Pictures.of(os.fspath(name), found)


@dataclasses.dataclass(frozen=True)
class _Pictures(ImageSet):
    files: Files = dataclasses.field(repr=False)

    @classmethod
    def of(cls, name: str, found: Files) -> "_Pictures":
        first = image_files.decode(found.read(0), 3)
        return cls(name, len(found.names), first.shape, found)

    def batches(self, start: int = 0, size: int = BATCH) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(THREADS) as pool:

            def read(first: int) -> np.ndarray:
                numbers = range(first, min(first + size, self.count))
                return np.stack(list(pool.map(self._decoded, numbers)))

            yield from ahead(read, range(start, self.count, size))

    def version(self) -> str:
        return self.files.version(np.arange(self.count)).hex()

    def _decoded(self, i: int) -> np.ndarray:
        place = self.files.place(i)
        try:
            image = image_files.decode(self.files.read(i), 3)
        except (OSError, UserError) as error:
            raise UserError(
                f"{place} cannot be read ({one_line(error)}): repair or remove it. Nothing was "
                "scored, because a set without some of its images is a different set."
            ) from None
        if image.shape != self.image_shape:
            raise UserError(
                f"{place} has {image.shape[0]}x{image.shape[1]} pixels, but the first image of "
                f"{self.name} has {self.image_shape[0]}x{self.image_shape[1]}: all must be the "
                "same size."
            )
        return image


@dataclasses.dataclass(frozen=True)
class _Npz(ImageSet):
    member: str
    checksum: int  # of this member, as the file itself says

    def batches(self, start: int = 0, size: int = BATCH) -> Iterator[np.ndarray]:
        bytes_each = int(np.prod(self.image_shape))
        try:
            with files.path(self.name).open("rb") as file, zipfile.ZipFile(file) as archive:
                with archive.open(self.member) as array:
                    _header(array)
                    _skip(array, start * bytes_each)
                    for first in range(start, self.count, size):
                        count = min(size, self.count - first)
                        content = _exactly(array, count * bytes_each)
                        yield np.frombuffer(content, np.uint8).reshape(count, *self.image_shape)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{self.name} is damaged or cut short ({one_line(error)}): copy or download it "
                "again."
            ) from None

    def version(self) -> str:
        return f"{self.checksum:08x}"


@contextlib.contextmanager
def _opened(path: epath.Path, wanted: str) -> Iterator[zipfile.ZipFile]:
    """Open an .npz file; whatever goes wrong with it in this context becomes a UserError."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            yield archive
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give an .npz file{wanted}.") from None
    except Exception as error:  # damaged files raise many kinds
        raise UserError(
            f"{path} cannot be read ({one_line(error)}), so it is damaged or not an .npz file: "
            "copy or download it again."
        ) from None


def _open_npz(path: epath.Path) -> ImageSet:
    shape = None
    with _opened(path, ", or a folder of images") as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        member = next((n for n in (IMAGES, *OTHERS) if n in names), "")
        if member:
            checksum = archive.getinfo(f"{member}.npy").CRC
            with archive.open(f"{member}.npy") as array:
                shape, dtype = _header(array)
    if shape is None:
        raise UserError(
            f"{path} has no images: it needs arr_0, but has {', '.join(names) or 'nothing'}."
        )
    if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or not shape[0]:
        raise UserError(
            f"{path}: {member} is {dtype} {list(shape)}; images must be uint8 [N, H, W, 3]."
        )
    return _Npz(str(path), shape[0], shape[1:], f"{member}.npy", checksum)


def small_arrays(path: str | os.PathLike, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the `wanted` arrays that an .npz file has, compressed ones too.

    Raises:
      UserError: the file cannot be read, or an array is larger than 1 GiB.
    """
    found = {}
    with _opened(files.path(path), " of a reference") as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in wanted:
                with archive.open(member) as array:
                    content = array.read(MOST_SMALL + 1)
                if len(content) > MOST_SMALL:
                    raise ValueError(f"{name} has more than {MOST_SMALL:,} bytes")
                found[name] = arrays.from_npy(content)
    return found


def write(archive: zipfile.ZipFile, images: Any, shape: tuple[int, ...]) -> None:
    """Add images, uint8 [b, H, W, C] at a time, to an archive as ADM's arr_0."""
    with archive.open(f"{IMAGES}.npy", "w", force_zip64=True) as array:
        header = dict(descr="|u1", fortran_order=False, shape=shape)
        np.lib.format.write_array_header_1_0(array, header)
        done = 0
        for part in images:
            array.write(np.ascontiguousarray(part, np.uint8).tobytes())
            done += len(part)
    assert done == shape[0], f"{done} of {shape[0]} images"


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    shape, fortran, dtype = arrays.read_header(file)
    if fortran and len(shape) > 1:
        raise ValueError("an array in Fortran order")
    return shape, dtype


def _skip(file: Any, count: int) -> None:
    while count > 0:
        count -= len(_exactly(file, min(count, 2**24)))


def _exactly(file: Any, count: int) -> bytes:
    content = bytearray()
    while len(content) < count:
        part = file.read(count - len(content))
        if not part:
            raise EOFError(f"it ends after {len(content)} of {count} bytes")
        content += part
    return bytes(content)
