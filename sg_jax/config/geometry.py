"""The network that a config describes, its geometry filled in from the data."""

import jax
from flax import nnx
from ml_collections import ConfigDict

from sg_jax.data.pipeline import check_flip
from sg_jax.errors import UserError, nearest
from sg_jax.method.prediction import PREDICTIONS
from sg_jax.models import dit
from sg_jax.models.backbone import Backbone
from sg_jax.models.dit import DiT
from sg_jax.models.maskdit import MaskDiT
from sg_jax.models.ssm import SSM

SHARED = (
    "image_size", "channels", "num_classes", "patch", "width", "depth", "routes", "dtype", "remat",
    "learn_sigma", "prediction",
)  # fmt: skip
TRANSFORMER = ("heads", "mlp_ratio", "attention")
KINDS = {  # constructor, and the keys of config.model that it takes besides SHARED
    "dit": (DiT, TRANSFORMER),
    "maskdit": (MaskDiT, (*TRANSFORMER, "decoder_width", "decoder_depth", "decoder_heads")),
    "ssm": (SSM, ("state", "expand", "scan")),
}


def complete(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
    latents: bool = False,
) -> ConfigDict:
    """Return a copy with the model's geometry and what comes from the data filled in.

    Args:
      config: as given.
      image_shape: (H, W, C) of the data.
      num_classes: of the data.
      latents: whether the data are latents: what needs pixels is then an error.
    """
    config = config.copy_and_resolve_references()
    check_flip(config.data.flip, latents)
    if latents and (config.train.sample_every or config.train.then):
        raise UserError(
            f"config.train.sample_every={config.train.sample_every} and config.train.then="
            f"{config.train.then!r} must be 0 and () for latents (config.data.name="
            f"{config.data.name!r}): drawing images from them needs a decoder."
        )
    height, width, channels = image_shape
    if not latents and channels not in (1, 3):
        raise UserError(
            f"The images of config.data.name={config.data.name!r} have {channels} channels, but "
            f"they must be grey (1) or coloured (3)."
        )
    if height != width:
        raise UserError(
            f"config.data.image_size=0 takes images as stored, {height}x{width}, but they must be "
            f"square: set config.data.image_size."
        )
    model = config.model
    found = dict(image_size=height, channels=channels, num_classes=num_classes)
    for key, value in found.items():
        if model[key] not in (0, value):
            raise UserError(
                f"config.model.{key}={model[key]} differs from the data's {value} "
                f"(config.data.name={config.data.name!r}); 0 takes the data's."
            )
    return fill_geometry(config, **found)


def fill_geometry(config: ConfigDict, **values: int) -> ConfigDict:
    """Return `config` with `config.model` filled from its size and `values`, then checked."""
    model = config.model
    if model.kind not in KINDS:
        raise UserError(
            f"config.model.kind={model.kind!r} must be one of {', '.join(KINDS)}."
            + nearest(model.kind, KINDS)
        )
    if model.prediction not in PREDICTIONS:
        raise UserError(
            f"config.model.prediction={model.prediction!r} must be one of {PREDICTIONS}."
            + nearest(model.prediction, PREDICTIONS)
        )
    named = dit.geometry(model.size) if model.size else {}
    for key, value in named.items():
        if model[key] not in (0, value):
            raise UserError(
                f"config.model.size={model.size!r} has {key} {value}, but config.model.{key}="
                f"{model[key]}: set that to {value} or 0, or leave the size empty."
            )
    with config.unlocked():
        for key, value in {**named, **values}.items():
            model[key] = model[key] or value
    needed = ("depth", "width", "heads", "patch", "image_size", "channels", "num_classes")
    for key in needed:
        if model[key] < 1 and key in keys_of(model.kind):
            raise UserError(
                f"config.model.{key}={model[key]} must be at least 1; or set config.model.size, "
                f"such as 'XL/2'."
            )
    return config


def keys_of(kind: str) -> tuple[str, ...]:
    """Return the keys of config.model that a kind of network takes."""
    return (*SHARED, *KINDS[kind][1])


def make_model(config: ConfigDict, key: jax.Array) -> Backbone:
    """Return the network of a completed config with fresh weights."""
    network, keys = KINDS[config.model.kind][0], keys_of(config.model.kind)
    return network(**{k: config.model[k] for k in keys}, rngs=nnx.Rngs(key))
