"""Turn the images of a source into latents to store, on all local devices of a process.

A frozen encoder turns their captions into features. Without an autoencoder, images stay images.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sg_jax.data import captions
from sg_jax.data.images import png
from sg_jax.data.sources import Source
from sg_jax.data.text_features import packed
from sg_jax.encoders.autoencoder import Autoencoder
from sg_jax.encoders.text import TextEncoder
from sg_jax.errors import UserError
from sg_jax.parallel import sharding
from sg_jax.programs import decoding

Records = Iterator[dict[str, Any]]
KEPT = ("label", "captions")  # stored with an image's latents


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How images become latents.

    Attributes:
      autoencoder: on the devices of the mesh; see `decoding.place`. None: images are stored.
      mesh: the local devices.
      dtype: type of the stored arrays, "float16" or "bfloat16".
      chunk: images that a device encodes at once.
      mirror: whether each image is followed by its mirror image.
      posterior: whether the mean and the standard deviation are stored; otherwise a latent.
      seed: for drawing latents; None stores their mean.
      threads: how many threads read images.
      text: encodes captions; None: only the captions are stored.
    """

    autoencoder: Autoencoder | None
    mesh: Mesh
    dtype: str
    chunk: int
    mirror: bool
    posterior: bool
    seed: int | None
    threads: int
    text: TextEncoder | None = None

    @property
    def times(self) -> int:
        """Examples per image."""
        return 1 + self.mirror

    @property
    def size(self) -> int:
        """Images per batch."""
        return self.chunk * sharding.batch_devices(self.mesh)

    def records(self, source: Source, examples: range) -> Records:
        """Yield the records of some examples: image i is example i, or 2 i and 2 i + 1.

        While the devices compute, the next images are read.

        Args:
          source: uint8 images with sides that are multiples of the factor.
          examples: their numbers; with mirror images they begin and end with whole images.

        Raises:
          UserError: an image cannot be read, or its latents do not fit into the type.
        """
        images = range(examples.start // self.times, -(-examples.stop // self.times))
        parts = [images[i : i + self.size] for i in range(0, len(images), self.size)]
        reads: collections.deque[list[Future]] = collections.deque()
        running: collections.deque[tuple] = collections.deque()
        with ThreadPoolExecutor(self.threads, "images") as pool:
            try:
                for part in parts[:2]:
                    reads.append([pool.submit(_example, source, i) for i in part])
                for i, part in enumerate(parts):
                    found = [future.result() for future in reads.popleft()]
                    kept = [{key: e[key] for key in KEPT if key in e} for e in found]
                    started = self._start(found)
                    if self.text is not None:
                        self._add_features(source, part, kept)
                    if i + 2 < len(parts):
                        reads.append([pool.submit(_example, source, j) for j in parts[i + 2]])
                    running.append((part, kept, started))
                    if len(running) > 1:
                        yield from self._finish(*running.popleft())
                while running:
                    yield from self._finish(*running.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _add_features(self, source: Source, part: range, kept: Sequence[dict[str, Any]]) -> None:
        """Add the features of their captions to the images of a batch."""
        assert self.text is not None
        texts = [text for each in kept for text in each["captions"]]
        try:
            made = self.text(texts)
        except UserError:  # again one by one, to find the image
            for i, each in zip(part, kept, strict=True):
                with _named(source, i):
                    self.text(each["captions"])
            raise
        first = 0
        for i, each in zip(part, kept, strict=True):
            rows = slice(first, first := first + len(each["captions"]))
            with _named(source, i):
                each |= packed(made["text"][rows], made["length"][rows], self.dtype)

    def _start(self, found: Sequence[Mapping[str, Any]]) -> Any:
        """Start encoding a batch; the last one is filled up, so that one program runs them all."""
        if self.autoencoder is None:
            return [example["image"] for example in found]
        first = found[0]["image"]
        images = np.zeros((self.size, *first.shape[:2], 3), np.uint8)
        for image, example in zip(images, found, strict=False):
            image[:] = example["image"]  # grey is repeated
        batch = jax.device_put(images, sharding.batch_sharding(self.mesh))
        return decoding.encode(
            self.autoencoder, batch, mesh=self.mesh, chunk=self.chunk, mirror=self.mirror
        )

    def _finish(self, part: range, kept: Sequence[Mapping], encoded: Any) -> Records:
        if self.autoencoder is None:
            for image, of_image in zip(encoded, kept, strict=True):
                for flipped in (image, image[:, ::-1])[: self.times]:
                    yield {"image": png(flipped), **of_image}
            return
        mean, std = (np.asarray(array) for array in encoded)  # [B, 1 or 2, h, w, C]
        dtype = jnp.dtype(self.dtype)
        for i, of_image, means, stds in zip(part, kept, mean, std, strict=False):
            for j in range(self.times):
                parts = self._stored(i * self.times + j, means[j], stds[j])
                with np.errstate(over="ignore"):  # infinity is reported
                    record = {key: value.astype(dtype) for key, value in parts.items()}
                for value in record.values():
                    if not np.isfinite(value.astype(np.float32)).all():
                        raise UserError(
                            f"The latents of image {i} are not finite in {self.dtype}: use "
                            "--dtype bfloat16, or another autoencoder."
                        )
                yield {**record, **of_image}

    def _stored(self, example: int, mean: np.ndarray, std: np.ndarray) -> dict[str, np.ndarray]:
        if self.posterior:
            return {"latents": mean, "latents_std": std}
        if self.seed is None:
            return {"latents": mean}
        noise = np.random.default_rng((self.seed, example)).standard_normal(mean.shape, np.float32)
        return {"latents": mean + std * noise}


@contextlib.contextmanager
def _named(source: Source, i: int) -> Iterator[None]:
    """Name the example in any error raised here."""
    try:
        yield
    except UserError as error:
        where = f", {source.file_of(i)}" if hasattr(source, "file_of") else ""
        raise UserError(f"config.data.name={source.name!r}: example {i}{where}: {error}") from None


def _example(source: Source, i: int) -> dict[str, Any]:
    """Return example `i` with its captions, if the source has any."""
    texts, found = captions.of(source), source[i]
    return found if texts is None else {**found, "captions": list(texts[i])}
