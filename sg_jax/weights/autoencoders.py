"""Autoencoders from published weights."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from sg_jax.encoders import kl, tae
from sg_jax.encoders.autoencoder import Autoencoder
from sg_jax.errors import UserError, plain, shown
from sg_jax.models.layers import abstract
from sg_jax.weights import autoencoder_names as published
from sg_jax.weights import autoencoder_scales as scales
from sg_jax.weights import filling, places, state_dict
from sg_jax.weights.checkpoints import named

KL: dict[str, Callable[..., Any]] = {"encoder": kl.Encoder, "decoder": kl.Decoder}
TAE: dict[str, Callable[..., Any]] = {"encoder": tae.Encoder, "decoder": tae.Decoder}


@dataclasses.dataclass(frozen=True)
class Half:
    """An encoder or a decoder: its class, the sizes it is made of, and what follows from them."""

    network: Callable[..., Any]
    sizes: Any
    channels: int  # of a latent
    factor: int


Halves = dict[str, Half]
Names = Callable[[str], str]  # from our paths to published names


def load_autoencoder(source: str | os.PathLike | Mapping, **overrides: Any) -> Autoencoder:
    """Load an autoencoder: AutoencoderKL (SD, SDXL, SD3, FLUX.1), or a tiny one of the TAE family.

    Which one it is, its channels, its levels and its factor follow from names and shapes. The names
    may be those of diffusers, now or before 2023, or of latent diffusion, also within the
    checkpoint of a whole model. No foreign code is run.

    Args:
      source: a file (.safetensors, .npz, or of torch.save); a folder with one and perhaps a
        config.json, or with an encoder's and a decoder's file; a hub id such as
        "stabilityai/sd-vae-ft-ema", for which huggingface_hub is needed; or a mapping of names to
        arrays.
      overrides: what shapes do not tell.
        scale, shift: latent = (z - shift) * scale. By default those of config.json, or of the
          published autoencoder that its name or the arrays next to it point to. A tiny one has 1
          and 0, because its latents come out scaled. If only a scale is given, the shift is that of
          config.json, or 0.
        groups: of the norms; by default those of config.json, or 32.
        dtype: "float32" (default) or "bfloat16", the type that products are computed in.

    Returns:
      An `Autoencoder`, whose `encode` and `decode` are compiled once for each shape.

    Raises:
      UserError: the source does not exist, is damaged or is none of these; nothing tells the scale.
    """
    given = {name: value if name == "dtype" else plain(value) for name, value in overrides.items()}
    given = {name: value for name, value in given.items() if value is not None}
    scales.check_options(given)
    found = places.find(source)
    found.config = dict(scales.of_autoencoder(found.config))
    weights = _merged(found)
    names = [name for name in weights if isinstance(name, str)]
    prefix = published.prefix_of(names, found.label)
    shapes = {name: filling.described(weights[name]) for name in names}
    if prefix is None:
        halves, names_of = _tiny(shapes, found.label)
    else:
        inner = {n.removeprefix(prefix): s for n, s in shapes.items() if n.startswith(prefix)}
        groups = scales.groups_of(given, found.config)
        halves, names_of = _kl(inner, groups, found.label)
    channels = _common("latent channels", [h.channels for h in halves.values()], found.label)
    factor = _common("factors", [half.factor for half in halves.values()], found.label)
    setup = scales.setup(
        given, found.config, found.label, found.hints, names, channels, tiny=prefix is None
    )
    networks = {
        name: _without_weights(half.network, half.sizes, setup.dtype)
        for name, half in halves.items()
    }
    built = _filled(networks, names_of, prefix or "", shapes, weights, found.label)
    return Autoencoder(
        built.get("encoder"),
        built.get("decoder"),
        name=found.label,
        scale=setup.scale,
        shift=setup.shift,
        factor=factor,
        channels=channels,
    )


def _common(what: str, values: list[int], label: str) -> int:
    """Return what the encoder and the decoder agree on."""
    if len(set(values)) > 1:
        raise UserError(
            f"{label}: the encoder and the decoder do not belong together: their {what} are "
            f"{' and '.join(map(str, values))}."
        )
    return values[0]


@functools.lru_cache(maxsize=8)
def _without_weights(network: Callable[..., Any], sizes: Any, dtype: jnp.dtype) -> Any:
    """Return a network of shapes."""
    return abstract(lambda rngs: network(sizes, dtype, rngs=rngs))


def _merged(found: places.Found) -> Mapping[str, Any]:
    """Return the weights of one file, or of two under names that begin with the file's."""
    files = {start: state_dict.unwrapped(file) for start, file in found.files.items()}
    only = next(iter(files.values()))
    if len(files) == 1 and set(only) == set(published.HALVES):
        files = {f"{half}.": only[half] for half in published.HALVES}
    if not all(isinstance(file, Mapping) for file in files.values()):
        raise UserError(f"{found.label} must map names to arrays, as module.state_dict() does.")
    if len(files) == 1:
        return only
    return {f"{start}{n}": value for start, file in files.items() for n, value in file.items()}


