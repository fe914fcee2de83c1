"""What a classifier sees in generated images: the Inception Score, and the accuracy of classes."""

import dataclasses
from typing import Any

import numpy as np

from sg_jax.errors import UserError, is_whole
from sg_jax.evaluation.rows import BLOCK, Rows

SPLIT = 5000  # images of a split in ADM's evaluation


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Sums over a classifier's probabilities, from which the Inception Score is computed.

    The images are divided into splits in their order, and S splits have begun. All fields are
    numbers and arrays, so that they can be stored; `Predictions(**fields)` continues from them.

    Attributes:
      split: images in a split.
      count: N, images so far.
      probabilities: sum of p(c | x) over the images of each split, float64 [S, C].
      information: sum of p(c | x) log p(c | x) over its images and classes, float64 [S].
    """

    split: int
    count: int
    probabilities: np.ndarray
    information: np.ndarray

    def __post_init__(self) -> None:
        for name in ("split", "count"):
            object.__setattr__(self, name, int(getattr(self, name)))
        sums = (self.probabilities, self.information)
        rows = -(-self.count // self.split) if self.split > 0 else -1
        if np.ndim(sums[0]) != 2 or [len(each) for each in sums] != [rows, rows]:
            raise UserError(
                f"Predictions of {self.count} images in splits of {self.split} have sums of shape "
                f"{[list(np.shape(each)) for each in sums]}; they must be [{rows}, C] and [{rows}]."
            )

    @classmethod
    def of(cls, logits: Any, split: int = SPLIT) -> "Predictions":
        """Return the sums over images with these logits, [N, C] without the bias; N may be 0.

        Raises:
          UserError: a wrong shape, NaN or infinity, or `split` below 1.
        """
        if not is_whole(split) or split < 1:
            raise UserError(f"split={split!r} must be at least 1 image per split.")
        rows = Rows.of(logits, "logits", at_least=0)
        return cls(split, 0, np.zeros((0, rows.width)), np.zeros(0)).extend(rows)

    def extend(self, logits: Any) -> "Predictions":
        """Return the sums with further images, [N, C]; `self` stays as it is.

        The sums are the same, bit for bit, in whatever batches the images come.

        Raises:
          UserError: a wrong shape, NaN or infinity, or another number of classes.
        """
        rows = Rows.of(logits, "logits", at_least=0)
        classes = self.probabilities.shape[1]
        if rows.width != classes:
            raise UserError(f"logits has {rows.width} classes; earlier ones had {classes}.")
        count = self.count
        # With the information in a last column, one running sum over the images is enough.
        sums = list(np.concatenate([self.probabilities, self.information[:, None]], axis=1))
        for block in rows.blocks(BLOCK):
            while len(block):
                if count % self.split == 0:
                    sums.append(np.zeros(classes + 1))
                some = block[: self.split - count % self.split]
                sums[-1] = np.add.accumulate(np.vstack([sums[-1], _terms(some)]), axis=0)[-1]
                block, count = block[len(some) :], count + len(some)
        joined = np.reshape(sums, (len(sums), classes + 1))
        return Predictions(self.split, count, joined[:, :-1], joined[:, -1])

    # Salimans et al. 2016 (arXiv 1606.03498): exp E_x KL(p(c | x) || p(c)), of one split
    def score(self) -> float:
        """Return the Inception Score, 1..C: the mean over the splits (the last one may be shorter).

        Raises:
          UserError: there are no images.
        """
        if not self.count:
            raise UserError("logits has 0 samples; at least 1 is needed: draw more.")
        counts = np.full(len(self.information), self.split)
        counts[-1] = self.count - self.split * (len(counts) - 1)
        mean = self.probabilities / counts[:, None]
        entropy = -np.sum(mean * np.log(np.where(mean > 0, mean, 1.0)), axis=1)
        return float(np.exp(self.information / counts + entropy).mean())


def _terms(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, and the sum of p log p in a last column, [N, C + 1] from [N, C]."""
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    powers = np.exp(logits)
    total = powers.sum(axis=1, keepdims=True)
    p = powers / total
    information = np.sum(p * logits, axis=1, keepdims=True) - np.log(total)
    return np.concatenate([p, information], axis=1)


def inception_score(logits: Any, split: int = SPLIT) -> float:
    """Compute the Inception Score as ADM's evaluation does: the mean over splits of the images.

    Args:
      logits: the classifier's, without its bias, [N, C], an array or `Rows`; or `Predictions`,
        which have their own `split`.
      split: images in a split, in their order; the last may be shorter, and counts as much.

    Returns:
      The score, 1..C; higher is better.

    Raises:
      UserError: a wrong shape, no samples, NaN or infinity, or `split` below 1.

    References:
      Salimans et al., Improved Techniques for Training GANs, arXiv 1606.03498.
    """
    return (logits if isinstance(logits, Predictions) else Predictions.of(logits, split)).score()


# accuracy = mean of [argmax_c p(c | x_i) = c_i]
def class_accuracy(probabilities: Any, labels: Any) -> float:
    """Compute how often a classifier sees the class that an image was generated for.

    Args:
      probabilities: [N, num_classes].
      labels: the requested classes, int [N].

    Returns:
      The share of hits, 0..1.

    Raises:
      UserError: wrong shapes, no samples, NaN, or labels outside 0..num_classes - 1.
    """
    rows = Rows.of(probabilities, "probabilities")
    labels = np.asarray(labels)
    count, classes = len(rows), rows.width
    if labels.shape != (count,) or labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"labels of shape {list(labels.shape)} must be [{count}] with values in "
            f"0..{classes - 1}, to match probabilities [{count}, {classes}]."
        )
    seen = np.concatenate([block.argmax(axis=1) for block in rows.blocks()])
    return float(np.mean(seen == labels))
