"""Splits in TFDS's notation, such as "train[:90%]" or "train+test", for data outside TFDS."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from sg_jax.errors import SettingError, nearest, one_line

# Names of folders that hold a split, not a class.
NAMES = frozenset(
    "train training test testing val valid validation dev eval evaluation".split()
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Split:
    """What TFDS's notation needs to know of a split; it counts as one file."""

    num_examples: int

    @property
    def shard_lengths(self) -> list[int]:
        return [self.num_examples]


def select(name: str, split: str, counts: Mapping[str, int]) -> list[tuple[str, np.ndarray]]:
    """Return the parts that a split is made of: names of whole splits, and indices into each.

    Args:
      name: config.data.name, for messages.
      split: a split, a slice of one, or a sum of these.
      counts: the number of examples in each split.

    Raises:
      SettingError: there is no such split, or it is empty.
    """
    import tensorflow_datasets as tfds

    there = ", ".join(f"{key} ({count:,})" for key, count in counts.items())
    try:
        splits = {key: _Split(count) for key, count in counts.items()}
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
    except Exception as cause:
        whole = split.partition("[")[0]
        hint = "" if whole in counts else nearest(whole, counts)
        raise SettingError(
            "config.data",
            "split",
            split,
            f"is not a split of {name!r} ({one_line(cause)}). There are: {there}, and slices such "
            f"as 'train[:90%]' and 'train[90%:]'.{hint}",
        ) from cause
    found = [
        (part.splitname, np.arange(counts[part.splitname])[part.from_ : part.to]) for part in parts
    ]
    if not sum(len(ids) for _, ids in found):
        raise SettingError(
            "config.data", "split", split, f"of {name!r} is empty. There are: {there}."
        )
    return found


def spread(keys: Sequence[bytes], labels: np.ndarray) -> np.ndarray:
    """Return an order of examples in which every stretch has a fair share of each class.

    So 'train[:90%]' has 90% of each class, chosen at random but always the same. The order does not
    depend on that of the arguments.

    Args:
      keys: eight bytes for each example, from a hash of its name.
      labels: int [N], the class of each.
    """
    values = np.frombuffer(b"".join(keys), ">u8")
    by_class = np.lexsort((values, labels))
    counts = np.bincount(labels, minlength=1)
    starts = np.cumsum(counts) - counts
    ordered = labels[by_class]
    place = (np.arange(len(labels)) - starts[ordered] + 0.5) / counts[ordered]
    return by_class[np.lexsort((ordered, place))]
