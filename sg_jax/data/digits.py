"""TFDS builder for scikit-learn's handwritten digits: real images, no download.

The 1,797 images are the test part of the UCI "Optical Recognition of Handwritten Digits" data,
which is installed with scikit-learn: 8x8 pixels, grey values 0 to 16.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from sg_jax.data.images import png

_CITATION = """\
@misc{alpaydin1998optdigits,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49},
}"""


class Digits(tfds.core.GeneratorBasedBuilder):
    """Build the handwritten digits of Alpaydin & Kaynak (UCI optdigits, 1998).

    Every sixth image of each class is in the split `test`, the others are in `train`; both keep
    scikit-learn's order.
    """

    VERSION = tfds.core.Version("1.0.0")
    # Without this TFDS looks for checksums of downloads with a package that may not be installed.
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="1,797 handwritten digits in 8x8 grey pixels, as scikit-learn holds them.",
            homepage="https://archive.ics.uci.edu/dataset/80",
            citation=_CITATION,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager  # nothing to download
        return {
            "train": self._generate_examples(test=False),
            "test": self._generate_examples(test=True),
        }

    def _generate_examples(self, test: bool) -> Iterator[tuple[int, dict]]:
        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8]
        seen: Counter[int] = Counter()
        for i, (image, label) in enumerate(zip(images, digits.target.tolist(), strict=True)):
            seen[label] += 1
            if (seen[label] % 6 == 0) == test:
                yield i, {"id": f"digit_{i:04d}", "image": png(image[..., None]), "label": label}
