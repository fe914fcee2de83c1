"""What a feature network was made from; results of different networks must not be compared."""

import dataclasses
import json
import zlib

import numpy as np

from sg_jax.encoders.classifier import Recipe
from sg_jax.errors import UserError
from sg_jax.evaluation.reading import Reader, in_parts, spread

MOST, SOME = 100_000, 10_000  # with more images than MOST, the CRC covers SOME of them


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What a feature network was made from; results with equal fingerprints can be compared.

    Attributes:
      name: name of the data set; it may be a folder that moves, so it is not compared.
      image_shape: (H, W, C).
      num_classes: number of classes.
      train_images: number of training images.
      test_images: number of test images.
      data_crc: CRC-32 of the pixels and labels of both.
      recipe: size, training and seed.
      checked: how many evenly spread images `data_crc` covers in a set of more than 100,000; 0: it
        covers all images.
    """

    name: str = dataclasses.field(compare=False)
    image_shape: tuple[int, int, int]
    num_classes: int
    train_images: int
    test_images: int
    data_crc: int
    recipe: Recipe
    checked: int = 0

    def to_json(self) -> str:
        """Return the fingerprint as one line of JSON."""
        fields = dataclasses.asdict(self)
        if not self.checked:  # as written before this field existed, because digests depend on it
            del fields["checked"]
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> "Fingerprint":
        """Read what `to_json` wrote; TypeError, KeyError or ValueError for anything else."""
        fields = json.loads(text)
        fields["image_shape"] = tuple(fields["image_shape"])
        fields["recipe"] = Recipe(**fields["recipe"])
        return cls(**fields)

    def differences(self, other: "Fingerprint") -> str:
        """Return how `other` differs, such as "seed 1 instead of 0"; empty if it does not."""
        ours, theirs = (dataclasses.asdict(each) for each in (self, other))
        ours |= ours.pop("recipe")
        theirs |= theirs.pop("recipe")
        return ", ".join(
            f"{name} {theirs[name]} instead of {mine}"
            for name, mine in ours.items()
            if theirs[name] != mine
        )


def fingerprint_of(
    train: Reader, test: Reader, *, num_classes: int, name: str, recipe: Recipe
) -> Fingerprint:
    """Check a data set and summarise it, reading it once.

    Args:
      train: the training images.
      test: the test images.
      num_classes: number of classes.
      name: name of the data set.
      recipe: how the network is trained on it.

    Returns:
      The Fingerprint.

    Raises:
      UserError: test images have another shape, or labels are outside 0..num_classes - 1.
    """
    if test.image_shape != train.image_shape:
        raise UserError(
            f"{test.name} has images {list(test.image_shape)} and {train.name} has images "
            f"{list(train.image_shape)}; they must have the same shape."
        )
    crc, labels = 0, []
    for reader in (train, test):
        ids = spread(SOME if len(reader) > MOST else len(reader), len(reader))
        labels.append(np.empty(len(ids), np.int64))  # always int64, however they are stored
        done = 0
        for images, found in reader.batches(in_parts(ids)):
            crc = zlib.crc32(images.tobytes(), crc)
            labels[-1][done : done + len(found)] = found
            done += len(found)
        check_labels(f"labels of {reader.name}", labels[-1], num_classes)
    for array in labels:
        crc = zlib.crc32(array.tobytes(), crc)
    checked = SOME if max(len(train), len(test)) > MOST else 0
    return Fingerprint(
        name, train.image_shape, num_classes, len(train), len(test), crc, recipe, checked
    )


def check_labels(name: str, labels: np.ndarray, num_classes: int) -> None:
    """Raise UserError unless the labels lie in 0..num_classes - 1."""
    if not 0 <= labels.min() <= labels.max() < num_classes:
        raise UserError(
            f"{name} run from {labels.min()} to {labels.max()}; with num_classes={num_classes} "
            f"they must lie in 0..{num_classes - 1}."
        )
