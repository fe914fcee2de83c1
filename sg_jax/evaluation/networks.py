"""Published networks that judge images: Inception and DINOv2, on all devices of all processes.

Each process looks at its share of a batch; what it finds goes to all of them.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from sg_jax.config.sections import Config
from sg_jax.encoders import dinov2, inception
from sg_jax.errors import UserError
from sg_jax.evaluation.found import Seen
from sg_jax.evaluation.metrics import DINOV2, INCEPTION
from sg_jax.evaluation.reading import check_images
from sg_jax.parallel import sharding
from sg_jax.programs import decoding, observing
from sg_jax.runs.progress import log
from sg_jax.weights import encoders

KINDS = (INCEPTION, DINOV2)
SIDE = 8  # of an image, where only shapes are asked for


@dataclasses.dataclass(frozen=True)
class Network:
    """A published network.

    Attributes:
      kind: INCEPTION or DINOV2.
      encoder: the network itself, with its weights on the local devices.
      together: whether the processes share each batch; otherwise one process looks at all of it.
    """

    kind: str
    encoder: Any
    together: bool = True

    test_accuracy = None

    @functools.cached_property
    def _fingerprint(self) -> str:  # reads all weights
        return self.encoder.fingerprint()

    @property
    def digest(self) -> str:
        """Eight hex digits of the weights."""
        return self._fingerprint[:8]

    @property
    def label(self) -> str:
        """What it is and which weights it has, in words."""
        return f"{self.kind} {self._fingerprint}"

    def score(self, images: np.ndarray) -> Seen:
        """Return what it finds in images, uint8 [B, H, W, C], the same in all processes."""
        check_images("images", images)
        processes = jax.process_count() if self.together else 1
        own = -(-len(images) // processes)
        share = images[jax.process_index() * own :][:own] if processes > 1 else images
        return self.score_share(share, own, len(images))

    def score_share(self, images: np.ndarray, size: int, count: int) -> Seen:
        """Return what it finds in the images of all processes, each of which gives its own.

        Args:
          images: those of this process, at most `size`; only the last processes may have fewer, or
            none.
          size: the same in all processes.
          count: number of images of all processes together.
        """
        if not self.together or jax.process_count() == 1:
            return self._seen(observing.observe(self.encoder, images, self._mesh))
        padded = np.zeros((size, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        found = observing.observe(self.encoder, padded, self._mesh)
        whole = multihost_utils.process_allgather(found, tiled=True)
        return self._seen({name: array[:count] for name, array in whole.items()})

    @functools.cached_property
    def widths(self) -> dict[str, int]:
        """How many features an image has, by their names in `Seen`; nothing is computed."""
        image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), np.uint8)
        seen = jax.eval_shape(lambda x: self._seen(self.encoder(x)), image)
        named = dict(features=seen.features, spatial=seen.spatial)
        return {name: x.shape[1] for name, x in named.items() if x is not None}

    @functools.cached_property
    def _mesh(self):
        return sharding.local_mesh()

    def _seen(self, found: dict[str, np.ndarray]) -> Seen:
        if self.kind == DINOV2:
            return Seen(found["class"])
        spatial = found["spatial"]
        flat = spatial.reshape(len(spatial), -1)  # [B, 17 * 17 * 7], in this order
        return Seen(found["pool"], spatial=flat, logits=found["logits_unbiased"])


def load(kind: str, config: Config, together: bool = True) -> Network:
    """Load a published network.

    Args:
      kind: INCEPTION or DINOV2.
      config: `config.evaluate` may say where its weights are.
      together: whether all processes will look at images together.

    Raises:
      UserError: the weights are not there, or are those of another network.
    """
    source = where(kind, config)
    if kind == DINOV2:
        dtype, offset = config.evaluate.dinov2_dtype, dinov2.PUBLISHED_OFFSET
        encoder = encoders.load_encoder(kind, source, dtype, offset=offset)
    else:
        encoder = encoders.load_encoder(kind, source)
    network = Network(kind, decoding.place(encoder, sharding.local_mesh()), together)
    log(f"feature network: {network.label}, read from {source}")
    return network


def shapes_of(kind: str) -> Any:
    """Return a network of shapes, not weights, in the usual size: Inception, DINOv2's ViT-L/14."""
    if kind == INCEPTION:
        return inception.of_shapes(kind, jnp.dtype("float32"))
    sizes = dinov2.Sizes(1024, 24, 16, hidden=4096, gated=False, patch=14, table=37)
    return dinov2.of_shapes(kind, sizes, jnp.dtype("float32"))


def where(kind: str, config: Config) -> Any:
    """Return where the weights of a network are; raise a UserError if they are not there."""
    given = {INCEPTION: config.evaluate.inception, DINOV2: config.evaluate.dinov2}[kind]
    try:
        return encoders.where(kind, given)
    except UserError as error:
        raise UserError(f"{error} On the command line: --config.evaluate.{kind}=FILE.") from None
