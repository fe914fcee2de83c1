"""The arrays of someone else's state dict: unwrapped, under plain names, and checked."""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from sg_jax.errors import UserError, shown

# Keys under which trainers store a state dict, the best first. Moving averages come before weights.
AVERAGES = (
    "ema", "ema_state_dict", "params_ema", "ema_model", "model_ema", "ema_params", "ema_net",
    "net_ema", "shadow", "teacher",
)  # fmt: skip
WRAPPERS = (
    *AVERAGES, "model", "model_state_dict", "state_dict", "params", "module", "net", "network",
    "weights", "state", "diffusion_model", "transformer", "backbone", "denoiser", "dit",
    "online_model",  # the weights that an average in the same dict averages
)  # fmt: skip
INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # within names
DEEPEST = 16  # the most wrappers within each other


def unwrapped(weights: Mapping) -> Mapping:
    """Return weights without their wrappers, such as {"ema": {"module": ...}}."""
    for _ in range(DEEPEST):
        inner = next(filter(None, (_inner(weights, key) for key in WRAPPERS)), None)
        if inner is None:
            break
        weights = inner
    return weights


def arrays(weights: Mapping) -> dict[str, np.ndarray]:
    """Return float32 arrays under plain names, without the wrappers of the weights.

    If names say that some are a moving average of the others, only the average is returned.
    """
    weights = unwrapped(weights)
    if not isinstance(weights, Mapping):
        raise UserError(
            "weights must map names to arrays, as module.state_dict() does, but this is a "
            f"{type(weights).__name__}."
        )
    return {name: _array(weights, key) for name, key in keys(weights).items()}


def names(weights: Mapping) -> list[str]:
    """Return the plain names of the arrays that `arrays` would return, without reading them."""
    inner = unwrapped(weights)
    return list(keys(inner)) if isinstance(inner, Mapping) else []


def shape(weights: Mapping, name: str) -> tuple[int, ...]:
    """Return the shape of the array with a plain name, without reading it; () if there is none."""
    inner = unwrapped(weights)
    key = keys(inner).get(name) if isinstance(inner, Mapping) else None
    return () if key is None else tuple(getattr(inner[key], "shape", ()))


def keys(weights: Mapping) -> dict[str, Any]:
    """Return the key of each array by its plain name."""
    plain = {key: _plain(str(key)) for key in weights if not _is_counter(weights, key)}
    averaged = any(average for _, average in plain.values())
    found: dict[str, Any] = {}
    for key, (name, average) in plain.items():
        if averaged and not average:
            continue
        if name in found:
            raise UserError(f"{shown(name)} appears twice, the second time as {shown(key)}.")
        found[name] = key
    return found


def _plain(name: str) -> tuple[str, bool]:
    """Return a name without wrappers, and whether they say that it is of a moving average."""
    for wrapper in INSIDE:
        name = name.replace(wrapper, "")
    start = re.match(rf"(({'|'.join(WRAPPERS)})\.)*", name)
    assert start is not None
    return name[start.end() :], bool(set(start[0].split(".")) & set(AVERAGES))


def _is_counter(weights: Mapping, key: Any) -> bool:
    """Return whether a value is a single number, such as how many updates an average has had."""
    try:
        value = weights[key]
        return isinstance(value, bool | int | float) or getattr(value, "shape", None) == ()
    except Exception:  # of a damaged file; reported when all is read
        return False


def _inner(weights: Any, key: str) -> Mapping | None:
    """Return what is wrapped under a key, if it is a mapping with more than counters."""
    try:
        inner = weights[key] if isinstance(weights, Mapping) and key in weights else None
    except Exception:  # of a damaged file; reported when all is read
        return None
    if not isinstance(inner, Mapping) or all(_is_counter(inner, name) for name in inner):
        return None
    return inner


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
