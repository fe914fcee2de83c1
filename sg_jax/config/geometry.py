"""The network that a config describes, with its geometry filled in from the data."""

from typing import Any

import jax
from ml_collections import ConfigDict

from sg_jax.config.sections import Model
from sg_jax.data.pipeline import check_flip
from sg_jax.encoders.text import BYTES
from sg_jax.errors import UserError, default_of, plain, section, shown
from sg_jax.models import sizes
from sg_jax.models.backbone import Backbone
from sg_jax.models.kinds import BACKBONES, reads, reads_texts
from sg_jax.models.layers import Keys

FROM_DATA = (
    "image_size", "channels", "num_classes", "text_length", "text_words", "text_features",
)  # fmt: skip
FROM_TEXT = {"text_length": "length", "text_words": "words"}  # config.model to config.text


def from_data(kind: str) -> tuple[str, ...]:
    """Return the arguments of a backbone that come from the data."""
    return tuple(key for key in FROM_DATA if key in reads(kind))


def is_known(config: ConfigDict) -> bool:
    """Return whether a config has the network's whole geometry, without any data."""
    needed = set(from_data(config.model.kind)) - set(FROM_TEXT)
    if config.text.encoder == BYTES:
        needed -= {"text_features"}
    return all(config.model[key] for key in needed)


def complete(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
    latents: bool = False,
    decodable: bool = False,
    features: int = 0,
) -> ConfigDict:
    """Return a copy with the model's geometry and the values from the data filled in.

    Args:
      config: as given.
      image_shape: (H, W, C) of the data.
      num_classes: of the data.
      latents: whether the data are latents; then whatever needs pixels needs an autoencoder.
      decodable: whether an autoencoder is named.
      features: F of the texts, for a network of texts; 0 if they are bytes.
    """
    check_flip(config.data.flip, latents)
    data = f"config.data.name={shown(config.data.name)}"
    train = config.train
    drawn = train.sample_every or train.evaluate_every or "evaluate" in train.then
    if latents and not decodable and drawn:
        raise UserError(
            f"config.train.sample_every={train.sample_every} and config.train.evaluate_every="
            f"{train.evaluate_every} must be 0 for latents ({data}), and config.train.then="
            f"{train.then!r} must not evaluate, because nothing says what decodes them: set "
            "config.autoencoder.path to their autoencoder."
        )
    height, width, channels = image_shape
    if not latents and channels not in (1, 3):
        raise UserError(
            f"The images of {data} have {channels} channels, but they must be grey (1) or coloured "
            "(3)."
        )
    if height != width:
        raise UserError(
            f"config.data.image_size=0 uses images as stored, {height}x{width}, but they must be "
            "square: set config.data.image_size."
        )
    values = dict(image_size=height, channels=channels, num_classes=num_classes)
    values["text_features"] = features
    found = {key: values[key] for key in from_data(config.model.kind) if key in values}
    for key, value in found.items():
        if config.model[key] not in (0, value):
            raise UserError(
                f"config.model.{key}={shown(config.model[key])} differs from the data's {value} "
                f"({data}); 0 uses the data's."
            )
    return fill_geometry(config, **found)


def fill_geometry(config: ConfigDict, **values: int) -> ConfigDict:
    """Return a copy with `config.model` filled from its size and `values`, then checked.

    A key at its default is filled. Any other value must be the one that the size has.
    """
    config = config.copy_and_resolve_references()
    model = config.model
    with section("config.model"):
        Model(**model)
    read = reads(model.kind)
    if reads_texts(model.kind):
        for key, name in FROM_TEXT.items():
            values[key] = config.text[name]
            if model[key] not in (0, config.text[name]):
                raise UserError(
                    f"config.model.{key}={model[key]} differs from config.text.{name}="
                    f"{config.text[name]}: leave the former at 0, which uses the latter."
                )
    named: dict[str, Any] = dict(sizes.geometry(model.size)) if model.size else {}
    if missing := [key for key in named if key not in read and not default_of(Model, key) == 0]:
        raise UserError(
            f"config.model.size={shown(model.size)} has {missing[0]}={named[missing[0]]!r}, which "
            f"config.model.kind={shown(model.kind)} does not read: set another kind or size."
        )
    named = {key: value for key, value in named.items() if key in read}
    for key, value in named.items():
        default = default_of(Model, key)
        if plain(model[key]) not in (default, value):
            raise UserError(
                f"config.model.size={shown(model.size)} has {key} {value}, but config.model.{key}="
                f"{model[key]}: set that to {value} or {default}, or leave the size empty."
            )
    with config.unlocked():
        for key, value in {**named, **values}.items():
            if plain(model[key]) == default_of(Model, key):
                model[key] = value
    for key in ("depth", "width", "heads", "patch", *FROM_DATA):
        if key in read and key not in ("text_features", "text_words") and model[key] < 1:
            raise UserError(
                f"config.model.{key}={model[key]} must be at least 1; or set config.model.size, "
                f"such as 'XL/2'."
            )
    return config


def make_model(model: Model, key: jax.Array) -> Backbone:
    """Return the network of a completed config with fresh weights."""
    arguments = {name: getattr(model, name) for name in reads(model.kind)}
    return BACKBONES[model.kind](**arguments, rngs=Keys(key))


def abstract_model(config: ConfigDict, **instead: Any) -> Backbone:
    """Return the shapes of the network of a completed config.

    Args:
      config: completed.
      instead: values of config.model to use instead of the config's.
    """
    with section("config.model"):
        model = Model(**{**config.model, **instead})
    return jax.eval_shape(lambda key: make_model(model, key), jax.random.key(0))
