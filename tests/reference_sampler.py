"""The guided sampler, slow and plain: the specification of `sg_jax.sample` (Euler, uniform ids).

x(0) is noise, x(1) an image, and each step goes along two predictions of its velocity (Krause et
al., arXiv 2601.01608, Eq. 7), made by two calls:  omega * strong + (1 - omega) * weak.
"""

import math

import numpy as np
from jax.random import fold_in as fold
from jax.random import key, normal, randint, uniform


def sample(strong, weak, labels, guidance, steps, *, shape, tokens, routes, classes, seed=0):
    """Return images [B, *shape]; networks are called as network(x, t [B], labels [B], ids)."""
    labels, (low, high) = np.asarray(labels), guidance.interval
    own = [fold(key(seed), image) for image in range(len(labels))]  # all of its randomness
    x = np.stack([normal(fold(k, 0), shape) for k in own])
    omega = values(guidance.scale, steps)
    gamma = rates(guidance.gamma_strong, steps, guidance.segments)
    gamma_weak = rates(guidance.gamma_weak, steps, guidance.segments)
    for n in range(steps):
        t, now = np.full(len(labels), n / steps), [fold(fold(k, 1), n) for k in own]
        v = strong(x, t, labels, kept([fold(k, 0) for k in now], gamma[n], tokens, routes))
        if low <= n / steps <= high and guidance.differs(gamma[n], gamma_weak[n]):
            ids = kept([fold(k, 1) for k in now], gamma_weak[n], tokens, routes)
            v_weak = weak(x, t, weak_labels(guidance.weak_label, labels, now, classes), ids)
            v = omega[n] * v + (1 - omega[n]) * v_weak
        x = x + v / steps
    return x


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
