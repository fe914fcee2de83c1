"""Find the direction of an attribute in a trained network (`method.control`)."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from sg_jax.data import contrasts as contrasts_lib
from sg_jax.data.contrasts import Contrast
from sg_jax.data.directions import Direction
from sg_jax.data.subjects import Marked
from sg_jax.encoders.text import TextEncoder
from sg_jax.errors import Settings, UserError, one_of, plain, setting, shown
from sg_jax.method import control as steering
from sg_jax.method import presets
from sg_jax.method.guidance import Guidance
from sg_jax.method.network import Condition
from sg_jax.models.backbone import Backbone
from sg_jax.models.text import Text
from sg_jax.parallel import processes, sharding
from sg_jax.programs import control, sampling
from sg_jax.programs.conditions import check_encoder
from sg_jax.runs.progress import log

METHODS = ("learned", "difference")
PART, DRAWN = 64, 64  # prompts whose tokens are computed at once, and images drawn at once


@dataclasses.dataclass(frozen=True)
class Learning(Settings):
    """How a direction is learned."""

    SECTION = "config.control"

    steps: int = setting(200, "of the optimiser (Adam), for a learned direction", low=1)
    batch_size: int = setting(8, "images of a step", low=1, high=65_536)
    learning_rate: float = setting(0.03, "of Adam; it falls to 0", above=0)
    images: int = setting(
        128, "that the network draws from the neutral prompts, to learn on", low=1, high=1_000_000
    )
    draw_steps: int = setting(10, "sampling steps of each of them", low=1, high=sampling.MOST_STEPS)
    lowest: float = setting(0.1, "smallest scale in training", above=0)
    highest: float = setting(1.5, "largest scale in training, in both directions", above=0)


def find_direction(
    model: Backbone,
    prompts: Sequence[tuple[str, str, str]] | Sequence[Contrast],
    method: str = "learned",
    attribute: str = "attribute",
    seed: int = 0,
    text_encoder: TextEncoder | None = None,
    guidance: str | Guidance = "unguided",
    mesh: Mesh | None = None,
    progress: Callable[[int, float], object] | None = None,
    **learning: Any,
) -> Direction:
    """Find the direction of an attribute between contrastive prompts.

    Args:
      model: a trained network of texts; it is not changed.
      prompts: triples (neutral, positive, negative) that differ only in the attribute, with the
        subject in braces: [("a {circle}", "a large {circle}", "a small {circle}"), ...].
      method: "difference", the mean difference of the subject's text tokens, which takes seconds;
        or "learned", by optimisation through the frozen network, which is better and takes minutes.
      attribute: its name, kept with the direction.
      seed: of images, noise, times and scales.
      text_encoder: the frozen encoder of a network of features.
      guidance: the setting under which images of the neutral prompts are drawn. One that needs
        another network counts as "unguided", and the log says so.
      mesh: devices to use; by default those of the network.
      progress: called after each step with its number and its loss.
      learning: the settings of `Learning`, such as steps=200.

    Returns:
      The direction, for `.save("size.npz")` or sample(..., control=[("circle", direction, 1.5)]).

    Raises:
      UserError: the network reads no texts, or an argument is wrong.
    """
    one_of("method", method, METHODS)
    known = [field.name for field in dataclasses.fields(Learning)]
    if wrong := set(learning) - set(known):
        raise UserError(f"{sorted(wrong)[0]}= is not one of {', '.join(known)}.")
    how = Learning(**learning)
    if how.lowest > how.highest:
        raise UserError(
            f"config.control.lowest={how.lowest} must be at most config.control.highest="
            f"{how.highest}."
        )
    sharding.check(mesh)
    conditioning = getattr(model, "conditioning", None)
    if conditioning is None:
        raise UserError(f"model={shown(model)} must be a network, such as sg_jax.load(workdir).")
    if not isinstance(conditioning, Text):
        raise UserError(
            f"Directions belong to words, but the network's conditions are {conditioning.kind}."
        )
    given: Any = plain(prompts)
    whole = isinstance(given, tuple) and given and all(isinstance(c, Contrast) for c in given)
    found: list[Contrast] = list(given) if whole else contrasts_lib.of_texts(given)
    asked = _conditions(conditioning, found, text_encoder, model.named.encoder)
    mesh = sharding.mesh_of(model) if mesh is None else mesh
    placed = model if mesh is None else jax.device_put(model, sharding.infer(model, mesh))
    drawn = presets.resolve(guidance, model.named.settings)
    if drawn.two_networks:
        log(f"{drawn.describe()} needs another network: images are drawn without guidance.")
        drawn = presets.resolve("unguided")
    if method == "difference":
        values = difference(placed, asked, mesh)
    else:
        which = np.arange(how.images) % len(found)
        texts = [found[i].neutral.text for i in which]
        images = sampling.sample(
            model,
            texts,
            drawn,
            how.draw_steps,
            seed,
            batch_size=min(how.images, DRAWN),
            mesh=mesh,
            pixels=False,
            text_encoder=text_encoder,
        )
        values = learned(placed, asked, images, which, how, seed, mesh, progress)
    if not np.isfinite(values).all():
        raise UserError(
            f"The direction of {attribute!r} is not finite: lower config.control.learning_rate="
            f"{how.learning_rate:g} or config.control.highest={how.highest:g}."
        )
    return Direction(
        values,
        attribute,
        control.fingerprint(conditioning),
        text_encoder.fingerprint() if text_encoder is not None else "",
        method,
        tuple(contrast.texts for contrast in found),
    )


@dataclasses.dataclass(frozen=True)
class Conditions:
    """The conditions of P contrastive prompts, each with the places [P, L] of its subject."""

    neutral: tuple[Condition, np.ndarray]
    positive: tuple[Condition, np.ndarray]
    negative: tuple[Condition, np.ndarray]


def _conditions(
    conditioning: Text, found: Sequence[Contrast], encoder: Any, trained_with: str
) -> Conditions:
    if (conditioning.features or encoder is not None) and not isinstance(encoder, TextEncoder):
        raise UserError(
            f"text_encoder={shown(encoder)} must be the encoder of the network's features, which "
            "sg_jax.load_text_encoder returns."
        )
    if encoder is not None:
        check_encoder(encoder, trained_with)

    def read(marked: list[Marked]) -> tuple[Condition, np.ndarray]:
        texts = [m.text for m in marked]
        condition = conditioning.check(texts if encoder is None else encoder(texts))
        return condition, control.places_of(conditioning, marked, encoder)

    three = [[getattr(c, name) for c in found] for name in ("neutral", "positive", "negative")]
    return Conditions(*map(read, three))


@jax.jit
def _tokens(model: Backbone, condition: Any) -> jax.Array:
    return model.conditioning(condition, model.dtype)[0].astype(jnp.float32)


def difference(model: Backbone, asked: Conditions, mesh: Mesh | None = None) -> np.ndarray:
    """Return `method.control.difference` of all prompts [D], some of them at a time."""
    total = np.zeros(model.conditioning.width, np.float64)
    count = len(asked.positive[1])
    for first in range(0, count, PART):
        part = slice(first, first + PART)
        read: list[np.ndarray] = []
        for condition, places in (asked.positive, asked.negative):
            some = jax.tree.map(lambda a, part=part: a[part], condition)
            with sharding.on(mesh):
                tokens = processes.to_host(_tokens(model, some))
            read += [tokens, places[part].astype(np.float32)]
        mean = np.asarray(steering.difference(*map(jnp.asarray, read)), np.float64)
        total += mean * len(read[0])
    return (total / count).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("tx", "mesh"))
def _step(model, direction, state, batch, *, tx, mesh):
    """Return the direction after a step, the optimiser's state, and the loss before it."""
    with sharding.on(mesh):
        loss, gradient = jax.value_and_grad(steering.loss)(direction, model, *batch)
    updates, state = tx.update(gradient, state, direction)
    return optax.apply_updates(direction, updates), state, loss


