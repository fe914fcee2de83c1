"""The device mesh, and the one rule that turns shapes into shardings.

| axis      | splits                                                                              |
|-----------|-------------------------------------------------------------------------------------|
| `replica` | the batch; one copy of everything per slice, so that only gradients cross slices    |
| `data`    | the batch                                                                           |
| `fsdp`    | the batch, and weights, averages and optimizer state (ZeRO-3)                       |
| `tensor`  | heads and hidden channels: the blocks' weights, and what is computed with them      |

XLA inserts the collectives, but where blocks gather their weights: see `scan_blocks`.
"""

import contextlib
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sg_jax.errors import UserError

AXES = ("replica", "data", "fsdp", "tensor")
BATCH = ("replica", "data", "fsdp")  # the axes that split the batch
CHUNKS = {"cpu": 1024}  # tokens to run at once; by tests/benchmarks/peer.md


def make_mesh(
    replica: int = 1, data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None
) -> Mesh:
    """Return a mesh over `devices`, by default all; one of the sizes may be -1, "the rest".

    Neighbours on an axis are neighbours in the interconnect. Where devices come in several slices,
    `replica` must be their number: it alone crosses the slow network between them.
    """
    devices = jax.devices() if devices is None else devices
    asked = dict(zip(AXES, (replica, data, fsdp, tensor), strict=True))
    sizes, known = dict(asked), math.prod(n for n in asked.values() if n > 0)
    if list(sizes.values()).count(-1) == 1 and len(devices) % known == 0:
        sizes = {a: len(devices) // known if n == -1 else n for a, n in sizes.items()}
    if min(sizes.values()) < 1 or math.prod(sizes.values()) != len(devices):
        raise UserError(
            " times ".join(f"config.mesh.{a}={n}" for a, n in asked.items())
            + f" must be the number of devices, which is {len(devices)} (one of them may be -1: "
            f"the rest)."
        )
    slices = len({getattr(d, "slice_index", None) or 0 for d in devices})
    shape = tuple(sizes.values())
    if slices == 1:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    elif sizes["replica"] == slices:
        grid = mesh_utils.create_hybrid_device_mesh(
            (1, *shape[1:]), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
        )
    else:
        raise UserError(
            f"config.mesh.replica={replica} must be the number of slices, which is {slices}."
        )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def one_device() -> Mesh:
    """Return a mesh of this process's first device."""
    return Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1, 1, 1), AXES)


