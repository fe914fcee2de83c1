"""Put published arrays into the leaves of a network: by name, checked, and with none left over."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sg_jax.errors import UserError, nearest, one_line, shown
from sg_jax.weights import state_dict
from sg_jax.weights.checkpoints import named, unnamed
from sg_jax.weights.tensors import Tensor

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a leaf is made from published arrays.

    Args:
      names: of the arrays.
      shapes: for each array, those that it may have.
      make: returns the leaf from the arrays in float32.
    """

    names: tuple[str, ...]
    shapes: tuple[Sequence[tuple[int, ...]], ...]
    make: Callable[..., np.ndarray]


def filled(
    network: Any,
    recipes: Mapping[str, Recipe],
    weights: Mapping[str, Any],
    strangers: Iterable[str],
    label: str,
    kind: str,
) -> Any:
    """Return a network with its weights; raise unless all are there, used, and fit.

    Args:
      network: a tree of shapes.
      recipes: by the path of each leaf.
      weights: arrays or tensors by published name.
      strangers: the names in `weights` that must all be used.
      label: of the weights, for messages.
      kind: what the network is, such as "an Inception network".
    """
    leaves, shapes = named(network), {n: described(value) for n, value in weights.items()}
    used = {name for recipe in recipes.values() for name in recipe.names}
    left = sorted(set(strangers) - used)
    if missing := [n for recipe in recipes.values() for n in recipe.names if n not in shapes]:
        raise UserError(
            f"{label} has no {missing[0]!r}, and {len(set(missing)) - 1} others are missing."
            + nearest(missing[0], left)
        )
    if left:
        raise UserError(
            f"{label} has {shown(left[0])}, which {kind} does not use, and {len(left) - 1} "
            f"others: it is another network.{nearest(left[0], used)}"
        )
    for recipe in recipes.values():
        for name, allowed in zip(recipe.names, recipe.shapes, strict=True):
            if shapes[name] not in allowed:
                raise UserError(
                    f"{label}: {name!r} has the shape {shapes[name]}, but the others need "
                    f"{allowed[0]}."
                )
    ours: dict[str, jax.Array] = {}
    for path, recipe in recipes.items():
        made = recipe.make(*(array(name, weights[name], label) for name in recipe.names))
        ours[path] = jax.device_put(np.ascontiguousarray(made, leaves[path].dtype))
    return unnamed(ours, network)


def array(name: str, value: Any, label: str) -> np.ndarray:
    """Return one of the weights as float32.

    Raises:
      UserError: it is not an array of floats, cannot be read, or has NaN or infinity.
    """
    try:
        if isinstance(value, Tensor):
            value = value.numpy()
        found = next(iter(state_dict.arrays({name: value}).values()))
        state_dict.check_finite({name: found})
    except UserError as error:
        raise UserError(f"{label}: {error}") from None
    except Exception as cause:  # damaged files raise many kinds of errors
        raise UserError(
            f"{label}: {name!r} cannot be read ({one_line(cause)}), so the file is damaged: copy "
            "or download it again."
        ) from None
    return found


def described(value: Any) -> tuple[int, ...]:
    """Return the shape of an array or tensor, () of anything else."""
    try:
        return tuple(int(n) for n in value.shape)
    except Exception:  # whatever the value is; reported when it is read
        return ()
