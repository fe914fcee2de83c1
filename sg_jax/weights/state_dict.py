"""The arrays of someone else's state dict: unwrapped, under plain names, and checked."""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from sg_jax.errors import UserError, shown

WRAPPERS = ("ema", "ema_state_dict", "model", "model_state_dict", "state_dict")  # in this order


def unwrapped(weights: Mapping) -> Mapping:
    """Return weights without what they are wrapped in, such as {"state_dict": ...}."""
    for _ in WRAPPERS:  # each at most once
        weights = next(filter(None, (_inner(weights, key) for key in WRAPPERS)), weights)
    return weights


def arrays(weights: Mapping) -> dict[str, np.ndarray]:
    """Return float32 arrays under plain names, without what the weights are wrapped in."""
    weights = unwrapped(weights)
    if not isinstance(weights, Mapping):
        raise UserError(
            "weights must map names to arrays, as module.state_dict() does, but this is a "
            f"{type(weights).__name__}."
        )
    found: dict[str, np.ndarray] = {}
    for key in weights:
        name = re.sub(r"^((module|model)\.)+", "", str(key).replace("_orig_mod.", ""))
        if name in found:
            raise UserError(f"{shown(name)} appears twice, the second time as {shown(key)}.")
        found[name] = _array(weights, key)
    return found


def _inner(weights: Any, key: str) -> Mapping | None:
    """Return what is wrapped under a key, if it is a mapping itself."""
    try:
        inner = weights[key] if isinstance(weights, Mapping) and key in weights else None
    except Exception:  # of a damaged file; reported when all is read
        return None
    return inner if isinstance(inner, Mapping) else None


def _array(weights: Mapping, key: Any) -> np.ndarray:
    """Return one of the weights as float32; raise unless it is an array of floats."""
    value: Any = None
    try:
        value = weights[key]  # reads it, if this is an open file
        for method in ("detach", "cpu", "float", "numpy"):  # the methods of a torch tensor
            value = getattr(value, method)() if hasattr(value, method) else value
        array = np.asarray(value)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"its type is {array.dtype}")
        with np.errstate(over="ignore"):  # see `check_finite`
            return array.astype(np.float32, copy=False)
    except Exception as error:  # of a damaged file, or of whatever the value is
        raise UserError(
            f"{shown(key)} is a {type(value).__name__}, not an array of floats "
            f"({type(error).__name__}: {str(error)[:200]})."
        ) from None


def check_finite(found: Mapping[str, np.ndarray]) -> None:
    """Raise if one of the arrays has NaN or infinity."""
    for name, array in found.items():
        if broken := int(np.sum(~np.isfinite(array))):
            raise UserError(
                f"{shown(name)} has {broken:,} numbers of {array.size:,} that are NaN or infinite "
                "in float32, so these weights are damaged, or their training had diverged."
            )
