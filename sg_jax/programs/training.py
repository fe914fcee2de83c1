"""The state of training, created sharded, and the step that advances it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from sg_jax.parallel import sharding
from sg_jax.programs import health, optimizer

DRAW = 0xD4A3_0B1E  # folded into a step's key to draw its objective; no image has this number


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Step counter, weights, their moving averages and the optimizer's state."""

    step: jax.Array
    model: Any
    ema: Any
    opt_state: Any
    emas: dict[str, Any]  # further averages, by decay


def start_state(model: Any, opt_state: Any, decays: Sequence[float] = ()) -> TrainState:
    """Return the state at step 0 with given weights, from which every average starts."""

    def copy():
        return jax.tree.map(jnp.copy, model)

    return TrainState(jnp.int32(0), model, copy(), opt_state, {f"{d:g}": copy() for d in decays})


def abstract_state(
    make_model: Callable[[jax.Array], Any],
    tx: optax.GradientTransformation,
    mesh: Mesh,
    decays: Sequence[float] = (),
) -> TrainState:
    """Return the shapes and shardings of the state, without allocating anything."""
    shapes = jax.eval_shape(lambda key: _init(make_model, tx, key, decays), jax.random.key(0))
    return sharding.place(shapes, mesh)


def init_state(
    make_model: Callable[[jax.Array], Any],
    tx: optax.GradientTransformation,
    mesh: Mesh,
    key: jax.Array,
    decays: Sequence[float] = (),
) -> TrainState:
    """Return the state at step 0; each device makes only its own part."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(make_model, tx, mesh, decays))
    return jax.jit(lambda key: _init(make_model, tx, key, decays), out_shardings=shardings)(key)


def _init(make_model, tx, key, decays):
    model = make_model(key)
    return start_state(model, tx.init(model), decays)


def make_train_step(
    objective: Callable | Sequence[Callable],
    tx: optax.GradientTransformation,
    ema_decay: float,
    accumulate: int = 1,
    skip: bool = False,
    shares: Sequence[float] = (1.0,),
    examples: np.ndarray | None = None,
) -> Callable:
    """Return the step (state, batch, key, *more) -> (state, metrics); jit it with state donated.

    The step's own key is fold_in(key, step), so resuming needs no saved random state. Each image of
    the batch has its own key, so the loss does not depend on the devices or on `accumulate`.

    Args:
      objective: (model, batch, keys, *more) -> the loss of each image [B]; or several of them, of
        which each step draws one for its whole batch, so that every shape stays static.
      tx: the optimizer.
      ema_decay: of the moving average.
      accumulate: number of parts in which the batch runs, one after another, to save memory.
      skip: whether a step that has diverged changes nothing but the step counter, which the
        learning rate follows; see `health`.
      shares: the probability of each objective.
      examples: the number of the example in each row of the batch, if they are not in order, from
        `processes.examples`. It gives an example the same key however processes divide a batch.
    """
    if examples is not None and (examples == np.arange(len(examples))).all():
        examples = None
    objectives = [objective] if callable(objective) else list(objective)
    edges = np.cumsum(shares)[:-1].astype(np.float32)

    def train_step(state: TrainState, batch, key, *more):
        key = jax.random.fold_in(key, state.step)
        keys = jax.random.split(key, len(batch["image"]))
        keys = keys if examples is None else keys[examples]
        drawn = (jax.random.uniform(jax.random.fold_in(key, DRAW)) >= edges).sum()

        def gradient_of(objective):
            return jax.value_and_grad(lambda m, b, k, *more: objective(m, b, k, *more).mean())

        gradients = [gradient_of(each) for each in objectives]

        def gradient(model, batch, keys):
            # Gradients are taken inside the switch, or every branch's activations would be kept.
            return jax.lax.switch(drawn, gradients, model, batch, keys, *more)

        def add(total, part):
            return jax.tree.map(jnp.add, total, gradient(state.model, *part)), None

        if accumulate == 1:
            loss, grads = gradient(state.model, batch, keys)
        else:
            zero = jnp.float32(0), jax.tree.map(jnp.zeros_like, state.model)
            total, _ = jax.lax.scan(add, zero, _parts((batch, keys), accumulate))
            loss, grads = jax.tree.map(lambda x: x / accumulate, total)
        updates, opt_state = tx.update(grads, state.opt_state, state.model)
        model = optax.apply_updates(state.model, updates)
        step = state.step + 1
        ema = optimizer.update_ema(state.ema, model, ema_decay, step)
        emas = {
            decay: optimizer.update_ema(other, model, float(decay), step)
            for decay, other in state.emas.items()
        }
        new = TrainState(step, model, ema, opt_state, emas)
        metrics = {
            "loss": loss,
            "grad_norm": optax.global_norm(grads),
            "squares": health.squares((batch["image"], state.model, grads)),
        }
        if len(objectives) > 1:
            metrics["drawn"] = drawn
        if skip:
            updated = health.squares(model)
            kept = health.sound(loss, metrics["grad_norm"], updated, model, batch["image"])
            same = optimizer.at_this_step(state.opt_state, opt_state)
            old = dataclasses.replace(state, step=step, opt_state=same)
            new = jax.tree.map(lambda x, y: jnp.where(kept, x, y), new, old)
            metrics |= {"skipped": 1 - kept.astype(jnp.float32), "updated": updated}
        return new, metrics

    return train_step


def _parts(tree, count: int):
    """Cut arrays [B, ...] into [count, B / count, ...], so that each device keeps its own images.

    Part p has the images p, p + count, ..., so every device's images are spread over all parts.
    """
    return jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(len(x) // count, count, *x.shape[1:]), 1, 0), tree
    )


def compile_train_step(train_step: Callable, state: TrainState, mesh: Mesh, *more: Any) -> Callable:
    """Jit `train_step` with fixed shardings, reusing the state's memory.

    Args:
      train_step: from `make_train_step`.
      state: arrays or shapes, with the shardings that the step keeps.
      mesh: their devices.
      more: arrays or shapes of further arguments, which stay as they are, such as a teacher.
    """
    shardings, others = (jax.tree.map(lambda x: x.sharding, each) for each in (state, more))
    whole = sharding.replicated(mesh)

    def on_mesh(state, batch, key, *more):
        with sharding.on(mesh):
            return train_step(state, batch, key, *more)

    return jax.jit(
        on_mesh,
        in_shardings=(shardings, sharding.batch_sharding(mesh), whole, *others),
        out_shardings=(shardings, whole),
        donate_argnums=0,
    )