def _tiny(shapes: filling.Shapes, label: str) -> tuple[Halves, Names]:
    """Return the halves of a tiny autoencoder, and the map from our paths to published names."""
    halves: Halves = {}
    rows: dict[str, tuple[str, list[str]]] = {}
    for prefix, numbers in published.tae_rows(shapes).items():
        half, pieces = published.tae_row(prefix, numbers, shapes, label)
        if half in halves:
            raise UserError(f"{label} has two {half}s: give one autoencoder.")
        channels = pieces[-1].outputs if half == "encoder" else pieces[0].inputs
        factor = 2 ** sum(piece.resample for piece in pieces)
        halves[half] = Half(TAE[half], pieces, channels, factor)
        rows[half] = prefix, numbers
    if not halves:
        some = ", ".join(shown(name) for name in list(shapes)[:3]) or "nothing"
        raise UserError(
            f"{label} has no weights of an AutoencoderKL or a tiny autoencoder: it has names such "
            f"as {some}, but needs encoder.conv_in.weight or encoder.layers.0.weight."
        )
    return halves, lambda path: published.tae_name(path, *rows[path.split("/")[0]])


def _kl(shapes: filling.Shapes, groups: int, label: str) -> tuple[Halves, Names]:
    """Return the halves of an AutoencoderKL, and the map from our paths to published names."""
    if "bn.running_mean" in shapes:
        raise UserError(
            f"{label} is FLUX.2's autoencoder, which normalises packed latents: only its tiny one, "
            "TAEF2, can be read."
        )
    style = published.style_of(shapes)
    found = {
        half: published.kl_half(half, style, shapes, groups, label) for half in published.HALVES
    }
    sizes = {name: half for name, half in found.items() if half is not None}
    if not sizes:
        raise UserError(f"{label} has no residual blocks of an encoder or a decoder.")
    for half in sizes.values():
        if odd := [width for width in half.channels if width % groups]:
            raise UserError(
                f"{label}: groups={groups} must divide all numbers of channels, but one is "
                f"{odd[0]}: give load_autoencoder(..., groups=...)."
            )
    halves = {
        name: Half(KL[name], half, half.latents, 2 ** (len(half.channels) - 1))
        for name, half in sizes.items()
    }
    return halves, lambda path: published.kl_name(
        path, style, len(sizes[path.split("/")[0]].channels)
    )


def _filled(
    networks: Mapping[str, Any],
    names_of: Names,
    prefix: str,
    shapes: filling.Shapes,
    weights: Mapping[str, Any],
    label: str,
) -> dict[str, Any]:
    """Return the networks with their weights; raise unless all are there, used, and fit."""
    recipes = {
        path: _recipe(path, prefix + names_of(path), leaf.shape)
        for path, leaf in named(dict(networks)).items()
    }
    strangers = _strangers(shapes, prefix)
    found = {name: weights[name] for name in shapes}
    return filling.filled(dict(networks), recipes, found, strangers, label, "its autoencoder")


def _recipe(path: str, name: str, shape: tuple[int, ...]) -> filling.Recipe:
    """Return how a leaf is made from the array with a name; kernels may lack sides of 1."""
    if not path.endswith("/kernel"):
        return filling.Recipe((name,), ([shape],), lambda x: x)
    whole = (shape[3], shape[2], *shape[:2])
    allowed = [whole, whole[:2]] if whole[2:] == (1, 1) else [whole]
    return filling.Recipe((name,), (allowed,), lambda x: x.reshape(whole).transpose(2, 3, 1, 0))


def _strangers(shapes: filling.Shapes, prefix: str) -> list[str]:
    """Return the names of a half, or of the convolutions around latents."""
    starts = tuple(prefix + start for start in ("encoder.", "decoder.", *published.QUANT.values()))
    return [name for name in shapes if name.startswith(starts)]
