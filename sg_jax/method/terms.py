"""The guided velocity of a stretch of a run: its predictions, and the sum of their differences.

v = v_s + sum over terms k of (omega_k - 1) d_k,  d_k = v_s - v_k

A term is "weak" (any of the pairs in `guidance`), "skip" (the strong prediction without some
blocks) or "inner" (the inner head in the strong prediction's pass). Each evaluation leaves a memory
for the next, which the integrators carry: the last d_k, if it is used for several steps, and the
last difference of denoised images, if there is momentum.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sg_jax.method import prediction, projection, tokens
from sg_jax.method.network import Branch, Condition, KeepIds, Network
from sg_jax.method.plans import Plan, Stretch, Values
from sg_jax.method.routing import draw_ids
from sg_jax.method.sampler import Velocity
from sg_jax.method.weak import WEAK_LABELS

Differences = dict[str, jax.Array]  # d_k [B, H, W, C] by the name of its term


def start(plan: Plan, x: jax.Array) -> Any:
    """Return the memory before a run that begins at x [B, H, W, C]; () if nothing is remembered."""
    kept = {
        "last": {n for s in plan.stretches for n in s.apart} if plan.reuses else set(),
        "moved": {n for s in plan.stretches for n in s.terms} if plan.momentum else set(),
    }
    return {
        kind: {name: jnp.zeros_like(x) for name in names} for kind, names in kept.items() if names
    } or ()


def guided_velocity(
    model: Network,
    weak_model: Network | None,
    stretch: Stretch,
    plan: Plan,
    condition: Condition,
    keys: jax.Array,
    scales: jax.Array,
    evaluations: int = 1,
) -> Velocity:
    """Return velocity(x [B, H, W, C], t [], n [], memory) -> (v, memory) for one stretch of a run.

    Predictions are made together, so that one compiled step makes them all and shares work where it
    can. Token ids are new at every evaluation n, and depend only on the image's own key.

    Args:
      model: the network of the strong prediction, and of the weak one unless `weak_model` makes it.
      weak_model: another network for the weak prediction, or None.
      stretch, plan: static; see `plans` and `guidance.plan`.
      condition: the condition of each image.
      keys: one per image [B].
      scales: the numbers of each step, see `plans.Values`; traced, so that new numbers need no new
        compile.
      evaluations: how many a step makes.
    """
    predict = _predictions(model, weak_model, stretch, plan, condition, keys)

    def velocity(x, t, n, memory=()):
        if not stretch.gammas:
            return jnp.zeros_like(x), memory
        at = Values(*scales[:, n // evaluations])
        t = jnp.broadcast_to(t, keys.shape)

        def computed():
            return predict(x, t, n, at, True)

        def reused():
            strong, inner, _ = predict(x, t, n, at, False)
            return strong, inner, {name: memory["last"][name] for name in stretch.apart}

        if plan.reuses and stretch.apart:
            first = n % evaluations == 0
            strong, inner, found = jax.lax.cond((at.fresh > 0) & first, computed, reused)
            memory = {**memory, "last": {**memory["last"], **found}}
        else:
            strong, inner, found = computed()
        if "inner" in stretch.terms:
            found = {**found, "inner": _difference(plan, strong, inner)}
        v, moved = strong, {}
        for name in stretch.terms:
            d = found[name]
            if plan.projects:
                before = memory["moved"][name] if plan.momentum else jnp.zeros_like(x)
                d, moved[name] = projection.project(
                    d, strong, x, t, before,
                    parallel=at.parallel, norm=at.norm, momentum=at.momentum,
                )  # fmt: skip
            v = v + (getattr(at, name) - 1) * d
        if plan.momentum:
            memory = {**memory, "moved": {**memory["moved"], **moved}}
        if plan.channels:
            v = jnp.where(jnp.arange(x.shape[-1]) < plan.channels, v, strong)
        return v, memory

    return velocity


def _predictions(
    model: Network,
    weak_model: Network | None,
    stretch: Stretch,
    plan: Plan,
    condition: Condition,
    keys: jax.Array,
) -> Callable[..., tuple[jax.Array, jax.Array | None, Differences]]:
    """Return (x, t [B], n, at, everything) -> v_s, the inner head's velocity, other differences.

    Without `everything` there are none, and without the inner term there is no second result.
    """
    derive = WEAK_LABELS[plan.weak_label].derive
    inner = "inner" in stretch.terms

    def predict(x, t, n, at, everything):
        now = _fold(keys, n)
        ids = draw_pair(model, now, stretch.gammas, plan.ids)
        branches, others = [Branch(condition, ids[0])], {}
        if everything and "weak" in stretch.terms:
            other = derive(model, condition, _fold(now, 2)) if derive else condition
            amount = at.noise * (1 - t) ** at.power
            noise = (_fold(now, 3), amount) if plan.noisy else None
            weak = Branch(other, ids[1], noise, plan.ids == "borrowed")
            if plan.two_networks:
                assert weak_model is not None
                (others["weak"],) = prediction.velocities(weak_model, x, t, [weak])
            else:
                branches.append(weak)
        found = prediction.velocities(model, x, t, branches, inner)
        (strong, *rest), seen = found if inner else (found, None)
        others |= {"weak": rest[0]} if rest else {}
        if everything and "skip" in stretch.terms:
            less = model.skipping(active_blocks(model.depth, plan.skip, n, at.seed))
            others["skip"] = prediction.velocity(less, x, t, condition, ids[0])
        return strong, seen, {name: _difference(plan, strong, v) for name, v in others.items()}

    return predict


def _difference(plan: Plan, strong: jax.Array, other: Any) -> jax.Array:
    """Return d = v_s - v_k, the latter rescaled if the plan says so."""
    return strong - (projection.rescaled(strong, other) if plan.rescales else other)


def active_blocks(
    depth: int, skip: tuple[int, ...] | int, n: jax.Array, seed: jax.Array
) -> jax.Array:
    """Return which blocks run, bool [depth]: all but those in `skip`, or all but that many.

    In the second case the blocks to leave out are drawn, but never the first one: S2's authors find
    that losing it does harm. The draw depends only on the evaluation's number n and the seed [], so
    it is the same for all images of a run and on all devices.
    """
    if isinstance(skip, tuple):
        return jnp.ones(depth, bool).at[jnp.array(skip, jnp.int32)].set(False)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), seed.astype(jnp.int32)), n)
    return jnp.append(True, jax.random.permutation(key, depth - 1) >= skip)


def draw_pair(model: Network, keys: jax.Array, gammas: Sequence[float], kind: str) -> list[KeepIds]:
    """Draw the kept ids of each prediction from the images' keys [B]; `kind` is one of `IDS`."""
    nested = kind in ("nested", "borrowed")
    layout = "uniform" if nested else kind
    ids = [draw_ids(model, _fold(keys, i), gamma, layout) for i, gamma in enumerate(gammas)]
    if not nested or len(ids) == 1:
        return ids
    large, small = sorted((0, 1), key=lambda i: gammas[i])
    most, fewest = ids[large], ids[small]
    if most is not None and fewest is not None:
        ids[small] = [
            tokens.subset_ids(_fold(_fold(keys, small), r), whole, part.shape[1])
            for r, (whole, part) in enumerate(zip(most, fewest, strict=True))
        ]
    return ids


_fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