def batch_devices(mesh: Mesh) -> int:
    """Return into how many parts the batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def check_batch(key: str, batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raise unless a batch of `batch_size`, set by config key `key`, divides over the devices."""
    parts = batch_devices(mesh) * accumulate
    if batch_size < 1 or batch_size % parts:
        steps = f" times config.train.accumulate={accumulate}" if accumulate > 1 else ""
        raise UserError(
            f"{key}={batch_size} must be a positive multiple of {parts}: the devices that share a "
            f"batch, {parts // accumulate}{steps}."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays [B, ...]: the batch over all axes but `tensor`."""
    return NamedSharding(mesh, P(BATCH))


def infer(tree, mesh: Mesh):
    """Return a sharding for each array of a state, from its shape.

    The rule: `tensor` splits the output channels (the last axis) of a layer, or the input channels
    of one called `out`, which takes what another has split. Then `fsdp` splits the first axis left
    that it divides: gathering along that one copies no weights. Vectors stay whole, and so does the
    leading axis of stacked blocks, which the scan walks along.

    Args:
      tree: arrays or ShapeDtypeStructs.
      mesh: from `make_mesh`.
    """

    def rule(path, leaf):
        names = _names(path)
        if "stacks" not in names:
            return NamedSharding(mesh, _spec(names, leaf.shape, mesh, ("tensor", "fsdp")))
        inner = _spec(names, leaf.shape[1:], mesh, ("tensor", "fsdp"))
        return NamedSharding(mesh, P(None, *inner) if any(inner) else P())

    return jax.tree_util.tree_map_with_path(rule, tree)


def _names(path) -> tuple[str, ...]:
    return tuple(str(getattr(k, "name", getattr(k, "key", ""))) for k in path)


def _spec(names: tuple[str, ...], shape: tuple[int, ...], mesh, axes: tuple[str, ...]) -> P:
    """Return the rule's answer for one array, without the leading axis of a stack."""
    found: dict[int, str] = {}
    for name in axes if len(shape) > 1 else ():
        size = mesh.shape[name]
        wanted = range(len(shape))
        if name == "tensor":
            wanted = (0,) if "out" in names else (len(shape) - 1,)
        free = [a for a in wanted if a not in found and shape[a] % size == 0]
        if size > 1 and free:
            found[free[0]] = name
    return P(*(found.get(a) for a in range(max(found) + 1))) if found else P()


def place(shapes, mesh: Mesh):
    """Return ShapeDtypeStructs with the inferred shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, infer(shapes, mesh)
    )


def to_global(batch, mesh: Mesh):
    """Make arrays sharded over the batch from each process's own rows."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def on(mesh: Mesh | None):
    """Return a context in which to trace a program for `mesh`; None leaves everything to XLA."""
    return (
        contextlib.nullcontext()
        if mesh is None
        else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
    )


def platform() -> str:
    """Return "cpu", "gpu" or "tpu", of the devices a program is traced `on`; "" without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return "" if mesh.empty else mesh.abstract_device.platform


def gathered(network):
    """Gather a network's weights over `fsdp`, but for its stacks, in a program traced `on` a mesh.

    Left to itself, XLA moves activations instead.
    """
    mesh = jax.sharding.get_abstract_mesh()

    def gather(path, x):
        if "stacks" in (names := _names(path)):
            return x
        return jax.lax.with_sharding_constraint(x, _spec(names, x.shape, mesh, ("tensor",)))

    return network if mesh.empty else jax.tree_util.tree_map_with_path(gather, network)


def scan_blocks(
    run: Callable,
    scan: Callable,
    h: jax.Array,
    c: jax.Array,
    stack,
    chunk: int = 0,
) -> jax.Array:
    """Return tokens [B, N, D] after all blocks of a stack.

    In a program traced `on` a mesh, each device runs them on its own part of the batch: it gathers
    a block's weights right before that block's turn, and gets back its own part of the sum of
    their gradients (`jax.shard_map`: all-gather and reduce-scatter, as in ZeRO-3). What `tensor`
    splits is left to XLA.

    Args:
      run: (block, carry, c) -> carry.
      scan: (run, h, c, stack) -> h: runs all blocks. It is given a `run` that gathers a block's
        weights first, so that they are kept by none.
      h: tokens [B, N, D].
      c: conditioning [B, D].
      stack: weights of the blocks, on a leading axis.
      chunk: tokens that a device runs at once, at most, by whole images; 0 for all, -1 for what
        suits it. What fits into on-chip memory is computed faster, and needs less at a time.
    """
    mesh = jax.sharding.get_abstract_mesh()
    chunk = CHUNKS.get(platform(), 0) if chunk < 0 else chunk

    def split(path, x):
        spec = () if mesh.empty else _spec(_names(path), x.shape[1:], mesh, ("tensor", "fsdp"))
        return P(None, *("fsdp" if axis == "fsdp" else None for axis in spec))

    specs = jax.tree_util.tree_map_with_path(split, stack)

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
        h, c = (x.reshape(parts, -1, *x.shape[1:]) for x in (h, c))
        h = jax.lax.map(lambda part: blocks(*part, stack), (h, c))  # [parts, B / parts, N, D]
        return h.reshape(-1, *h.shape[2:])

    if mesh.empty:
        return chunks(h, c, stack)
    return jax.shard_map(
        chunks,
        in_specs=(P(BATCH), P(BATCH), specs),
        out_specs=P(BATCH),
        # XLA splits no kernels; where nothing is left to it, it is not asked to.
        axis_names=set(AXES if mesh.shape["tensor"] == 1 else BATCH),
        check_vma=False,
    )(h, c, stack)


def _parts(images: int, tokens: int, chunk: int) -> int:
    """Return into how many equal parts to cut a batch, so that each has `chunk` tokens at most."""
    parts = [n for n in range(1, images + 1) if images % n == 0]
    fitting = [n for n in parts if images // n * tokens <= chunk] if chunk else parts
    return fitting[0] if fitting else images
