"""The device mesh, and the one rule that turns shapes into shardings.

| axis      | splits                                                                              |
|-----------|-------------------------------------------------------------------------------------|
| `replica` | the batch; one copy of everything per slice, so that only gradients cross slices    |
| `data`    | the batch                                                                           |
| `fsdp`    | the batch, and weights, averages and optimizer state (ZeRO-3)                       |
| `tensor`  | heads and hidden channels: the blocks' weights, and what is computed with them      |

XLA inserts the collectives, except where blocks gather their weights: see `blocks`.

Layers declare how `tensor` splits them: a parameter made with `tensor_axis=-2` is split along its
input channels, others along their last axis. `stacked` marks weights stacked on a leading axis.
"""

import contextlib
import math
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sg_jax.errors import UserError, shown

AXES = ("replica", "data", "fsdp", "tensor")
BATCH = ("replica", "data", "fsdp")  # the axes that split the batch


def make_mesh(
    replica: int = 1, data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None
) -> Mesh:
    """Return a mesh over `devices`, by default all; one size may be -1, which means the rest.

    Neighbours on an axis are neighbours in the interconnect. If TPUs come in several slices,
    `replica` must be their number: it is the only axis that crosses the slow network between them.
    """
    devices = jax.devices() if devices is None else devices
    sizes = _sizes(len(devices), replica, data, fsdp, tensor)
    # For CPUs and GPUs, jax calls a host a slice, but any axis may cross their network.
    slices = len({getattr(d, "slice_index", 0) if d.platform == "tpu" else 0 for d in devices})
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


def planned_mesh(
    devices: int, replica: int = 1, data: int = -1, fsdp: int = 1, tensor: int = 1
) -> Any:
    """Return the mesh of so many devices that are not here; it has sizes only."""
    sizes = _sizes(devices, replica, data, fsdp, tensor)
    return AbstractMesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _sizes(devices: int, *given: int) -> dict[str, int]:
    """Return the size of each axis, with the rest of the devices in place of a -1."""
    asked = dict(zip(AXES, given, strict=True))
    sizes, known = dict(asked), math.prod(n for n in asked.values() if n > 0)
    if list(sizes.values()).count(-1) == 1 and devices % known == 0:
        sizes = {a: devices // known if n == -1 else n for a, n in sizes.items()}
    if min(sizes.values()) < 1 or math.prod(sizes.values()) != devices:
        raise UserError(
            " times ".join(f"config.mesh.{a}={n}" for a, n in asked.items())
            + f" must be the number of devices, which is {devices} (one of them may be -1, "
            f"for the rest)."
        )
    return sizes


def check(mesh: Any) -> None:
    """Raise unless this is a mesh from `make_mesh`, or None."""
    if mesh is not None and getattr(mesh, "axis_names", None) != AXES:
        raise UserError(f"mesh={shown(mesh)} must be a mesh with the axes {AXES}, or None.")


def local_mesh() -> Mesh:
    """Return a mesh of this process's devices, which divides only batches."""
    return make_mesh(devices=jax.local_devices())


def one_device() -> Mesh:
    """Return a mesh of this process's first device."""
    return _alone(jax.local_devices()[0])


def mesh_of(tree: Any) -> Mesh | None:
    """Return the mesh that arrays lie on, or one of their device; None for other shardings."""
    for x in jax.tree.leaves(tree):
        if not isinstance(x, jax.Array):
            continue
        mesh = getattr(x.sharding, "mesh", None)
        if isinstance(mesh, Mesh) and mesh.axis_names == AXES:
            return mesh
        return _alone(*x.devices()) if len(x.devices()) == 1 else None
    return one_device()


def _alone(device: jax.Device) -> Mesh:
    return Mesh(np.array(device).reshape(1, 1, 1, 1), AXES)


def batch_devices(mesh: Mesh | AbstractMesh) -> int:
    """Return how many parts the batch is split into."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def check_batch(key: str, batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raise unless a batch of `batch_size`, set by config key `key`, divides over the devices."""
    parts = batch_devices(mesh) * accumulate
    if batch_size < 1 or batch_size % parts:
        steps = f" times config.train.accumulate={accumulate}" if accumulate > 1 else ""
        raise UserError(
            f"{key}={batch_size} must be a positive multiple of {parts}: the number of devices "
            f"that share a batch, {parts // accumulate}{steps}."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array of which every device has a copy."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays [B, ...]: the batch over all axes but `tensor`."""
    return NamedSharding(mesh, P(BATCH))


def stacked(tree: Any) -> Any:
    """Mark parameters as stacked: their leading axis, which is never split, runs over blocks."""

    def mark(x):
        return type(x)(x.get_value(), **{**x.get_metadata(), "stacked": True})

    return jax.tree.map(mark, tree, is_leaf=is_parameter)


def is_parameter(x: Any) -> bool:
    """Return whether x is a parameter, which declares how it is split, and not a bare array."""
    return isinstance(x, nnx.Variable)


def is_stacked(x: Any) -> bool:
    """Return whether x is a parameter whose leading axis runs over blocks."""
    return is_parameter(x) and x.get_metadata().get("stacked", False)


def infer(tree: Any, mesh: Mesh) -> Any:
    """Return a sharding for each array of a state, from its shape.

    The rule: `tensor` splits the axis that a parameter names. Then `fsdp` splits the first
    remaining axis that it divides, because gathering along it copies no weights. Vectors and the
    leading axis of stacked blocks, which the scan runs over, stay whole.

    Args:
      tree: parameters, arrays or ShapeDtypeStructs.
      mesh: from `make_mesh`.
    """

    def rule(x):
        if not jax.tree.leaves(x):  # a part of the state that an optimizer leaves out
            return x
        inner = spec_of(x, mesh, ("tensor", "fsdp"))
        whole = P(None, *inner) if is_stacked(x) and any(inner) else inner
        return jax.tree.map(lambda _: NamedSharding(mesh, whole), x)

    return jax.tree.map(rule, tree, is_leaf=is_parameter)


def spec_of(x: Any, mesh: Any, axes: tuple[str, ...]) -> P:
    """Return the sharding of one array by the rule, without the leading axis of a stack.

    Args:
      x: a parameter or an array.
      mesh: a mesh, or an abstract one.
      axes: the axes of the mesh that may split it, in this order.
    """
    shape = x.shape[1:] if is_stacked(x) else x.shape
    named = x.get_metadata().get("tensor_axis", -1) if is_parameter(x) else -1
    found: dict[int, str] = {}
    for name in axes if len(shape) > 1 else ():
        size = mesh.shape[name]
        wanted = (named % len(shape),) if name == "tensor" else range(len(shape))
        free = [a for a in wanted if a not in found and shape[a] % size == 0]
        if size > 1 and free:
            found[free[0]] = name
    return P(*(found.get(a) for a in range(max(found) + 1))) if found else P()


def place(shapes: Any, mesh: Mesh) -> Any:
    """Return ShapeDtypeStructs with the inferred shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, infer(shapes, mesh)
    )


def to_global(batch: Any, mesh: Mesh) -> Any:
    """Make arrays that are sharded over the batch from each process's own rows."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def on(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Return a context in which to trace a program for `mesh`; None leaves everything to XLA."""
    return (
        contextlib.nullcontext()
        if mesh is None
        else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
    )


def platform() -> str:
    """Return "cpu", "gpu" or "tpu": the devices a program is traced `on`; "" without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return "" if mesh.empty else mesh.abstract_device.platform


def shares_heads() -> bool:
    """Return whether the devices that a program is traced `on` share the heads of attention."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape["tensor"] > 1
