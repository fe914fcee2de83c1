"""Blocks on each device's own part of the batch, their weights gathered one block at a time."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from sg_jax.parallel import sharding

CHUNKS = {"cpu": 1024}  # tokens to run at once; measured in tests/benchmarks/peer.md


def gathered(network: Any) -> Any:
    """Gather a network's weights over `fsdp`, except its stacks, in a program traced `on` a mesh.

    Without this, XLA moves activations instead.
    """
    mesh = jax.sharding.get_abstract_mesh()

    def gather(x):
        if sharding.is_stacked(x):
            return x
        spec = sharding.spec_of(x, mesh, ("tensor",))
        return jax.tree.map(lambda value: jax.lax.with_sharding_constraint(value, spec), x)

    if mesh.empty:
        return network
    return jax.tree.map(gather, network, is_leaf=sharding.is_parameter)


def scan_blocks(
    run: Callable,
    scan: Callable,
    h: jax.Array,
    c: Any,
    stack: Any,
    chunk: int = 0,
) -> jax.Array:
    """Return tokens [B, N, D] after all blocks of a stack.

    In a program traced `on` a mesh, each device runs them on its own part of the batch: it gathers
    a block's weights right before it runs that block, and receives its own part of the sum of their
    gradients (`jax.shard_map`: all-gather and reduce-scatter, as in ZeRO-3). XLA handles what
    `tensor` splits.

    Args:
      run: (block, carry, c) -> carry.
      scan: (run, h, c, stack) -> h: runs all blocks. Its `run` gathers a block's weights first, so
        that no block keeps them.
      h: tokens [B, N, D].
      c: conditioning [B, D], or a tree of arrays [B, ...].
      stack: weights of the blocks, on a leading axis (`sharding.stacked`).
      chunk: most tokens that a device runs at once, in whole images; 0 for all, -1 for the device's
        best number. Tokens that fit into on-chip memory run faster, with less memory at a time.
    """
    mesh = jax.sharding.get_abstract_mesh()
    chunk = CHUNKS.get(sharding.platform(), 0) if chunk < 0 else chunk

    def split(x):
        spec = P() if mesh.empty else sharding.spec_of(x, mesh, ("tensor", "fsdp"))
        own = P(None, *("fsdp" if axis == "fsdp" else None for axis in spec))
        return jax.tree.map(lambda _: own, x)

    specs = jax.tree.map(split, stack, is_leaf=sharding.is_parameter)

    def gather(x, spec):
        if "fsdp" not in spec:
            return x
        return jax.lax.all_gather(x, "fsdp", axis=spec.index("fsdp") - 1, tiled=True)

    def blocks(h, c, stack):
        def gathering(block, carry, c):
            return run(jax.tree.map(gather, block, specs), carry, c)

        return scan(gathering, h, c, stack)

    def chunks(h, c, stack):
        parts = _parts(len(h), h.shape[1], chunk)
        if parts == 1:
            return blocks(h, c, stack)
        cut = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), (h, c))
        h = jax.lax.map(lambda x: blocks(x[0], x[1], stack), cut)  # [parts, B / parts, N, D]
        return h.reshape(-1, *h.shape[2:])

    # If only `tensor` divides, XLA could not compile the sum of gradients over the other axes.
    if mesh.empty or (mesh.shape["tensor"] > 1 and sharding.batch_devices(mesh) == 1):
        return chunks(h, c, stack)
    return jax.shard_map(
        chunks,
        in_specs=(P(sharding.BATCH), P(sharding.BATCH), specs),
        out_specs=P(sharding.BATCH),
        # XLA cannot split a kernel, so it gets an axis only if there is something to split.
        axis_names=set(sharding.AXES if mesh.shape["tensor"] == 1 else sharding.BATCH),
        check_vma=False,
    )(h, c, stack)


def _parts(images: int, tokens: int, chunk: int) -> int:
    """Return how many equal parts to cut a batch into, so that each has at most `chunk` tokens."""
    parts = [n for n in range(1, images + 1) if images % n == 0]
    fitting = [n for n in parts if images // n * tokens <= chunk] if chunk else parts
    return fitting[0] if fitting else images
