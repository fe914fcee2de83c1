"""Check that networks can run at sparsity rates and with guidance settings, before any work."""

from collections.abc import Mapping

import numpy as np

from sg_jax.errors import UserError
from sg_jax.method import schedule, tokens
from sg_jax.method.guidance import WEAK_LABELS, Guidance, rates
from sg_jax.method.network import Network


def check_rate(model: Network, gamma: float, key: str) -> None:
    """Raise if a network cannot run at sparsity rate `gamma`, the value of `key`."""
    if not gamma or not 0 <= gamma <= 1:
        return
    if not model.choices:
        raise UserError(
            f"{key}={gamma:g} needs a network with routes. This one has none, so it computes every "
            "token: give it routes (config.model.routes, such as ((1, 4),)), or set the rate to 0."
        )
    if model.masks and tokens.keep_count(model.tokens, gamma) == 0:
        raise UserError(f"{key}={gamma:g} must be below 1: masking needs at least one token.")


def check_setting(
    model: Network, guidance: Guidance, weak_model: Network | None = None, key: str = "guidance"
) -> None:
    """Raise if networks cannot make the predictions of a guidance setting.

    Args:
      model: the network of the strong prediction; its shapes are enough.
      guidance: the setting.
      weak_model: the network of the weak prediction, if it is another one.
      key: names the setting in the error.
    """
    check_rate(model, schedule.highest(guidance.gamma_strong), f"{key}.gamma_strong")
    if not guidance.guided:
        return
    weak = model if weak_model is None else weak_model
    gamma = schedule.highest(guidance.gamma_weak)
    check_rate(weak, gamma, f"{key}.gamma_weak")
    kinds, least = model.conditioning, WEAK_LABELS[guidance.weak_label].least
    if kinds.count is not None and kinds.count < least:
        raise UserError(
            f"{key}.weak_label={guidance.weak_label!r} needs another class to draw, but the model "
            f"has only {kinds.count}."
        )
    if guidance.channels > model.channels:
        raise UserError(
            f"{key}.channels={guidance.channels} is more than the network's {model.channels}; 0 "
            "guides all."
        )
    alike = {"image_size": "image_size", "channels": "channels"}
    alike |= {"tokens": "tokens", "choices": "number of routes"} if gamma else {}
    differing = [
        (words, getattr(weak, name), getattr(model, name))
        for name, words in alike.items()  # kept tokens are drawn once for both networks
        if getattr(weak, name) != getattr(model, name)
    ]
    if weak.conditioning.kind != kinds.kind:
        differing.append(("condition", weak.conditioning.kind, kinds.kind))
    for words, theirs, ours in differing:
        raise UserError(
            f"The network of the weak prediction ({guidance.describe()}) does not fit the strong "
            f"one: its {words} is {theirs}, not {ours}."
        )


def possible(
    model: Network, settings: Mapping[str, Guidance]
) -> tuple[dict[str, Guidance], list[str]]:
    """Return the settings that a network can run, and a sentence on each that it cannot."""
    able, notes = {}, []
    for name, setting in settings.items():
        try:
            check_setting(model, setting)
        except UserError as error:
            notes.append(f"{name} is left out. {error}")
        else:
            able[name] = setting
    return able, notes


def rounding(guidance: Guidance, steps: int) -> float:
    """Return the largest difference between a step's rate and its schedule."""
    pairs = zip(rates(guidance, steps), (guidance.gamma_strong, guidance.gamma_weak), strict=True)
    return max(float(np.abs(np.array(r) - schedule.values(g, steps)).max()) for r, g in pairs)
