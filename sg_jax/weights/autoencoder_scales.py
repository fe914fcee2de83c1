"""How an autoencoder's latents are scaled: given, in config.json, or known by its name."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp

from sg_jax.errors import FLOAT32, TINY, UserError, is_number, is_whole, nearest, shown
from sg_jax.weights.tensors import type_name

OPTIONS = ("scale", "shift", "groups", "dtype")
DTYPES = ("float32", "bfloat16")
CLASSES = ("AutoencoderKL", "AutoencoderTiny")
GROUPS = 32
LAYERS: dict[str, tuple[tuple[Any, ...], ...]] = {
    # what config.json may say of layers, for an AutoencoderKL and for a tiny one
    "act_fn": (("silu", "swish"), ("relu",)),
    "upsample_fn": (("nearest",), ("nearest",)),
    "upsampling_scaling_factor": ((2,), (2,)),
}


@dataclasses.dataclass(frozen=True)
class Known:
    """A published autoencoder: latent = (z - shift) * scale."""

    model: str
    channels: int
    scale: float
    shift: float
    names: str  # a pattern of its files, folders and hub ids
    beside: str  # how the names next to it in a checkpoint of the whole model begin


KNOWN = (  # the first one whose pattern is found counts; taesdxl is tiny
    Known(
        "SDXL", 4, 0.13025, 0.0, r"(?<!tae)sd[-_]?xl|stable-diffusion-xl",
        "conditioner.embedders.",
    ),
    Known(
        "SD3", 16, 1.5305, 0.0609, r"\bsd[-_]?3|stable-diffusion-3",
        "model.diffusion_model.joint_blocks.",
    ),
    Known(
        "FLUX.1", 16, 0.3611, 0.1159, r"flux[-._]?1|(^|/)ae$",
        "model.diffusion_model.double_blocks.",
    ),
    Known(
        "SD 1 and 2", 4, 0.18215, 0.0,
        r"sd-vae-ft|vae-ft-(ema|mse)|kl-f8|stable-diffusion-(v1|2|inpainting)|\bsd-?v?[12]\b",
        "cond_stage_model.",
    ),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setup:
    """What shapes do not tell about an autoencoder."""

    scale: float
    shift: float
    dtype: jnp.dtype


def of_autoencoder(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a config, or {} if it is not that of an autoencoder."""
    return {} if {"_class_name", "scaling_factor"}.isdisjoint(config) else config


def check_options(overrides: Mapping[str, Any]) -> None:
    """Raise a UserError unless all options exist and have allowed values."""
    for name, value in overrides.items():
        if name not in OPTIONS:
            raise UserError(
                f"{name}={shown(value)} is not an option of load_autoencoder, which has "
                f"{', '.join(OPTIONS)}." + nearest(name, OPTIONS)
            )
        _check(name, value, "")


def groups_of(overrides: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Return the number of groups in the norms."""
    for value in (overrides.get("groups"), config.get("norm_num_groups")):
        if value is not None:
            _check("groups", value, "norm_num_groups of config.json: ")
            return value
    return GROUPS


def setup(
    overrides: Mapping[str, Any],
    config: Mapping[str, Any],
    label: str,
    hints: Iterable[str],
    names: Iterable[str],
    channels: int,
    tiny: bool,
) -> Setup:
    """Return scale, shift and compute type.

    Args:
      overrides: the options that were given.
      config: of config.json, or {}.
      label: what was loaded, for messages.
      hints: names of the file, its folder and its hub id.
      names: of all arrays, including those next to the autoencoder.
      channels: of a latent.
      tiny: whether it is a tiny autoencoder, whose latents come out scaled.

    Raises:
      UserError: nothing tells the scale, or the config is of something else.
    """
    _check_config(config, label, channels, tiny)
    dtype = overrides.get("dtype")
    if dtype is None:
        stored = config.get("dtype", config.get("torch_dtype"))
        dtype = "bfloat16" if stored in ("bfloat16", "torch.bfloat16") else "float32"
    scale, shift = overrides.get("scale"), overrides.get("shift")
    for key, name in (("scaling_factor", "scale"), ("shift_factor", "shift")):
        if config.get(key) is not None:
            _check(name, config[key], f"{key} of config.json: ")
    if scale is None and config.get("scaling_factor") is not None:
        scale = config["scaling_factor"]
        shift = config.get("shift_factor") if shift is None else shift
    elif scale is None and tiny:
        scale = 1.0
    elif scale is None:
        known = _known(config, hints, names, channels)
        if known is None:
            usual = ", ".join(f"{k.scale} of {k.model}" for k in KNOWN if k.channels == channels)
            raise UserError(
                f"{label}: the scale of its latents, with {channels} channels, is not known. "
                "Its config.json has no scaling_factor, and its name is not a known one. Give it: "
                f"load_autoencoder(..., scale=..., shift=...), such as {usual or '1 for none'}."
            )
        scale, shift = known.scale, known.shift if shift is None else shift
    elif shift is None:
        shift = config.get("shift_factor")
    return Setup(float(scale), float(shift or 0.0), jnp.dtype(dtype))


def _check(name: str, value: Any, where: str) -> None:
    if name == "scale":
        fits = is_number(value) and TINY <= value <= FLOAT32
        wanted = "a number above 0, with latent = (z - shift) * scale"
    elif name == "shift":
        fits = is_number(value) and abs(value) <= FLOAT32
        wanted = "a number, with latent = (z - shift) * scale"
    elif name == "groups":
        fits = is_whole(value) and 0 < value < 2**20
        wanted = f"the number of groups in the norms, usually {GROUPS}"
    else:
        fits = type_name(value) in DTYPES
        wanted = f"one of {', '.join(DTYPES)}: in float16 SDXL's overflows"
    if not fits:
        raise UserError(f"{where}{name}={shown(value)} must be {wanted}.")


def _check_config(config: Mapping[str, Any], label: str, channels: int, tiny: bool) -> None:
    kind = config.get("_class_name", CLASSES[0])
    if kind not in CLASSES:
        raise UserError(
            f"{label} is a {shown(kind)}, says config.json; {' and '.join(CLASSES)} can be read."
        )
    for key, each in LAYERS.items():
        usual = each[tiny]
        if config.get(key, usual[0]) not in usual:
            raise UserError(
                f"{label} has {key}={shown(config[key])}, says config.json, but only autoencoders "
                f"with {shown(usual[0])} can be read."
            )
    if config.get("latent_channels", channels) != channels:
        raise UserError(
            f"{label} has latents of {channels} channels, but its config.json says "
            f"latent_channels={shown(config['latent_channels'])}: it belongs to other weights."
        )
    if any(config.get(key) is not None for key in ("latents_mean", "latents_std")):
        raise UserError(
            f"{label} normalises each channel of its latents on its own, by latents_mean and "
            "latents_std in its config.json, which is not supported."
        )


def _known(
    config: Mapping[str, Any], hints: Iterable[str], names: Iterable[str], channels: int
) -> Known | None:
    """Return the published autoencoder that a name points to, if it has this number of channels."""
    beside = set(names)
    possible = [known for known in KNOWN if known.channels == channels]
    for known in possible:
        if any(name.startswith(known.beside) for name in beside):
            return known
    texts = [*hints, str(config.get("_name_or_path", ""))[:300]]
    return by_name(texts, possible)


def by_name(texts: Iterable[str], possible: Iterable[Known] = KNOWN) -> Known | None:
    """Return one of the possible autoencoders: that of the first name that points to any."""
    lower, some = [text.lower() for text in texts], list(possible)
    return next((k for text in lower for k in some if re.search(k.names, text)), None)
