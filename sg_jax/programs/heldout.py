"""The loss on images that are not trained on: all but the weights is the same at every step.

Each image has its own key for its time, noise, dropout and token ids, made from the run's seed and
the image's number. The sparsity rates are those of `Experiment.heldout_rates`. So losses of
different steps can be compared, and the noise in their differences is small. Training is not
affected: neither its state nor its position in the data changes.
"""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sg_jax.data.checks import Checked
from sg_jax.data.images import to_float
from sg_jax.data.sources import Source
from sg_jax.data.wording import Wording
from sg_jax.parallel import processes, sharding

THREADS = 16
STREAM = 0x4E1D  # folded into the run's seed, so that no training step has these keys


@dataclasses.dataclass(frozen=True)
class Images:
    """Some images of a split, in batches; each process has its own rows of them.

    Attributes:
      batches: "image" as stored, "condition", "number" (which image it is) and "counted" (0 for
        rows that only fill the last batch), each [b, ...].
      count: the number of images.
      key: the key that the keys of all images are made from.
    """

    batches: list[dict[str, Any]]
    count: int
    key: jax.Array


def read(
    source: Source,
    count: int,
    batch_size: int,
    seed: int,
    mesh: Mesh,
    wording: Wording | None = None,
) -> Images:
    """Read images that are evenly spread over a split; each process reads its own rows.

    Latents are drawn from their distributions once, with noise that is always the same.

    Args:
      source: the split.
      count: how many; all if there are fewer.
      batch_size: images at once, over all devices.
      seed: of the run.
      mesh: the devices.
      wording: how a text network reads the captions; each image's first caption is used.

    Raises:
      UserError: an image cannot be read, or is not finite.
    """
    count = min(count, len(source))
    share, shares = processes.share(sharding.batch_sharding(mesh))
    checked, size = Checked(source), batch_size // shares
    examples: Any = wording.of(source, checked) if wording else checked

    def example(number: int) -> dict[str, Any]:
        found = examples[min(number, count - 1) * len(source) // count]
        condition = wording.chosen(found, 0)["condition"] if wording else np.int32(found["label"])
        if source.posterior:
            rng = np.random.default_rng((seed, STREAM, number))
            noise = rng.standard_normal(found["image"].shape, np.float32)
            found = {"image": found["image"] + found["std"] * noise}
        return {
            "image": np.asarray(found["image"]),
            "condition": condition,
            "number": np.uint32(number),
            "counted": np.float32(number < count),
        }

    with ThreadPoolExecutor(THREADS) as pool:
        batches = []
        for first in range(0, count, batch_size):
            rows = list(pool.map(example, range(first + share * size, first + (share + 1) * size)))
            batches.append(jax.tree.map(lambda *each: np.stack(each), *rows))
    return Images(batches, count, jax.random.fold_in(jax.random.key(seed), STREAM))


def compile_sum(objective: Callable, model: Any, mesh: Mesh, *more: Any) -> Callable:
    """Return (model, batch, key, *more) -> sum of a batch's losses, compiled at its first call.

    Args:
      objective: (model, batch, keys, *more) -> loss of each image [B].
      model: the network, or its shapes, with its shardings.
      mesh: the devices.
      more: further arguments, such as a teacher, or their shapes, with their shardings.
    """

    def total(model, batch, key, *more):
        keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(batch["number"])
        with sharding.on(mesh):
            return (objective(model, batch, keys, *more) * batch["counted"]).sum()

    whole = sharding.replicated(mesh)
    shardings, others = (jax.tree.map(lambda x: x.sharding, each) for each in (model, more))
    return jax.jit(
        total,
        in_shardings=(shardings, sharding.batch_sharding(mesh), whole, *others),
        out_shardings=whole,
    )


def mean(program: Callable, model: Any, images: Images, mesh: Mesh, *more: Any) -> float:
    """Return the mean loss of all images, the same in every process.

    Args:
      program: from `compile_sum`.
      model: the network.
      images: from `read`.
      mesh: the devices.
      more: what `compile_sum` was given.
    """
    sums = [program(model, batch, images.key, *more) for batch in _placed(images, mesh)]
    return float(np.sum(np.asarray(jax.device_get(sums), np.float64)) / images.count)


def _placed(images: Images, mesh: Mesh) -> Iterator[Any]:
    for batch in images.batches:
        pixels = batch["image"]
        floats = to_float(pixels) if pixels.dtype == np.uint8 else pixels.astype(np.float32)
        yield sharding.to_global({**batch, "image": floats}, mesh)
