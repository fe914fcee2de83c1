"""TFDS builder for the shapes: coloured shapes on grey, with true captions, and no download.

The scenes are drawn at random (`shapes_scenes`), but they are always the same.
"""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from sg_jax.data.images import png
from sg_jax.data.shapes_captions import captions
from sg_jax.data.shapes_outlines import SHAPES, SIDE
from sg_jax.data.shapes_scenes import COLOURS, Draws, draw, random_scene

TRAIN, TEST = 20_000, 2_000  # images


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Build the shapes: one to three things in images of 32x32 pixels.

    No image of `train` has a combination that is held out, nor does any in the first half of
    `test`. Every image in its second half has one. The label is the shape and colour of the
    thing that is furthest to the left.
    """

    VERSION = tfds.core.Version("3.0.0")
    url_infos = None  # as in `data.digits`

    def _info(self) -> tfds.core.DatasetInfo:
        names = [f"{colour} {shape}" for shape in SHAPES for colour in COLOURS]
        return tfds.core.DatasetInfo(
            builder=self,
            description="Scenes of coloured shapes in 32x32 pixels, with captions that are true.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=names),
                    "captions": tfds.features.Sequence(tfds.features.Text()),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager  # nothing to download
        return {
            "train": self._generate_examples(0, TRAIN),
            "test": self._generate_examples(TRAIN, TEST, TEST // 2),
        }

    def _generate_examples(
        self, begin: int, count: int, unseen: int = 0
    ) -> Iterator[tuple[int, dict]]:
        """Yield the scenes from number `begin` on; the last `unseen` ones are held out."""
        for i in range(count):
            scene = random_scene(Draws(begin + i), unseen=i >= count - unseen)
            first = min(scene.things, key=lambda thing: thing.x)
            example = {
                "id": f"scene_{begin + i:05d}",
                "image": png(draw(scene)),
                "label": f"{first.colour} {first.shape}",
                "captions": list(captions(scene)),
            }
            yield i, example
