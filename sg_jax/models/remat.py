"""A scan over blocks whose backward pass reads what they `save` and recomputes the rest.

It does what `jax.checkpoint` does with named values, but a kernel can read a saved array in place,
by the number of its block. XLA cannot fuse slices with a kernel, so it would copy them.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Carry = tuple  # tokens [B, N, D], and whatever else goes from block to block


class Kept(NamedTuple):
    """What one block saved, as a part of what all blocks saved."""

    stack: jax.Array  # [L, ...]
    place: jax.Array  # of the block in it

    @property
    def value(self) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(self.stack, self.place, 0, keepdims=False)


_visit: contextvars.ContextVar[Callable | None] = contextvars.ContextVar("visit", default=None)


def save(x: jax.Array) -> jax.Array:
    """Mark what the backward pass should not recompute if remat is "selective"."""
    return saved(x)[0]


def saved(x: jax.Array) -> tuple[jax.Array, Kept | None]:
    """`save` x; in the backward pass, where it is already saved, also return its place."""
    visit = _visit.get()
    return visit(x) if visit else (x, None)


def plain_scan(run: Callable, carry: Carry, c: Any, stack, unroll: bool = False) -> jax.Array:
    """Return the tokens [B, N, D] after all blocks, as `scan` does; jax keeps what it needs."""

    def step(carry, block):
        return run(block, carry, c), None

    return jax.lax.scan(step, carry, stack, unroll=unroll)[0][0]


def unrolled_scan(run: Callable, carry: Carry, c: Any, stack) -> jax.Array:
    """Return what `plain_scan` returns; with gradients, the blocks are written out in the program.

    A loop copies what it keeps into stacks, which start as zeros, and out of them again. Without
    the loop, a training step on a CPU takes 5 to 10% less time, and its compilation a third more
    (DiT-S/2). On a GPU the copies took a fifth of a step (DiT-B/2; both in
    tests/benchmarks/peer.md). Without gradients the loop is equally fast on a CPU.
    """

    @jax.custom_vjp
    def blocks(carry, c, stack):
        return plain_scan(run, carry, c, stack)

    def forward(carry, c, stack):
        return jax.vjp(functools.partial(plain_scan, run, unroll=True), carry, c, stack)

    blocks.defvjp(forward, lambda backward, dh: backward(dh))
    return blocks(carry, c, stack)


def scan(run: Callable, carry: Carry, c: Any, stack) -> jax.Array:
    """Return the tokens [B, N, D] after all blocks; with gradients, keep what they save.

    Args:
      run: (block, carry, c) -> carry; calls `save` in the same order each time, and never inside a
        transformation.
      carry: where to start.
      c: conditioning [B, D], or a tree of arrays of floats.
      stack: the blocks' weights, on a leading axis.
    """

    @jax.custom_vjp
    def blocks(carry, c, stack):
        return plain_scan(run, carry, c, stack)

    def forward(carry, c, stack):
        def step(carry, block):
            def recorded(carry):
                kept: list[jax.Array] = []
                with _visiting(_record(kept)):
                    return run(block, carry, c), kept

            # The gradient is unused; it makes the forward passes of custom gradients run.
            new, _, kept = jax.vjp(recorded, carry, has_aux=True)
            return new, (carry, kept)

        carry, kept = jax.lax.scan(step, carry, stack)
        return carry[0], (kept, c, stack)

    def backward(residuals, dh):
        (carries, kept), c, stack = residuals

        def step(state, x):
            d_carry, dc, d_stack = state
            index, block = x

            def again(block, carry, c):
                with _visiting(_replay(iter([Kept(y, index) for y in kept]))):
                    return run(block, carry, c)

            carry = jax.tree.map(lambda y: Kept(y, index).value, carries)
            d_block, d_carry, more = jax.vjp(again, block, carry, c)[1](d_carry)
            d_stack = jax.tree.map(
                lambda all, one: jax.lax.dynamic_update_index_in_dim(all, one, index, 0),
                d_stack,
                d_block,
            )
            return (d_carry, jax.tree.map(jnp.add, dc, more), d_stack), None

        places = jnp.arange(len(carries[0]))
        end = (dh, *jax.tree.map(lambda y: jnp.zeros(y.shape[1:], y.dtype), carries[1:]))
        # A scan first fills its results with zeros, which takes 0.5% of a step. This does not.
        start = (
            end,
            jax.tree.map(jnp.zeros_like, c),
            jax.tree.map(lambda x: jax.lax.empty(x.shape, x.dtype), stack),
        )
        return jax.lax.scan(step, start, (places, stack), reverse=True)[0]

    blocks.defvjp(forward, backward)
    return blocks(carry, c, stack)


@contextlib.contextmanager
def _visiting(visit: Callable):
    token = _visit.set(visit)
    try:
        yield
    finally:
        _visit.reset(token)


def _record(kept: list[jax.Array]) -> Callable:
    def visit(x):
        kept.append(x)
        return x, None

    return visit


def _replay(kept: Iterator[Kept]) -> Callable:
    def visit(x):
        place = next(kept)
        return _instead(x, place.value), place

    return visit


@jax.custom_vjp
def _instead(x, kept):
    """Return `kept`, and send its gradient to x, so that x need not be recomputed."""
    return kept


_instead.defvjp(lambda x, kept: (kept, None), lambda _, d: (d, jnp.zeros_like(d)))
