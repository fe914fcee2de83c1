"""From conditions to images: noise, guidance and integrator in one compiled program."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sg_jax.data.images import to_uint8
from sg_jax.errors import Settings, UserError, is_whole, plain, setting, shown
from sg_jax.method import checks, presets
from sg_jax.method import guidance as guidance_lib
from sg_jax.method.guidance import Guidance, Plan
from sg_jax.method.network import Condition
from sg_jax.method.sampler import Sampler
from sg_jax.models.backbone import Backbone
from sg_jax.parallel import processes, sharding
from sg_jax.programs import memory

MOST_STEPS = 100_000  # float32 spaces the times of so many steps to within a percent


def _batch(value: Any) -> str:
    fits = value is None or (is_whole(value) and value >= 1)
    return "" if fits else "must be an int of at least 1, or None for all images at once."


@dataclasses.dataclass(frozen=True)
class Numbers(Settings):
    """The numbers that `sample` takes."""

    SECTION = "sample"

    steps: int = setting(
        40, "steps of the sampler", low=1, high=MOST_STEPS, note=", because times are float32"
    )
    seed: int = setting(0, "of the noise and the token ids", low=0, below=2**32)
    batch_size: int | None = setting(None, "most images per program call", rule=_batch)
    chunk: int = setting(-1, "tokens at once; 0: all, -1: the device's best number", low=-1)


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
      guidance: a `Guidance`, or the name of a setting: of the run that the network was loaded from,
        or of a preset.
      steps: number of steps of the sampler, an int from 1 to 100,000.
      seed: seed of the noise and the token ids, an int that satisfies 0 <= seed < 2**32.
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
      UserError: an argument is of a wrong type or out of range, the networks cannot make the
        predictions, or there is too little memory (raised before anything is drawn); or samples
        are not finite.
    """
    numbers = Numbers(steps, seed, batch_size, chunk)
    steps, seed, batch_size, chunk = dataclasses.astuple(numbers)
    named = getattr(model, "named", presets.Named()).settings
    guidance, sampler = presets.resolve(guidance, named), _sampler(sampler)
    pixels = plain(pixels)
    _check_objects(model, weak_model, mesh, progress, pixels)
    if weak_model is not None and not guidance.two_networks:
        guidance = dataclasses.replace(guidance, weak_workdir="another network")
    checks.check_setting(model, guidance, weak_model)
    if pixels and model.channels not in (1, 3):
        raise UserError(
            f"Samples of this network have {model.channels} channels, so they are latents, not "
            "pixels: sample(..., pixels=False) returns them for decoding."
        )
    place = sharding.one_device() if mesh is None else mesh
    count = _count(labels)
    networks = [m for m in (model, weak_model) if m is not None]
    at_once = min(batch_size or count, count)
    what = f"Drawing {count} images, {at_once} at once,"
    remedy = "draw fewer images in one call, or give a smaller batch_size"
    memory.check(what, memory.sampling(networks, at_once, count, pixels, place), place, remedy)
    conditions = model.conditioning.check(labels)
    plan, scales = guidance_lib.plan(guidance, sampler, steps)
    if plan.two_networks and weak_model is None:
        share = isinstance(guidance.weak_step, float)
        step = "STEP" if share else guidance.weak_step
        raise UserError(
            f"guidance {guidance.describe()!r} needs another network for its weak prediction: give "
            f"it as weak_model, such as sg_jax.load(workdir, step={step})."
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
        arguments = (model, weak_model, jnp.asarray(padded), keys, scales)
        static = dict(plan=plan, sampler=sampler, steps=steps, mesh=mesh, chunk=chunk)
        if first == 0:  # what is compiled here is what runs below
            program = integrate.lower(*arguments, **static).compile()
            memory.check_program(what, program, place, remedy)
        x = integrate(*arguments, **static)
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


def _sampler(sampler: Any) -> Sampler:
    """Return a sampler by its name, or the sampler itself."""
    if isinstance(sampler, Sampler):
        return sampler
    if not isinstance(sampler, str):
        raise UserError(
            f"sampler={shown(sampler)} must be a Sampler or the name of one, such as 'heun'."
        )
    return Sampler(sampler)


def _count(labels: Any) -> int:
    """Return how many labels there are, before they are read."""
    try:
        return max(len(labels), 1)
    except TypeError:  # a single one
        return 1
    except OverflowError:  # of a range
        return sys.maxsize


def _check_objects(model: Any, weak_model: Any, mesh: Any, progress: Any, pixels: Any) -> None:
    """Raise unless the arguments of `sample` that are no numbers have the right types."""
    for name, network in dict(model=model, weak_model=weak_model).items():
        if not hasattr(network, "conditioning") and (network is not None or name == "model"):
            raise UserError(
                f"{name}={shown(network)} must be a network, such as sg_jax.load(workdir) returns."
            )
    sharding.check(mesh)
    if progress is not None and not callable(progress):
        raise UserError(f"progress={shown(progress)} must be a function of one number, or None.")
    if not isinstance(pixels, bool):
        raise UserError(f"pixels={shown(pixels)} must be True or False.")


def spread(condition: Condition, keys: jax.Array, mesh: Mesh) -> tuple[Condition, jax.Array]:
    """Split conditions and keys [B], equal in all processes, over the batch axes of a mesh."""
    data = condition, jax.random.key_data(keys)  # a key array itself cannot leave its process
    condition, data = jax.device_put(data, sharding.batch_sharding(mesh))
    return condition, jax.random.wrap_key_data(data)
