"""From conditions to samples: noise, guidance and integrator in one compiled program."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sg_jax.method import terms
from sg_jax.method.network import Condition
from sg_jax.method.plans import Plan
from sg_jax.method.sampler import Sampler
from sg_jax.models.backbone import Backbone
from sg_jax.parallel import sharding


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
      weak_model: the network of the weak prediction if it is a different one.
      condition: the condition of each image.
      keys: one per image [B], the only source of its randomness.
      scales: the numbers of each step [rows, steps]; see `plans.Values`.
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
    memory = terms.start(plan, x)
    for stretch in plan.stretches:
        velocity = terms.guided_velocity(
            model, weak_model, stretch, plan, condition, token_keys, scales, sampler.evaluations
        )
        x, memory = sampler.integrate(
            velocity,
            lambda n: normal(fold(noise_keys, n)),
            x,
            times[stretch.first : stretch.stop + 1],
            first=stretch.first * sampler.evaluations,
            steps=steps,
            memory=memory,
        )
    return x


def spread(condition: Condition, keys: jax.Array, mesh: Mesh) -> tuple[Condition, jax.Array]:
    """Split conditions and keys [B], equal in all processes, over the batch axes of a mesh."""
    data = condition, jax.random.key_data(keys)  # a key array itself cannot leave its process
    condition, data = jax.device_put(data, sharding.batch_sharding(mesh))
    return condition, jax.random.wrap_key_data(data)
