"""The guided sampler, slow and plain: the specification of `sg_jax.sample` by Euler's method.

x(0) is noise, x(1) an image, and each step goes along its predicted velocity, moved away from
weaker predictions (Krause et al., arXiv 2601.01608, Eq. 7), each made by a call of its own:
v_s + sum over k of (omega_k - 1) (v_s - v_k). With one weak prediction this is
omega * strong + (1 - omega) * weak.
"""

import math

import jax
import numpy as np
from jax.random import fold_in as fold
from jax.random import key, normal, permutation, randint, uniform


def sample(
    strong, weak, labels, guidance, steps, *, shape, tokens, routes, classes, seed=0,
    skipped=None, inner=None, depth=0,
):  # fmt: skip
    """Return images [B, *shape].

    Networks are called as network(x, t [B], labels [B], ids); `weak` also with noise=(keys [B],
    amounts [B]) or lender=ids of the strong prediction, and `skipped` with active=bool [depth].
    """
    g, labels = guidance, np.asarray(labels)
    own = [fold(key(seed), image) for image in range(len(labels))]  # all of its randomness
    x = np.stack([normal(fold(k, 0), shape) for k in own])
    omega = {name: values(getattr(g, field), steps) for name, field in SCALES.items()}
    gamma = rates(g.gamma_strong, steps, g.segments)
    gamma_weak = rates(g.gamma_weak, steps, g.segments)
    d, before, apart, made = {}, {}, None, 0
    for n in range(g.zero_steps, steps):
        t, now = np.full(len(labels), n / steps), [fold(fold(k, 1), n) for k in own]
        ids = kept([fold(k, 0) for k in now], gamma[n], tokens, routes)
        v = strong(x, t, labels, ids)
        acts = g.interval[0] <= n / steps <= g.interval[1]
        pair = acts and g.weak_acts and g.differs(gamma[n], gamma_weak[n])
        on = {"weak": pair, "skip": acts and g.skip_acts, "inner": acts and g.inner_acts}
        terms = [name for name in on if on[name]]
        made = made if apart == set(terms) - {"inner"} else n
        apart = set(terms) - {"inner"}
        fresh = (n - made) % g.refresh == 0
        if pair and fresh:
            own_ids = kept([fold(k, 1) for k in now], gamma_weak[n], tokens, routes)
            more = {}
            if g.ids == "borrowed":
                own_ids, more = nested(now, ids, own_ids), {"lender": ids}
            if g.time_noise:
                amount = g.time_noise * (1 - t) ** g.time_power
                more = {"noise": (jax.numpy.stack([fold(k, 3) for k in now]), amount)}
            ys = weak_labels(g.weak_label, labels, now, classes)
            d["weak"] = difference(g, v, weak(x, t, ys, own_ids, **more))
        if "skip" in terms and fresh:
            some = active(g.skip, depth, n, seed)
            d["skip"] = difference(g, v, skipped(x, t, labels, ids, active=some))
        if "inner" in terms:
            d["inner"] = difference(g, v, inner(x, t, labels, ids))
        guided = v
        for name in terms:
            moved, before[name] = project(g, d[name], v, x, n / steps, before.get(name, 0.0))
            guided = guided + (omega[name][n] - 1) * moved
        x = x + guided / steps
    return x


SCALES = {"weak": "scale", "skip": "skip_scale", "inner": "inner_scale"}


def inner_product(a, b):
    return (a * b).sum((1, 2, 3), keepdims=True)


def difference(g, strong, weak):
    """Strong minus weak, which CFG-Zero* first stretches to fit."""
    strong, weak = np.asarray(strong, np.float64), np.asarray(weak, np.float64)
    stretch = inner_product(strong, weak) / inner_product(weak, weak) if g.rescale else 1.0
    return strong - stretch * weak


def project(g, d, v, x, t, before):
    """APG: momentum, a largest norm, and a factor for the part along the denoised image."""
    moved = (1 - t) * d + g.momentum * before
    length = np.sqrt(inner_product(moved, moved))
    short = moved * np.minimum(1, g.norm / np.maximum(length, 1e-12)) if g.norm else moved
    image = x + (1 - t) * v
    along = inner_product(short, image) / inner_product(image, image) * image
    return (short - along + g.parallel * along) / (1 - t), moved


def active(skip, depth, n, seed):
    """All blocks but those in `skip`, or but so many that the seed and the step's number decide."""
    if isinstance(skip, tuple):
        return np.array([block not in skip for block in range(depth)])
    drawn = np.asarray(permutation(fold(fold(key(0), seed), n), depth - 1))
    return np.append(True, drawn >= skip)  # the first block always runs


def nested(keys, ids, fewer):
    """Of the tokens that the strong prediction keeps, as many as `fewer` has for each route."""
    if ids is None or fewer is None:
        return fewer
    found = []
    for route, (whole, part) in enumerate(zip(ids, fewer, strict=True)):
        chance = [uniform(fold(fold(k, 1), route), (whole.shape[1],)) for k in keys]
        places = np.sort(np.argsort(chance)[:, whole.shape[1] - part.shape[1] :])
        found.append(np.take_along_axis(whole, places, axis=1))
    return found


def weak_labels(rule, labels, keys, classes):
    """The label as it is, none (numbered after the last), or another one at random."""
    if rule == "random":
        steps = [randint(fold(k, 2), (), 1, classes) for k in keys]
        return (labels + np.array(steps)) % classes
    return labels if rule == "same" else np.full_like(labels, classes)


def kept(keys, gamma, tokens, routes):
    """For each route ids [B, K] of the K tokens that are kept; None where that is all of them."""
    drop = math.floor(tokens * gamma + 1e-9)
    chance = [[uniform(fold(k, route), (tokens,)) for k in keys] for route in range(routes)]
    return list(np.sort(np.argsort(chance)[..., drop:])) if drop else None


def rates(schedule, steps, segments):
    """The rate of each step: a schedule is averaged over stretches, so that few shapes occur."""
    parts = np.array_split(values(schedule, steps), min(segments, steps))
    return [round(np.mean(part), 6) for part in parts for _ in part]


def values(schedule, steps):
    """A number for each step, as it is or on a line or half a cosine from first to last step."""
    kind, first, last = schedule if isinstance(schedule, tuple) else ("linear", schedule, schedule)
    progress = np.linspace(0, 1, steps)
    rise = progress if kind == "linear" else (1 - np.cos(np.pi * progress)) / 2
    return first + (last - first) * rise
