"""What a step costs, counted from the shapes of the matrix products.

The paper counts multiply-adds of linear layers and leaves out the work between tokens (attention's
two products). The full count is 2 per multiply-add and includes them. Neither counts norms, softmax
and the like.

A block counts its own cost, `block.macs(tokens, mixing)`; the layers around the blocks are counted
here. To add a network that is not a `Backbone`, register a function with `macs`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from sg_jax.method import guidance as guidance_lib
from sg_jax.method import tokens
from sg_jax.method.distillation import parts_of
from sg_jax.method.guidance import Guidance
from sg_jax.method.objective import Rates, as_rates
from sg_jax.method.plans import Plan, Stretch, Values
from sg_jax.method.sampler import Sampler
from sg_jax.models.backbone import Backbone
from sg_jax.models.layers import Linear
from sg_jax.models.maskdit import MaskDiT
from sg_jax.models.text_dit import TextDiT

PEAKS = {  # bfloat16 FLOP/s of one device without sparsity, by a part of its name; vendors' figures
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
}


def peak(device_kind: str) -> float | None:
    """Return the peak FLOP/s of a device, or None if it is not known."""
    return next((value for name, value in PEAKS.items() if name in device_kind), None)


def sampling_step(
    model: Backbone,
    guidance: Guidance,
    *,
    full: bool = False,
    shared_head: bool = True,
    steps: int = 40,
    sampler: Sampler | None = None,
    weak_model: Backbone | None = None,
) -> float:
    """Return the FLOPs per image of one step, averaged over a run of `steps`.

    Args:
      model: the network (its shapes).
      guidance: the setting; its schedules are rounded as in sampling.
      full: whether to count everything, with 2 per multiply-add, instead of the paper's convention.
      shared_head: whether work that equal branches share counts once, as our program computes it;
        the paper counts each branch on its own.
      steps: number of steps of the run, for schedules.
      sampler: decides how often and at which times a step evaluates; Euler by default.
      weak_model: the network of the weak prediction, if its shapes differ.
    """
    sampler = sampler or Sampler()
    plan, scales = guidance_lib.plan(guidance, sampler, steps)
    fresh = Values(*scales).fresh
    total = 0.0
    for stretch in plan.stretches:
        made = sampler.evaluations * (stretch.stop - stretch.first)  # evaluations of all terms
        if plan.reuses and stretch.apart:
            anew = int(fresh[stretch.first : stretch.stop].sum())
            inner = tuple(set(stretch.terms) - set(stretch.apart))
            alone = dataclasses.replace(stretch, gammas=stretch.gammas[:1], others=inner)
            total += (made - anew) * _evaluation(model, alone, plan, full, shared_head, weak_model)
            made = anew
        total += made * _evaluation(model, stretch, plan, full, shared_head, weak_model)
    return (2 if full else 1) * total / steps


def _evaluation(
    model: Backbone,
    stretch: Stretch,
    plan: Plan,
    full: bool,
    shared_head: bool,
    weak_model: Backbone | None,
) -> float:
    """Return multiply-adds per image of one evaluation of all terms of a stretch."""
    if not stretch.gammas:
        return 0.0
    inner, borrows = "inner" in stretch.terms, plan.ids == "borrowed"
    pair = len(stretch.gammas) == 2
    if shared_head and not plan.two_networks:
        shared = plan.weak_label == "same" and not plan.noisy
        texts = 2 if pair and plan.weak_label != "same" else 1
        borrows = pair and borrows
        found = macs(model, stretch.gammas, shared, full, inner=inner, borrows=borrows, texts=texts)
    else:
        found = macs(model, stretch.gammas[:1], True, full, inner=inner)
        if pair:
            weak = (stretch.gammas[1],)
            found += macs(weak_model or model, weak, True, full, borrows=borrows)
    if "skip" in stretch.terms:
        found += macs(model, stretch.gammas[:1], True, full, share=_share(model.depth, plan.skip))
    return found


def _share(depth: int, skip: tuple[int, ...] | int) -> list[float]:
    """Return how often each block runs; all but the first are equally likely to be drawn."""
    if isinstance(skip, tuple):
        return [float(block not in skip) for block in range(depth)]
    return [1.0] + [1 - skip / (depth - 1)] * (depth - 1)


def training_step(
    model: Backbone,
    gamma: float | Rates,
    batch_size: int,
    *,
    full: bool = False,
    teacher: Guidance | None = None,
) -> float:
    """Return the FLOPs of one training step on a batch: forward, and twice that for backward.

    Args:
      model: the network (its shapes).
      gamma: the sparsity rate, or the rates that steps draw from, over which it averages.
      batch_size: images of a step.
      full: see `sampling_step`.
      teacher: the setting with which frozen networks of this size make the target, if any do.
    """
    total = 0.0
    for rate, share in as_rates(gamma):
        forward = macs(model, (rate,), True, full, inner=model.inner > 0)
        total += (2 if full else 1) * 3 * share * forward
    if teacher is not None:
        total += sum(sampling_step(model, g, full=full, steps=1) for g in parts_of(teacher))
    return batch_size * total


@functools.singledispatch
def macs(
    model: Any,
    gammas: Sequence[float],
    shared: bool,
    mixing: bool,
    *,
    inner: bool = False,
    borrows: bool = False,
    share: Sequence[float] | None = None,
    texts: int = 1,
) -> float:
    """Return multiply-adds per image of one call of a network with a branch for each of `gammas`.

    Args:
      model: the network; its shapes are enough.
      gammas: the sparsity rate of each branch.
      shared: whether the part before the first route, which the branches have in common, counts
        once.
      mixing: whether the work between tokens (attention's products, scans) counts.
      inner: whether the inner head counts.
      borrows: whether the last branch borrows its tokens instead of running the blocks of routes.
      share: how often each block runs; always by default.
      texts: how many different texts the branches of a network with text have.
    """
    raise TypeError(f"nothing counts the multiply-adds of a {type(model).__name__}: see `macs`")


@macs.register
def _routed(
    model: Backbone,
    gammas: Sequence[float],
    shared: bool,
    mixing: bool,
    *,
    inner: bool = False,
    borrows: bool = False,
    share: Sequence[float] | None = None,
    texts: int = 1,
) -> float:
    total, common, n = 0.0, shared, model.tokens
    runs = [1.0] * model.depth if share is None else share
    for segment, stack in zip(model.blocks.segments, model.blocks.stacks, strict=True):
        routed = segment.route is not None
        keeps = [tokens.keep_count(n, gamma) if routed else n for gamma in gammas]
        common = common and all(k == n for k in keeps)
        keeps = keeps[:-1] if routed and borrows else keeps
        per_block = sum(stack.macs(k, mixing) for k in (keeps[:1] if common else keeps) if k)
        total += sum(runs[segment.start : segment.stop]) * per_block
    if inner:
        total += _head(model, model.inner_modulation, model.inner_final)
    if isinstance(model, TextDiT):
        total += texts * model.conditioning.macs(mixing)
    return total + _ends(model, len(gammas))


@macs.register
def _masked(
    model: MaskDiT,
    gammas: Sequence[float],
    shared: bool,
    mixing: bool,
    *,
    inner: bool = False,
    borrows: bool = False,
    share: Sequence[float] | None = None,
    texts: int = 1,
) -> float:
    """Branches share no blocks, and there is no inner head."""
    d, e, n = model.width, model.decoder_width, model.tokens
    encoder, decoder = model.blocks.stacks[0], model.decoder.stacks[0]
    total, depth = _ends(model, len(gammas)), model.depth if share is None else sum(share)
    for gamma in gammas:
        keep = tokens.keep_count(n, gamma)
        total += depth * encoder.macs(keep, mixing) + 2 * d * d + keep * d * e
        total += model.decoder_depth * decoder.macs(n, mixing)
    return total


def _ends(model: Backbone, branches: int) -> float:
    """Return multiply-adds of the embeddings, which branches share, and of each branch's head."""
    n, d = model.tokens, model.width
    pixels = model.patch**2 * model.channels
    embeddings = 256 * d + d * d + n * pixels * d
    return embeddings + branches * _head(model, model.final_modulation, model.final)


def _head(model: Backbone, modulation: Linear, final: Linear) -> float:
    """Return multiply-adds of a head on all tokens of an image."""
    return modulation.macs + model.tokens * final.macs
