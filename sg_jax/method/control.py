"""Attribute control: a direction in text space that changes one attribute of one subject.

A prompt c has text tokens e_i(c), as the blocks of a network read them. S(c) are the tokens of its
subject, such as the word "circle". Adding s d to these, and to no other tokens, changes the
subject's attribute by the scale s, and nothing else in the image (Baumann et al., "Continuous,
Subject-Specific Attribute Control in T2I Models by Identifying Semantic Directions", arXiv
2403.17064). The direction d [D] is found from triples of prompts that differ only in the attribute:
a neutral one c0 ("a circle"), a positive one c+ ("a large circle") and a negative one c-.

In the paper the tokens are the outputs of a frozen encoder. Here they are the outputs of the layers
that refine the text, because only there do a subject's tokens know their context: if the text is
bytes, the input of these layers is the same for "circle" in every prompt.
"""

import jax
import jax.numpy as jnp

from sg_jax.method import flow, prediction
from sg_jax.method.network import Branch, Condition, Network


def difference(
    positive: jax.Array, on_positive: jax.Array, negative: jax.Array, on_negative: jax.Array
) -> jax.Array:
    """Return the direction [D] between contrastive prompts, without optimisation.

    d = 1/P sum_p ( mean_{i in S(c+_p)} e_i(c+_p) - mean_{i in S(c-_p)} e_i(c-_p) )
                                                              (arXiv 2403.17064, Eq. 2, for pairs)

    Args:
      positive, negative: text tokens e [P, L, D] of the prompts of each pair.
      on_positive, on_negative: which are the subject's, bool [P, L], at least one per prompt.
    """

    def of_subject(tokens: jax.Array, places: jax.Array) -> jax.Array:
        weights = places / places.sum(axis=1, keepdims=True)
        return jnp.einsum("pld,pl->pd", tokens, weights)

    return (of_subject(positive, on_positive) - of_subject(negative, on_negative)).mean(axis=0)


def shifted(condition: Condition, places: jax.Array, amount: jax.Array) -> Condition:
    """Return a condition with its subject's tokens shifted.

    Args:
      condition: of B prompts.
      places: which tokens are the subject's, bool [B, L].
      amount: what is added to each of them, s d [B, D].
    """
    return {**condition, "shift": places[:, :, None] * amount[:, None, :]}  # [B, L, D]


def loss(
    direction: jax.Array,
    model: Network,
    x: jax.Array,
    z: jax.Array,
    t: jax.Array,
    neutral: Condition,
    positive: Condition,
    negative: Condition,
    places: jax.Array,
    scales: jax.Array,
) -> jax.Array:
    """Return how far a direction's effect on the velocity is from its target; learning lowers it.

    v_target(s) = v(x_t, t, c0) + s (v(x_t, t, c+) - v(x_t, t, c-))
    loss = mean || v(x_t, t, c0 with e_i + s d for i in S(c0)) - v_target(s) ||^2
           (arXiv 2403.17064, with velocities instead of noise, and our x_t = (1 - t) z + t x)

    Only the direction is learned: the network is frozen, and the target does not depend on it.

    Args:
      direction: d [D].
      model: the network.
      x: images [B, H, W, C] of the neutral prompts.
      z: noise, shaped like x.
      t: times [B] in [0, 1).
      neutral, positive, negative: the conditions c0, c+ and c-.
      places: which tokens of c0 are the subject's, bool [B, L].
      scales: s, several for each image, [K, B].
    """
    x_t = flow.interpolate(x, z, t)
    fixed = [Branch(c) for c in (neutral, positive, negative)]
    v0, v_plus, v_minus = prediction.velocities(model, x_t, t, fixed)
    moved = [Branch(shifted(neutral, places, s[:, None] * direction[None])) for s in scales]
    found = prediction.velocities(model, x_t, t, moved)
    errors = [
        v - (v0 + flow.per_image(s, x_t) * (v_plus - v_minus))
        for v, s in zip(found, scales, strict=True)
    ]
    return jnp.mean(jnp.square(jnp.stack(errors)))
