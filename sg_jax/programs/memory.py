"""The least memory that a program needs, compared with what its devices have.

The need is a lower bound, from shapes alone: weights, averages and optimizer state, one batch, and
the tokens that enter each block, which the backward pass reads. So a program that is refused cannot
run, but one that passes may still need more than there is.
"""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from sg_jax.costs import autoencoders as costs
from sg_jax.encoders.autoencoder import Autoencoder
from sg_jax.errors import UserError
from sg_jax.method.tokens import keep_count
from sg_jax.models.backbone import Backbone
from sg_jax.parallel import sharding
from sg_jax.programs.training import TrainState

MEMINFO = pathlib.Path("/proc/meminfo")  # Linux
CGROUP = pathlib.Path("/sys/fs/cgroup/memory.max")  # of a container


def training(
    state: TrainState,
    model: Backbone,
    gamma: float,
    batch_size: int,
    parts: int,
    mesh: Mesh,
    teachers: int = 0,
) -> dict[str, int]:
    """Return the bytes that a training step needs on each device, by what needs them.

    Args:
      state: shapes with their shardings; see `training.abstract_state`.
      model: the shapes of the network.
      gamma: the sparsity rate.
      batch_size: images of a step, over all devices.
      parts: how many parts of a batch run one after another.
      mesh: the devices.
      teachers: how many frozen networks of this size make the target.
    """
    images = -(-batch_size // sharding.batch_devices(mesh))
    frozen = teachers * _on_a_device(state.model)
    return {
        "weights, averages and optimizer": _on_a_device(state),
        **({"what teaches": frozen} if teachers else {}),
        "the batch": images * (_pixels(model) * 4 + 4),
        "the tokens of each block": images // parts * _tokens(model, gamma) // mesh.shape["tensor"],
    }


def sampling(models: list[Any], batch_size: int, collected: int, mesh: Mesh) -> dict[str, int]:
    """Return the bytes that drawing needs on each device, by what needs them.

    Args:
      models: the networks.
      batch_size: images at once, over all devices.
      collected: bytes of all images, if the host collects them.
      mesh: the devices.
    """
    model, images = models[0], -(-batch_size // sharding.batch_devices(mesh))
    found = {
        "weights": sum(_on_a_device(sharding.place(m, mesh)) for m in models),
        "the images of a batch": images * _pixels(model) * 4,
    }
    if isinstance(model, Backbone):
        size = images * model.tokens * model.width * model.dtype.itemsize
        found["their tokens"] = size // mesh.shape["tensor"]
    if _is_host(mesh) and collected:
        found["all images"] = collected // max(len(_local(mesh)), 1)  # the host has them once
    return found


def decoding(
    models: list[Any],
    autoencoder: Autoencoder,
    batch_size: int,
    chunk: int,
    collected: int,
    mesh: Mesh,
) -> dict[str, int]:
    """Return the bytes that decoding samples needs on each device, by what needs them.

    Args:
      models, batch_size, collected, mesh: see `sampling`; the networks stay where they are.
      autoencoder: whole, on each device.
      chunk: latents that a device decodes at once.
    """
    model, images = models[0], -(-batch_size // sharding.batch_devices(mesh))
    side = model.image_size
    widest = costs.widest(autoencoder.decoder, (1, side, side, autoencoder.channels))
    pixels = (side * autoencoder.factor) ** 2 * 3
    found = {
        "weights": sum(_on_a_device(sharding.place(m, mesh)) for m in models),
        "the autoencoder": bytes_of(autoencoder),
        "the images of a batch": images * (_pixels(model) + pixels) * 4,
        "the largest of their features": min(images, chunk) * widest,
    }
    if _is_host(mesh) and collected:
        found["all images"] = collected // max(len(_local(mesh)), 1)  # the host has them once
    return found


def bytes_of(tree: Any) -> int:
    """Return the bytes of a tree of arrays or shapes, over all devices."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def check(what: str, needs: Mapping[str, int], mesh: Mesh, remedy: str) -> None:
    """Raise if the devices of a mesh have less memory than a program needs.

    Args:
      what: the program, to begin the sentence with.
      needs: bytes per device, by what needs them.
      mesh: the devices.
      remedy: what to do, to end the sentence with.
    """
    local = _local(mesh)
    if _is_host(mesh):
        have, where, sharing = host(), "this host has", max(len(local), 1)
    else:
        have, where, sharing = _of_device(local), "one of these devices has", 1
    need = sharing * sum(needs.values())
    if have and need > have:
        listed = ", ".join(f"{part}: {text(sharing * n)}" for part, n in needs.items())
        raise UserError(
            f"{what} needs at least {text(need)} of memory ({listed}), but {where} {text(have)}: "
            f"{remedy}."
        )


def check_program(what: str, program: jax.stages.Compiled, mesh: Mesh, remedy: str) -> None:
    """Raise if a compiled program, not run yet, needs more memory than the devices have.

    The compiler knows what it needs: arguments, results and working memory.

    Args:
      what, mesh, remedy: see `check`.
      program: compiled.
    """
    if found := program.memory_analysis():
        needs = {
            "arguments": found.argument_size_in_bytes,
            "results": found.output_size_in_bytes - found.alias_size_in_bytes,
            "work": found.temp_size_in_bytes,
        }
        check(what, needs, mesh, remedy)


class Checked:
    """A jitted function that is checked by `check_program` when it is first called.

    Args:
      program: jitted.
      what, mesh, remedy: see `check`.
    """

    def __init__(self, program: Any, what: str, mesh: Mesh, remedy: str):
        self.lower, self._program, self._checked = program.lower, program, False
        self._what, self._mesh, self._remedy = what, mesh, remedy

    def __call__(self, *arguments: Any) -> Any:
        if not self._checked:  # what is compiled here is what runs below
            program = self.lower(*arguments).compile()
            check_program(self._what, program, self._mesh, self._remedy)
            self._checked = True
        return self._program(*arguments)


def host() -> int:
    """Return the bytes of memory and swap that this process may use; 0 if that is unknown."""
    try:
        rows = (line.split(":") for line in MEMINFO.read_text().splitlines())
        sizes = {name: int(size.split()[0]) * 1024 for name, size in rows}
        swap = sizes.get("SwapTotal", 0)
        limit = CGROUP.read_text().strip() if CGROUP.exists() else ""
        memory = min(sizes["MemTotal"], int(limit)) if limit.isdigit() else sizes["MemTotal"]
        return memory + swap
    except (OSError, ValueError, KeyError, IndexError):
        pass
    try:  # elsewhere swap grows as needed, so count the memory twice
        return 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return 0


def text(size: float) -> str:
    """Return a number of bytes in words, such as "3.2 GB"."""
    units = ["bytes", "KB", "MB", "GB", "TB", "PB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{size:.3g} {units[0]}" if size < 1000 else f"{size:,.0f} {units[0]}"


def _is_host(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "cpu"


def _local(mesh: Mesh) -> list[jax.Device]:
    """Return the devices of this process."""
    return [d for d in mesh.devices.flat if d.process_index == jax.process_index()]


def _of_device(devices: list[jax.Device]) -> int:
    """Return the bytes of the device with the least memory; 0 if one does not report it."""
    try:
        found = [(d.memory_stats() or {}).get("bytes_limit", 0) for d in devices]
    except Exception:  # a device that a program is only compiled for
        return 0
    return min(found, default=0)


def _on_a_device(tree: Any) -> int:
    """Return the bytes of a tree of shapes with shardings, on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def _pixels(model: Any) -> int:
    return model.image_size**2 * model.channels


def _tokens(model: Backbone, gamma: float) -> int:
    """Return the bytes of the tokens that enter the blocks, for one image."""
    keep, total = keep_count(model.tokens, gamma), 0
    for s in model.blocks.segments:
        inside = keep if model.masks or s.route is not None else model.tokens
        total += (s.stop - s.start) * inside
    return total * model.width * model.dtype.itemsize
