"""From labels or prompts to images: check the arguments, and draw batch by batch."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sg_jax.data.images import to_uint8
from sg_jax.encoders.autoencoder import Autoencoder
from sg_jax.encoders.text import TextEncoder
from sg_jax.errors import Settings, UserError, is_whole, plain, setting, shown
from sg_jax.method import checks, presets
from sg_jax.method import guidance as guidance_lib
from sg_jax.method.guidance import Guidance
from sg_jax.method.sampler import Sampler
from sg_jax.models.backbone import Backbone
from sg_jax.parallel import processes, sharding
from sg_jax.programs import decoding, memory
from sg_jax.programs.conditions import Conditions, Wanted, count_of
from sg_jax.programs.control import Entry
from sg_jax.programs.integration import image_keys, integrate, spread
from sg_jax.runs.progress import Spent

SMALLER = "decode fewer at once (decode_chunk, config.autoencoder.chunk), or draw fewer in a batch"
COMPILE = "compile"  # what `sample_batches` records
MOST_STEPS = 100_000  # float32 spaces the times of this many steps to within a percent


class NotFinite(UserError):
    """Report samples that contain NaN or infinity."""


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
    decode_chunk: int = setting(decoding.AT_ONCE, "latents a device decodes at once", low=1)
    first: int = setting(0, "number of the first image", low=0, below=2**31)


def sample(
    model: Backbone,
    labels: Wanted,
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
    autoencoder: Autoencoder | None = None,
    decode_chunk: int = decoding.AT_ONCE,
    first: int = 0,
    text_encoder: TextEncoder | None = None,
    control: Sequence[Entry] = (),
) -> np.ndarray:
    """Draw one image per label, or per prompt of a text network.

    Image i depends only on (seed, i, its label), whatever the batch size and the number of devices.
    It starts from the same noise under every guidance.

    Args:
      model: from `sg_jax.load`, or any network of `sg_jax.models`.
      labels: B ints in [0, num_classes). For a text network B texts, such as ["a red circle"], or
        their features {"text": [B, L, F], "length": int32 [B]}.
      guidance: a `Guidance`, or the name of a setting: of the run that the network was loaded from,
        or of a preset.
      steps: number of steps of the sampler, an int from 1 to 100,000.
      seed: seed of the noise and the token ids, an int that satisfies 0 <= seed < 2**32.
      batch_size: most images per program call; all at once by default. The last batch is filled up,
        so the program is compiled once.
      chunk: most tokens that a device runs through the blocks at once; 0 for all, -1 for the
        device's best number (1024 on a CPU, otherwise all). On TPU v5e 4096 is fastest for XL/2.
      mesh: devices to spread the batch over; by default those of the model. If they belong to
        several processes, all must call this with the same arguments and a model loaded onto the
        mesh.
      progress: called after each batch with the number of images done.
      sampler: a `Sampler` or the name of one.
      weak_model: the network of the weak prediction if it is a different one (autoguidance).
      pixels: False returns the network's own samples, such as latents to decode.
      autoencoder: from `sg_jax.load_autoencoder`; it decodes the samples of a network of latents.
      decode_chunk: most latents that a device decodes at once.
      first: number of the first image. With first=100, label 0 is drawn like image 100 of a longer
        call, so that a large drawing can be continued or split up.
      text_encoder: from `sg_jax.load_text_encoder`; it encodes texts for a network of features, one
        batch at a time.
      control: attributes of things in the prompts, such as [("circle", "size.npz", 1.5)]: the
        subject, which is a word of each prompt ("circle#2": the second one of that name), a
        direction or its file (`--mode control`, `sg_jax.find_direction`), and how far to go along
        it. Subject and scale may also be lists with one for each prompt. It acts in all predictions
        that read the prompt.

    Returns:
      Images, uint8 [B, H, W, C], or float32 with pixels=False. Every process gets all of them.

    Raises:
      UserError: an argument is of a wrong type or out of range, the networks cannot make the
        predictions, or there is too little memory (raised before anything is drawn); or samples
        are not finite.
    """
    options = dict(
        steps=steps, seed=seed, batch_size=batch_size, chunk=chunk, mesh=mesh, progress=progress,
        sampler=sampler, weak_model=weak_model, pixels=pixels, autoencoder=autoencoder,
        decode_chunk=decode_chunk, first=first, text_encoder=text_encoder,
        control=control,
    )  # fmt: skip
    count, batches = _prepare(model, labels, guidance, **options, collected=True)
    shape = decoding.shape(model, autoencoder if pixels else None)
    images = np.zeros((count, *shape), np.uint8 if pixels else np.float32)
    done = 0
    for part in batches:
        images[done : done + len(part)] = part
        done += len(part)
    return images


def sample_batches(
    model: Backbone,
    labels: Wanted,
    guidance: str | Guidance = "unguided",
    spent: Spent | None = None,
    **options: Any,
) -> Iterator[np.ndarray]:
    """Draw the images of `sample` and yield them batch by batch, so not all must fit in memory.

    Args:
      model, labels, guidance, options: see `sample`, which also lists the errors. They are raised
        here, before the first batch is asked for.
      spent: gets the time of compiling, which is part of the first batch, as COMPILE.

    Returns:
      An iterator over arrays [b, H, W, C] of at most `batch_size` images each.
    """
    return _prepare(model, labels, guidance, **options, spent=spent, collected=False)[1]


def _prepare(
    model: Any,
    labels: Any,
    guidance: Any,
    steps: Any = 40,
    seed: Any = 0,
    batch_size: Any = None,
    chunk: Any = -1,
    mesh: Any = None,
    progress: Any = None,
    sampler: Any = "euler",
    weak_model: Any = None,
    pixels: Any = True,
    autoencoder: Any = None,
    decode_chunk: Any = decoding.AT_ONCE,
    first: Any = 0,
    text_encoder: Any = None,
    control: Any = (),
    *,
    spent: Any = None,
    collected: bool,
) -> tuple[int, Iterator[np.ndarray]]:
    """Check the arguments of `sample`; return the number of images and an iterator over them."""
    numbers = Numbers(steps, seed, batch_size, chunk, decode_chunk, first)
    steps, seed, batch_size, chunk, decode_chunk, first = dataclasses.astuple(numbers)
    named = getattr(model, "named", presets.Named())
    guidance, sampler = presets.resolve(guidance, named.settings), _sampler(sampler)
    pixels = plain(pixels)
    _check_objects(model, weak_model, mesh, progress, pixels, spent)
    if weak_model is not None and not guidance.two_networks:
        guidance = dataclasses.replace(guidance, weak_workdir="another network")
    checks.check_setting(model, guidance, weak_model)
    if autoencoder is not None:
        decoding.check(autoencoder, model)
    elif pixels and model.channels not in (1, 3):
        raise UserError(
            f"Samples of this network have {model.channels} channels, so they are latents, not "
            "pixels: sample(..., autoencoder=sg_jax.load_autoencoder(...)) decodes them, and "
            "sample(..., pixels=False) returns them as they are."
        )
    mesh = sharding.mesh_of(model) if mesh is None else mesh
    place = mesh or sharding.one_device()
    count = count_of(labels)
    networks = [m for m in (model, weak_model) if m is not None]
    at_once = min(batch_size or count, count)
    what = f"Drawing {count} images, {at_once} at once,"
    remedy = "draw fewer images in one call, or give a smaller batch_size"
    decoder = autoencoder if pixels else None
    whole = count * math.prod(decoding.shape(model, decoder)) * (1 if pixels else 4)
    kept = whole if collected else 0
    memory.check(what, memory.sampling(networks, at_once, kept, place), place, remedy)
    if decoder is not None:
        needs = memory.decoding(networks, decoder, at_once, decode_chunk, kept, place)
        memory.check(_decoding_in_words(at_once, decode_chunk), needs, place, SMALLER)
    conditions = Conditions(model.conditioning, labels, text_encoder, control, named.encoder)
    plan, scales = guidance_lib.plan(guidance, sampler, steps, seed)
    if plan.two_networks and weak_model is None:
        share = isinstance(guidance.weak_step, float)
        which = [f"step={'STEP' if share else guidance.weak_step}"]
        which = which if guidance.other_checkpoint else []
        which += [f"weights={guidance.weak_part!r}"] if guidance.weak_weights else []
        raise UserError(
            f"guidance {guidance.describe()!r} needs another network for its weak prediction: give "
            f"it as weak_model, such as sg_jax.load(workdir, {', '.join(which)})."
        )
    weak_model = weak_model if plan.two_networks else None
    if weak_model is not None:
        conditions.check_weak(weak_model.conditioning)
    spent = spent or Spent()

    def draw() -> Iterator[np.ndarray]:
        on_mesh, weak_on_mesh, on_devices = model, weak_model, decoder
        size = max(1, min(batch_size or len(conditions), len(conditions)))
        if mesh is not None:
            parts = sharding.batch_devices(mesh)
            size = -(-size // parts) * parts
            on_mesh, weak_on_mesh = (  # this moves nothing if they are there already
                jax.device_put(m, sharding.infer(m, mesh)) for m in (model, weak_model)
            )
            on_devices = decoder and decoding.place(decoder, mesh)
        static = dict(plan=plan, sampler=sampler, steps=steps, mesh=mesh, chunk=chunk)
        for begin in range(0, len(conditions), size):
            many = min(size, len(conditions) - begin)
            padded = conditions.rows(begin, many, size)
            with contextlib.nullcontext() if begin else spent.on(COMPILE):
                keys = image_keys(seed, first + begin, size)
                if mesh is not None:
                    padded, keys = spread(padded, keys, mesh)
                asked = jax.tree.map(jnp.asarray, padded)
                arguments = (on_mesh, weak_on_mesh, asked, keys, scales)
                if begin == 0:  # what is compiled here is what runs below
                    program = integrate.lower(*arguments, **static).compile()
                    memory.check_program(what, program, place, remedy)
            samples = integrate(*arguments, **static)
            if on_devices is not None:  # NaN stays NaN
                if begin == 0:
                    how = dict(mesh=mesh, chunk=decode_chunk)
                    jax.block_until_ready(samples)  # or this would run while that is compiled
                    with spent.on(COMPILE):
                        program = decoding.decode.lower(on_devices, samples, **how).compile()
                    words = _decoding_in_words(at_once, decode_chunk)
                    memory.check_program(words, program, place, SMALLER)
                samples = decoding.decode(on_devices, samples, mesh=mesh, chunk=decode_chunk)
            drawn = processes.to_host(samples)[:many]
            if broken := int(np.sum(~np.isfinite(drawn).all(axis=(1, 2, 3)))):
                raise NotFinite(
                    f"{broken} of {many} samples contain NaN or infinity "
                    f"({guidance.describe()}, {sampler.name}, {steps} steps): lower the scale, or "
                    "use more steps. If it also happens without guidance, the weights are broken."
                )
            yield to_uint8(drawn) if pixels else drawn
            if progress:
                progress(begin + many)

    return len(conditions), draw()


def _decoding_in_words(images: int, chunk: int) -> str:
    return f"Decoding {images} images, {min(images, chunk)} at once on a device,"


def _sampler(sampler: Any) -> Sampler:
    """Return a sampler by its name, or the sampler itself."""
    if isinstance(sampler, Sampler):
        return sampler
    if not isinstance(sampler, str):
        raise UserError(
            f"sampler={shown(sampler)} must be a Sampler or the name of one, such as 'heun'."
        )
    return Sampler(sampler)


def _check_objects(
    model: Any, weak_model: Any, mesh: Any, progress: Any, pixels: Any, spent: Any
) -> None:
    """Raise unless the arguments of `sample` that are not numbers have the right types."""
    for name, network in dict(model=model, weak_model=weak_model).items():
        if not hasattr(network, "conditioning") and (network is not None or name == "model"):
            raise UserError(
                f"{name}={shown(network)} must be a network, such as sg_jax.load(workdir)."
            )
    sharding.check(mesh)
    if progress is not None and not callable(progress):
        raise UserError(f"progress={shown(progress)} must be a function of one number, or None.")
    if not isinstance(pixels, bool):
        raise UserError(f"pixels={shown(pixels)} must be True or False.")
    if not isinstance(spent, Spent | None):
        raise UserError(f"spent={shown(spent)} must be a sg_jax.runs.progress.Spent, or None.")
