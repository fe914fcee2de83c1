"""What sources of image files have in common: an example is decoded from the bytes of its file."""

import dataclasses
import operator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sg_jax.data.checks import fault, not_read
from sg_jax.data.images import JPEG, decode, stored_size
from sg_jax.errors import SettingError, UserError

COLOURED = 3  # channels, unless config.data.channels says otherwise
LOOKED_AT = 1000  # images whose size is read when a data set is opened
THREADS = 16
REMEDY = (
    "replace or remove it before a run begins; or leave out damaged examples with "
    "config.data.damaged='skip', with which a run that has begun also goes on"
)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Encoded:
    """A split of a data set of image files, as `data.sources.Source` describes it.

    To add one, derive a dataclass with `__len__`, `read` and `place`.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    image_size: int | None = dataclasses.field(repr=False)  # None: as stored
    background: tuple[int, int, int] = dataclasses.field(repr=False)
    image_shape: tuple[int, int, int]  # H, W, C
    latents: bool = False
    posterior: bool = False

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, i: int) -> tuple[bytes, int]:
        """Return the file of example `i` and its label; raise an OSError or a UserError."""
        raise NotImplementedError

    def place(self, i: int) -> str:
        """Return where example `i` is, for messages."""
        raise NotImplementedError

    def label_of(self, i: int) -> int:
        """Return the label of example `i`."""
        return self.read(i)[1]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __getitem__(self, i: int) -> dict[str, Any]:
        i = operator.index(i)
        if not 0 <= i < len(self):
            raise IndexError(f"index {i} of {len(self)} examples")
        try:
            encoded, label = self.read(i)
            image = decode(encoded, self.image_shape[2], self.image_size, self.background)
        except (OSError, UserError) as cause:
            raise self._unreadable(i, cause) from cause
        example = {"image": image, "label": label}
        if wrong := fault(example, self):
            sized = image.shape == self.image_shape
            remedy = "Mend the data set" if sized else "Set config.data.image_size"
            raise UserError(
                f"config.data.name={self.name!r}: {self.place(i)} {wrong}. {remedy}, or leave the "
                "example out with config.data.damaged='skip'."
            )
        return example

    def identify(self, i: int) -> tuple[bytes, int]:
        """Return a JPEG as it is, because decoders differ, or else the pixels; and the label."""
        try:
            encoded, label = self.read(i)
            if encoded.startswith(JPEG):
                return encoded, label
            return decode(encoded, self.image_shape[2], None, self.background).tobytes(), label
        except (OSError, UserError) as cause:
            raise self._unreadable(i, cause) from cause

    def _unreadable(self, i: int, cause: Exception) -> UserError:
        return not_read(f"config.data.name={self.name!r}: {self.place(i)}", cause, REMEDY)


Some = TypeVar("Some", bound=Encoded)


def with_shape(source: Some, channels: int) -> Some:
    """Return a source with the shape of its examples.

    Without an `image_size` this is the size of all images, judging by some of them. Images of
    another size are found when they are read.

    Args:
      source: its `image_shape` is ignored.
      channels: config.data.channels.
    """
    side = source.image_size or 0
    source = dataclasses.replace(source, image_shape=(side, side, channels or COLOURED))
    if side:
        return source
    return dataclasses.replace(source, image_shape=(*_common_size(source), source.image_shape[2]))


def _common_size(source: Encoded) -> tuple[int, int]:
    count = min(len(source), LOOKED_AT)
    some = [i * (len(source) - 1) // max(1, count - 1) for i in range(count)]

    def size(i: int) -> tuple[int, int] | None:
        try:
            return stored_size(source.read(i)[0])
        except (OSError, UserError):  # reported when the image is read
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        found = {size: i for i, size in zip(some, pool.map(size, some), strict=True) if size}
    if len(found) > 1:
        texts = [f"{source.place(i)} has {h}x{w}" for (h, w), i in list(found.items())[:2]]
        raise SettingError(
            "config.data",
            "image_size",
            0,
            f"uses images as stored, but those of {source.name!r} differ in size "
            f"({', '.join(texts)}): set it to a side in pixels; all images are then resized and "
            "cropped to it.",
        )
    if not found:
        source.identify(0)  # raises an error with the reason
    return next(iter(found))
