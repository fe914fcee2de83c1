"""The device mesh, and the one rule that turns shapes into shardings.

Axes: `data` splits the batch only; `fsdp` splits the batch and the weights (ZeRO-3). GSPMD then
inserts the collectives.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sg_jax.errors import UserError

AXES = ("data", "fsdp")


def make_mesh(data: int = -1, fsdp: int = 1) -> Mesh:
    """Return a mesh over all devices; one of the two sizes may be -1, which means "the rest"."""
    devices, sizes = jax.device_count(), [data, fsdp]
    if sizes.count(-1) == 1 and max(sizes) > 0 and devices % max(sizes) == 0:
        sizes[sizes.index(-1)] = devices // max(sizes)
    if min(sizes) < 1 or np.prod(sizes) != devices:
        raise UserError(
            f"config.mesh.data={data} times config.mesh.fsdp={fsdp} must be the number of devices, "
            f"which is {devices} (one of the two may be -1: the rest)."
        )
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_batch(key: str, batch_size: int, mesh: Mesh) -> None:
    """Raise unless a batch of `batch_size`, set by config key `key`, divides over the devices."""
    if batch_size < 1 or batch_size % mesh.size:
        raise UserError(
            f"{key}={batch_size} must be a positive multiple of the number of devices, which is "
            f"{mesh.size} (jax.device_count())."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays [B, ...]: the batch over all devices."""
    return NamedSharding(mesh, P(AXES))


def infer(tree, mesh: Mesh):
    """Return a sharding for each array of a state, from its shape.

    The rule: split the largest axis that `fsdp` divides, the last one among equals; never the
    leading axis of stacked blocks, which the scan walks along. What has no such axis is replicated.

    Args:
      tree: arrays or ShapeDtypeStructs.
      mesh: from `make_mesh`.
    """
    size = mesh.shape["fsdp"]

    def rule(path, leaf):
        stacked = any(getattr(k, "name", getattr(k, "key", None)) == "stacks" for k in path)
        axes = [a for a in range(int(stacked), len(leaf.shape)) if leaf.shape[a] % size == 0]
        if size == 1 or not axes:
            return replicated(mesh)
        best = max(axes, key=lambda a: (leaf.shape[a], a))
        return NamedSharding(mesh, P(*("fsdp" if a == best else None for a in range(best + 1))))

    return jax.tree_util.tree_map_with_path(rule, tree)


def place(shapes, mesh: Mesh):
    """Return ShapeDtypeStructs with the inferred shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, infer(shapes, mesh)
    )


def to_global(batch, mesh: Mesh):
    """Make arrays sharded over the batch from each process's own rows."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
