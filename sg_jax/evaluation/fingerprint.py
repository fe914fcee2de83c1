"""What a feature network was made from: numbers of different networks must not be compared."""

import dataclasses
import json
import zlib

import numpy as np

from sg_jax.encoders.classifier import Recipe
from sg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What a feature network was made from: equal fingerprints, comparable numbers.

    Attributes:
      name: of the data set.
      image_shape: (H, W, C).
      num_classes: number of classes.
      train_images: number of training images.
      test_images: number of test images.
      data_crc: CRC-32 of the pixels and labels of both.
      recipe: size, training and seed.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    train_images: int
    test_images: int
    data_crc: int
    recipe: Recipe

    def to_json(self) -> str:
        """Return the fingerprint as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Fingerprint":
        """Read what `to_json` wrote; TypeError, KeyError or ValueError for anything else."""
        fields = json.loads(text)
        fields["image_shape"] = tuple(fields["image_shape"])
        fields["recipe"] = Recipe(**fields["recipe"])
        return cls(**fields)

    def differences(self, other: "Fingerprint") -> str:
        """Say in words where `other` differs: "seed 1 instead of 0"; empty if it does not."""
        ours, theirs = (dataclasses.asdict(each) for each in (self, other))
        ours |= ours.pop("recipe")
        theirs |= theirs.pop("recipe")
        return ", ".join(
            f"{name} {theirs[name]} instead of {mine}"
            for name, mine in ours.items()
            if theirs[name] != mine
        )


def fingerprint_of(
    images: np.ndarray,
    labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    name: str,
    recipe: Recipe,
) -> Fingerprint:
    """Check a data set and summarise it.

    Args:
      images: training images, uint8 [N, H, W, C].
      labels: their classes, int [N] in 0..num_classes - 1.
      test_images: uint8 [M, H, W, C].
      test_labels: int [M].
      num_classes: number of classes.
      name: of the data set.
      recipe: how the network is made from it.

    Returns:
      The Fingerprint.

    Raises:
      UserError: for images that are not uint8 [N, H, W, C], or labels that do not fit them.
    """
    check_images("images", images)
    check_images("test_images", test_images, images.shape[1:])
    if not len(images) or not len(test_images):
        raise UserError(
            f"images has {len(images)} and test_images {len(test_images)} of them; training and "
            "testing both need some."
        )
    _check_labels("labels", labels, len(images), num_classes)
    _check_labels("test_labels", test_labels, len(test_images), num_classes)
    crc = 0
    for array in (images, test_images):
        crc = zlib.crc32(np.ascontiguousarray(array), crc)
    for array in (labels, test_labels):  # int32 and int64 labels are the same labels
        crc = zlib.crc32(np.ascontiguousarray(array, np.int64), crc)
    return Fingerprint(
        name, images.shape[1:], num_classes, len(images), len(test_images), crc, recipe
    )


def check_images(name: str, images: np.ndarray, shape: tuple[int, ...] | None = None) -> None:
    """Raise UserError unless `images` is uint8 [N, H, W, C], with (H, W, C) = `shape` if given."""
    found = f"{getattr(images, 'dtype', type(images).__name__)} {list(np.shape(images))}"
    sides = "H, W, C" if shape is None else ", ".join(map(str, shape))
    fits = np.ndim(images) == 4 and (shape is None or images.shape[1:] == shape)
    if not fits or images.dtype != np.uint8:
        raise UserError(f"{name} is {found}; it must be uint8 [N, {sides}].")


def _check_labels(name: str, labels: np.ndarray, count: int, num_classes: int) -> None:
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{name} is {labels.dtype} {list(labels.shape)}; it must be integers [{count}], one "
            "for each image."
        )
    if count and not 0 <= labels.min() <= labels.max() < num_classes:
        raise UserError(
            f"{name} runs from {labels.min()} to {labels.max()}; with num_classes={num_classes} "
            f"labels must lie in 0..{num_classes - 1}."
        )