def learned(
    model: Backbone,
    asked: Conditions,
    images: np.ndarray,
    which: np.ndarray,
    how: Learning,
    seed: int = 0,
    mesh: Mesh | None = None,
    progress: Callable[[int, float], object] | None = None,
) -> np.ndarray:
    """Return the direction [D] that lowers `method.control.loss`, from zeros, by Adam.

    Each image is used with two scales of opposite sign, whose sizes are drawn log-uniformly. If the
    images of a step do not divide over the devices, each device computes all of them.

    Args:
      model: the frozen network, on the devices of `mesh`.
      asked: the prompts.
      images: x [I, H, W, C] of the neutral prompts.
      which: the number of each image's prompt [I].
      how: the settings.
      seed, mesh, progress: see `find_direction`.
    """
    if mesh is not None and how.batch_size % sharding.batch_devices(mesh):
        mesh = None
    rng = np.random.default_rng(seed)
    tx = _optimizer(how.learning_rate, how.steps)
    direction = jnp.zeros(model.conditioning.width, jnp.float32)
    state = tx.init(direction)
    for n in range(how.steps):
        ids = rng.integers(len(images), size=how.batch_size)
        x, rows = images[ids], which[ids]
        neutral, positive, negative = (
            jax.tree.map(lambda a, rows=rows: a[rows], condition)
            for condition, _ in (asked.neutral, asked.positive, asked.negative)
        )
        logs = rng.uniform(np.log(how.lowest), np.log(how.highest), (2, how.batch_size))
        scales = (np.exp(logs) * np.array([[1.0], [-1.0]])).astype(np.float32)
        z = rng.standard_normal(x.shape, np.float32)
        t = rng.uniform(size=how.batch_size).astype(np.float32)
        batch = (x, z, t, neutral, positive, negative, asked.neutral[1][rows], scales)
        direction, state, loss = _step(model, direction, state, batch, tx=tx, mesh=mesh)
        if progress:
            progress(n + 1, float(loss))
    return processes.to_host(direction)


@functools.lru_cache(8)  # the same object for the same numbers, so that a step compiles once
def _optimizer(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps), b1=0.9, b2=0.99)
