"""What a feature network finds in images: in one batch, and in a whole set."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from sg_jax.evaluation.distances import (
    KernelReference,
    Manifold,
    Predictions,
    Rows,
    SlicedReference,
    Statistics,
)


class Seen(NamedTuple):
    """What a network finds in a batch of B images.

    Attributes:
      features: float32 [B, F].
      probabilities: those of the data's classes [B, num_classes]; None from a network without them.
      spatial: float32 [B, S], features that still depend on position (sFID); or None.
      logits: float32 [B, C], for the network's own classes, without the bias (IS); or None.
    """

    features: np.ndarray
    probabilities: np.ndarray | None = None
    spatial: np.ndarray | None = None
    logits: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """What a network finds in a set of images.

    Attributes:
      features: [N, F] as an array, or in parts; None if only sums were kept.
      labels: the class of each image, int [M].
      predicted: the class that the network sees in each, int [M]; None from a network without
        classes of the data.
      counted: statistics over more images, of which `features` are evenly spread examples; None
        if `features` are all there are.
      spatial: statistics of the spatial features.
      predictions: sums over the logits.
    """

    features: np.ndarray | Rows | None
    labels: np.ndarray
    predicted: np.ndarray | None = None
    counted: Statistics | None = None
    spatial: Statistics | None = None
    predictions: Predictions | None = None

    @property
    def count(self) -> int:
        """Number of images in `statistics`."""
        return self.counted.count if self.counted else len(self.kept)

    @property
    def kept(self) -> np.ndarray | Rows:
        """The features that were kept."""
        assert self.features is not None, "only sums were kept"
        return self.features

    @property
    def width(self) -> int:
        """Number of features of an image."""
        return len(self.statistics.mean)

    @functools.cached_property
    def statistics(self) -> Statistics:
        """Mean and scatter over all the images."""
        return self.counted or Statistics.of(self.kept)

    @functools.cached_property
    def manifold(self) -> Manifold:
        """The balls around `features`, for precision and recall."""
        return Manifold(self.kept)

    @functools.cached_property
    def kernel(self) -> KernelReference:
        """`features` as the real features of KID."""
        return KernelReference(self.kept)

    @functools.cached_property
    def sliced(self) -> SlicedReference | Rows:
        """`features` as the real features of MIND; those in files stay as they are."""
        return self.kept if isinstance(self.kept, Rows) else SlicedReference(self.kept)
