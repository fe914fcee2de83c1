"""Check before any work that networks can run at sparsity rates and with guidance settings."""

from collections.abc import Mapping

import numpy as np

from sg_jax.errors import UserError, shown
from sg_jax.method import schedule, tokens
from sg_jax.method.guidance import WEAK_LABELS, Guidance, plan, rates
from sg_jax.method.network import Network
from sg_jax.method.sampler import Sampler


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
      weak_model: the network of the weak prediction, if it is a different one.
      key: names the setting in the error.
    """
    check_rate(model, schedule.highest(guidance.gamma_strong), f"{key}.gamma_strong")
    _check_skip(model, guidance, key)
    if guidance.inner_acts and not model.inner:
        raise UserError(
            f"{key}.inner_scale={shown(guidance.inner_scale)} needs a network with an inner head, "
            "and this one has none: train one with config.model.inner, or leave the scale at 1."
        )
    if not guidance.guided:
        return
    if guidance.channels > model.channels:
        raise UserError(
            f"{key}.channels={guidance.channels} is more than the network's {model.channels}; 0 "
            "guides all."
        )
    if guidance.refresh > 1 and not guidance.weak_acts and not guidance.skip_acts:
        raise UserError(
            f"{key}.refresh={guidance.refresh} has nothing to reuse: the inner head costs "
            "nothing, and no other prediction is made. Leave it at 1."
        )
    if guidance.weak_acts:
        _check_weak(model, guidance, weak_model, key)


def _check_skip(model: Network, guidance: Guidance, key: str) -> None:
    """Raise unless the blocks to skip are some of the network's, but not all."""
    if guidance.skip_scale == 1.0:
        return
    skip, depth = guidance.skip, model.depth
    if skip in (0, ()):
        raise UserError(
            f"{key}.skip_scale={shown(guidance.skip_scale)} needs blocks to skip: give {key}.skip, "
            "such as 1, or (2, 3), or leave the scale at 1."
        )
    count = len(skip) if isinstance(skip, tuple) else skip
    if count >= depth or (isinstance(skip, tuple) and skip[-1] >= depth):
        raise UserError(
            f"{key}.skip={shown(skip)} must leave out some of the network's {depth} blocks, not "
            f"all: a number from 1 to {depth - 1}, or block numbers from 0 to {depth - 1}."
        )


def _check_weak(model: Network, guidance: Guidance, weak_model: Network | None, key: str) -> None:
    """Raise if networks cannot make the pair of a strong and a weak prediction."""
    weak = model if weak_model is None else weak_model
    if guidance.ids == "borrowed":
        _check_borrowed(model, guidance, weak is not model or guidance.two_networks, key)
    gamma = schedule.highest(guidance.gamma_weak)
    check_rate(weak, gamma, f"{key}.gamma_weak")
    kinds, least = model.conditioning, WEAK_LABELS[guidance.weak_label].least
    if least > 1 and not kinds.drawable:
        raise UserError(
            f"{key}.weak_label={guidance.weak_label!r} draws another of the network's conditions, "
            f"but these cannot be counted ({kinds.kind}): set it to 'null' or 'same'."
        )
    if kinds.count is not None and kinds.count < least:
        raise UserError(
            f"{key}.weak_label={guidance.weak_label!r} needs another class to draw, but the model "
            f"has only {kinds.count}."
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


def _check_borrowed(model: Network, guidance: Guidance, another: bool, key: str) -> None:
    """Raise unless the weak prediction's tokens can take their values from the strong one."""
    strong, weak = (schedule.values(g, 101) for g in (guidance.gamma_strong, guidance.gamma_weak))
    reasons = {
        "masking has no tokens to borrow": model.masks,
        "another network makes the weak one": another,
        f"the weak label is {guidance.weak_label!r}": guidance.weak_label != "same",
        "the weak one has noise on its time": guidance.time_noise > 0,
        "gamma_weak is below gamma_strong": bool((weak < strong - 1e-9).any()),
    }
    for reason in (words for words, broken in reasons.items() if broken):
        raise UserError(
            f"{key}.ids='borrowed' takes values of the weak prediction from the strong one, so it "
            "needs one network, the same label and gamma_weak >= gamma_strong, but here "
            f"{reason}. Choose other ids, such as 'nested'."
        )


def possible(
    model: Network,
    settings: Mapping[str, Guidance],
    sampler: Sampler,
    steps: int,
    weak: Mapping[str, Network] = {},
) -> tuple[dict[str, Guidance], list[str]]:
    """Return the settings that a network can run in these steps, and a sentence on each other.

    `weak` has the networks of other runs that make weak predictions, by the setting's name.
    """
    able, notes = {}, []
    for name, setting in settings.items():
        try:
            check_setting(model, setting, weak.get(name))
            plan(setting, sampler, steps)
        except UserError as error:
            notes.append(f"{name} is left out. {error}")
        else:
            able[name] = setting
    return able, notes


def doubts(guidance: Guidance, untrained_null: bool = False) -> list[str]:
    """Return a sentence on each thing about a setting that works but is probably not meant.

    Args:
      guidance: the setting.
      untrained_null: whether the network was trained without the null label.
    """
    if not guidance.weak_acts:
        return []
    found, (strong, weak) = [], (guidance.gamma_strong, guidance.gamma_weak)
    alike = guidance.weak_label == "same" and not guidance.two_networks
    constant = not isinstance(strong, tuple) and not isinstance(weak, tuple)
    if alike and constant and strong > weak:  # type: ignore[operator]
        found.append(
            f"the strong prediction leaves out more tokens (gamma_strong={strong:g}) than the weak "
            f"one (gamma_weak={weak:g}), so guidance probably makes images worse."
        )
    if untrained_null and guidance.weak_label == "null":
        found.append(
            "the weak prediction is that of the null label, which was never trained, because "
            "config.objective.label_dropout=0.0."
        )
    return found


def rounding(guidance: Guidance, steps: int) -> float:
    """Return the largest difference between a step's rate and its schedule."""
    pairs = zip(rates(guidance, steps), (guidance.gamma_strong, guidance.gamma_weak), strict=True)
    return max(float(np.abs(np.array(r) - schedule.values(g, steps)).max()) for r, g in pairs)
