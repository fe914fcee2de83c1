"""From conditions to images: noise, guidance and integrator in one compiled program."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sg_jax.data.images import to_uint8
from sg_jax.errors import UserError
from sg_jax.method import checks, presets
from sg_jax.method import guidance as guidance_lib
from sg_jax.method.guidance import Guidance, Plan
from sg_jax.method.network import Condition
from sg_jax.method.sampler import Sampler
from sg_jax.models.backbone import Backbone
from sg_jax.parallel import processes, sharding


def image_keys(seed: int, first: int, count: int) -> jax.Array:
    """Return the keys [count] of images first, first + 1, ..., which are the same in any batch."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    return fold(jax.random.key(seed), jnp.arange(first, first + count))


@functools.partial(jax.jit, static_argnames=("plan", "sampler", "steps", "mesh", "chunk"))
def integrate(
    model: Backbone,
    weak_model: Backbone | None,
    condition: Condition,
    keys: jax.Array,
    scales: jax.Array,
    *,
    plan: Plan,
    sampler: Sampler,
    steps: int,
    mesh: Mesh | None = None,
    chunk: int = -1,
) -> jax.Array:
    """Return samples [B, H, W, C], float32: the whole run is one program.

    Args:
      model: the network.
      weak_model: the network of the weak prediction if it is another one.
      condition: the condition of each image.
      keys: one per image [B], the only source of its randomness.
      scales: omega at each step [steps].
      plan: the static part of the guidance; see `guidance.plan`.
      sampler: the integrator.
      steps: number of sampling steps.
      mesh: the mesh of the arrays; None for one device.
      chunk: see `sample`.
    """
    model = model.in_chunks(chunk)
    weak_model = None if weak_model is None else weak_model.in_chunks(chunk)
    with sharding.on(mesh):
        return _integrate(model, weak_model, condition, keys, scales, plan, sampler, steps)


def _integrate(model, weak_model, condition, keys, scales, plan, sampler, steps):
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    shape = (model.image_size, model.image_size, model.channels)

    def normal(keys):
        return jax.vmap(lambda k: jax.random.normal(k, shape))(keys)

    times = sampler.times(steps)
    x = sampler.start(normal(fold(keys, 0)), times)
    token_keys, noise_keys = fold(keys, 1), fold(keys, 2)
    for stretch in plan.stretches:
        velocity = guidance_lib.guided_velocity(
            model, weak_model, stretch, plan, condition, token_keys, scales, sampler.evaluations
        )
        x = sampler.integrate(
            velocity,
            lambda n: normal(fold(noise_keys, n)),
            x,
            times[stretch.first : stretch.stop + 1],
            first=stretch.first * sampler.evaluations,
            steps=steps,
        )
    return x


def sample(
    model: Backbone,
    labels: Sequence[int] | np.ndarray,
    guidance: str | Guidance = "unguided",
    steps: int = 40,
    seed: int = 0,
    batch_size: int | None = None,
    chunk: int = -1,
    mesh: Mesh | None = None,
    progress: Callable[[int], object] | None = None,
    sampler: str | Sampler = "euler",
    weak_model: Backbone | None = None,
    pixels: bool = True,
) -> np.ndarray:
    """Draw one image per label.

    Image i depends only on (seed, i, its label), whatever the batch size and the number of devices.
    It starts from the same noise under every guidance.

    Args:
      model: from `sg_jax.load`, or any network of `sg_jax.models`.
      labels: B ints in [0, num_classes).
      guidance: a `Guidance` or the name of a preset.
      steps: number of steps of the sampler.
      seed: seed of the noise and the token ids.
      batch_size: most images per program call; all at once by default. The last batch is filled up,
        so there is one compile.
      chunk: most tokens that a device runs through the blocks at once; 0 for all, -1 for the
        device's best number (1024 on a CPU, otherwise all). On TPU v5e 4096 are fastest for XL/2.
      mesh: devices to spread the batch over; by default those of the model. If they belong to
        several processes, all must call this with the same arguments and a model loaded onto the
        mesh.
      progress: called after each batch with the number of images done.
      sampler: a `Sampler` or the name of one.
      weak_model: the network of the weak prediction if it is another one (autoguidance).
      pixels: False returns the network's own samples, such as latents to decode.

    Returns:
      Images, uint8 [B, H, W, C], or float32 with pixels=False. Every process gets all of them.

    Raises:
      UserError: a label or a value is out of range, or the networks cannot make the predictions
        (raised before anything compiles); or samples are not finite.
    """
    guidance = presets.resolve(guidance)
    if weak_model is not None and not guidance.two_networks:
        guidance = dataclasses.replace(guidance, weak_workdir="another network")
    checks.check_setting(model, guidance, weak_model)
    if pixels and model.channels not in (1, 3):
        raise UserError(
            f"Samples of this network have {model.channels} channels, so they are latents, not "
            "pixels: sample(..., pixels=False) returns them for decoding."
        )
    sampler = Sampler(sampler) if isinstance(sampler, str) else sampler
    conditions = model.conditioning.check(labels)
    if steps < 1:
        raise UserError(f"steps={steps} must be at least 1.")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1, or None for all at once.")
    plan, scales = guidance_lib.plan(guidance, sampler, steps)
    if plan.two_networks and weak_model is None:
        raise UserError(
            f"guidance {guidance.describe()!r} needs another network for its weak prediction: give "
            f"it as weak_model, such as sg_jax.load(workdir, step={guidance.weak_step})."
        )
    weak_model = weak_model if plan.two_networks else None
    batch_size = max(1, min(batch_size or len(conditions), len(conditions)))
    if mesh is not None:
        parts = sharding.batch_devices(mesh)
        batch_size = -(-batch_size // parts) * parts
        model, weak_model = (  # this moves nothing if they are there already
            jax.device_put(m, sharding.infer(m, mesh)) for m in (model, weak_model)
        )
    shape = (len(conditions), model.image_size, model.image_size, model.channels)
    images = np.zeros(shape, np.uint8 if pixels else np.float32)
    for first in range(0, len(conditions), batch_size):
        part = conditions[first : first + batch_size]
        padded = np.zeros((batch_size, *part.shape[1:]), part.dtype)
        padded[: len(part)] = part
        keys = image_keys(seed, first, batch_size)
        if mesh is not None:
            padded, keys = spread(padded, keys, mesh)
        x = integrate(
            model,
            weak_model,
            jnp.asarray(padded),
            keys,
            scales,
            plan=plan,
            sampler=sampler,
            steps=steps,
            mesh=mesh,
            chunk=chunk,
        )
        drawn = processes.to_host(x)[: len(part)]
        if broken := int(np.sum(~np.isfinite(drawn).all(axis=(1, 2, 3)))):
            raise UserError(
                f"{broken} of {len(part)} samples contain NaN or infinity ({guidance.describe()}, "
                f"{sampler.name}, {steps} steps): lower the scale, or use more steps. If it also "
                "happens without guidance, the weights are broken."
            )
        images[first : first + len(part)] = to_uint8(drawn) if pixels else drawn
        if progress:
            progress(first + len(part))
    return images


def spread(condition: Condition, keys: jax.Array, mesh: Mesh) -> tuple[Condition, jax.Array]:
    """Split conditions and keys [B], equal in all processes, over the batch axes of a mesh."""
    data = condition, jax.random.key_data(keys)  # a key array itself cannot leave its process
    condition, data = jax.device_put(data, sharding.batch_sharding(mesh))
    return condition, jax.random.wrap_key_data(data)
