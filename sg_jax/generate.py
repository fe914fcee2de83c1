"""Labels to images: noise, guidance and integrator bound into one compiled program."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sg_jax import guidance as guidance_lib
from sg_jax import sampler, sharding
from sg_jax.data.images import to_uint8
from sg_jax.errors import UserError
from sg_jax.guidance import Guidance
from sg_jax.models.backbone import Backbone


def image_keys(seed: int, first: int, count: int) -> jax.Array:
    """Return the keys [count] of images first, first + 1, ...: the same in any batch."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    return fold(jax.random.key(seed), jnp.arange(first, first + count))


@functools.partial(jax.jit, static_argnames=("guidance", "steps"))
def integrate(
    model: Backbone,
    labels: jax.Array,
    keys: jax.Array,
    scale: jax.Array,
    *,
    guidance: Guidance,
    steps: int,
) -> jax.Array:
    """Return samples [B, H, W, C], float32: the whole loop is one program.

    Args:
      model: the network.
      labels: [B].
      keys: one per image [B]; its noise and its token ids come from it alone.
      scale: omega [].
      guidance: the static part, from `Guidance.static`.
      steps: Euler steps.
    """
    shape = (model.image_size, model.image_size, model.channels)
    z = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 0), shape))(keys)
    ids_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, 1)
    velocity = guidance_lib.guided_velocity(model, guidance, labels, ids_keys, scale)
    return sampler.euler(velocity, z, sampler.time_grid(steps))


def sample(
    model: Backbone,
    labels: Sequence[int] | np.ndarray,
    guidance: str | Guidance = "unguided",
    steps: int = 40,
    seed: int = 0,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Draw one image per label.

    Image i depends on (seed, i, its label) alone, whatever the batch size or number of devices, and
    has the same noise under every guidance.

    Args:
      model: from `sg_jax.load`, or any network of `sg_jax.models`.
      labels: B ints in [0, num_classes).
      guidance: a `Guidance` or the name of a preset.
      steps: number of Euler steps.
      seed: of the noise and the token ids.
      batch_size: images per program call, at most; all at once by default. The last batch is
        filled up, so there is one compile.
      mesh: devices to spread the batch over; by default where the model lies.
      progress: called with the number of images done after each batch.

    Returns:
      Images, uint8 [B, H, W, C].

    Raises:
      UserError: a label out of range, or a value that makes no sense, before anything is compiled.
    """
    guidance = guidance_lib.resolve(guidance)
    labels = check_labels(labels, model.num_classes)
    if steps < 1:
        raise UserError(f"steps={steps} must be at least 1.")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1, or None for all at once.")
    batch_size = max(1, min(batch_size or len(labels), len(labels)))
    if mesh is not None:
        batch_size = -(-batch_size // mesh.size) * mesh.size
        model = jax.device_put(model, sharding.infer(model, mesh))  # nothing moves if it is there
    images = np.zeros((len(labels), model.image_size, model.image_size, model.channels), np.uint8)
    for first in range(0, len(labels), batch_size):
        part = labels[first : first + batch_size]
        padded = np.zeros(batch_size, np.int32)
        padded[: len(part)] = part
        keys, scale = image_keys(seed, first, batch_size), jnp.float32(guidance.scale)
        if mesh is not None:
            padded, keys = jax.device_put((padded, keys), sharding.batch_sharding(mesh))
        x = integrate(
            model, jnp.asarray(padded), keys, scale, guidance=guidance.static(), steps=steps
        )
        images[first : first + len(part)] = to_uint8(np.asarray(x))[: len(part)]
        if progress:
            progress(first + len(part))
    return images


def check_labels(
    labels: Sequence[int] | np.ndarray, num_classes: int, name: str = "labels"
) -> np.ndarray:
    """Return labels as int32 [B], or raise naming the first that is out of range."""
    labels = np.atleast_1d(np.asarray(labels))
    if labels.ndim != 1 or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
        raise UserError(f"{name} must be a list of ints, not {labels.dtype} {labels.shape}.")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        raise UserError(
            f"{name}[{wrong[0]}]={labels[wrong[0]]} must lie in [0, {num_classes - 1}]: the model "
            f"knows {num_classes} classes."
        )
    return labels.astype(np.int32)
