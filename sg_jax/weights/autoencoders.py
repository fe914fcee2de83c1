"""Autoencoders from published weights."""

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sg_jax.encoders import kl, tae
from sg_jax.encoders.autoencoder import Autoencoder
from sg_jax.errors import UserError, nearest, one_line, plain, shown
from sg_jax.weights import autoencoder_names as published
from sg_jax.weights import autoencoder_scales as scales
from sg_jax.weights import autoencoder_sources as sources
from sg_jax.weights import state_dict
from sg_jax.weights.checkpoints import named, unnamed
from sg_jax.weights.tensors import Tensor

KL, TAE = (
    {"encoder": kl.Encoder, "decoder": kl.Decoder},
    {
        "encoder": tae.Encoder,
        "decoder": tae.Decoder,
    },
)


def load_autoencoder(source: str | os.PathLike | Mapping, **overrides: Any) -> Autoencoder:
    """Load an autoencoder: AutoencoderKL (SD, SDXL, SD3, FLUX.1), or a tiny one of the TAE family.

    Which one it is, its channels, its levels and its factor follow from names and shapes. The names
    may be those of diffusers, now or before 2023, or of latent diffusion, also within the
    checkpoint of a whole model. Nobody's code is run.

    Args:
      source: a file (.safetensors, .npz, or of torch.save); a folder with one and perhaps with
        config.json, or with an encoder's and a decoder's file; a hub id such as
        "stabilityai/sd-vae-ft-ema", by the package huggingface_hub; or a mapping of names to
        arrays.
      overrides: what shapes do not tell.
        scale, shift: latent = (z - shift) * scale. By default those of config.json, or of a
          published autoencoder that the name or what stands beside it tells. A tiny one has 1 and
          0, because its latents come out scaled. With a scale alone, the shift is that of
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
    found = sources.find(source)
    weights = _merged(found)
    names = [name for name in weights if isinstance(name, str)]
    prefix = published.prefix_of(names, found.label)
    shapes = {name: published.described(weights[name]) for name in names}
    networks = TAE if prefix is None else KL
    if prefix is None:
        halves, names_of = _tiny(shapes, found.label)
        width = {"encoder": lambda half: half[-1].outputs, "decoder": lambda half: half[0].inputs}
        factors = {name: 2 ** sum(p.resample for p in half) for name, half in halves.items()}
        prefix = ""
    else:
        inner = {n.removeprefix(prefix): s for n, s in shapes.items() if n.startswith(prefix)}
        groups = scales.groups_of(given, found.config)
        halves, names_of = _kl(inner, groups, found.label)
        width = dict.fromkeys(KL, lambda half: half.latents)
        factors = {name: 2 ** (len(half.channels) - 1) for name, half in halves.items()}
    channels = {name: width[name](half) for name, half in halves.items()}
    for what, values in (("channels of a latent", channels), ("factor", factors)):
        if len(set(values.values())) > 1:
            raise UserError(
                f"{found.label}: the encoder and the decoder do not belong together, their {what} "
                f"being {' and '.join(map(str, values.values()))}."
            )
    setup = scales.setup(
        given, found.config, found.label, found.hints, names, next(iter(channels.values())),
        networks is TAE,
    )  # fmt: skip
    shapeless = {
        name: _without_weights(networks[name], half, setup.dtype) for name, half in halves.items()
    }
    built = _filled(shapeless, names_of, prefix, shapes, weights, found.label)
    return Autoencoder(
        built.get("encoder"),
        built.get("decoder"),
        name=found.label,
        scale=setup.scale,
        shift=setup.shift,
        factor=next(iter(factors.values())),
        channels=next(iter(channels.values())),
    )


@functools.lru_cache(maxsize=8)
def _without_weights(network: Callable[..., Any], half: Any, dtype: jnp.dtype) -> Any:
    """Return a network of shapes."""
    return jax.eval_shape(lambda: network(half, dtype, rngs=nnx.Rngs(0)))


def _merged(found: sources.Found) -> Mapping[str, Any]:
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


Halves = dict[str, Any]
Names = Callable[[str], str]


def _tiny(shapes: published.Shapes, label: str) -> tuple[Halves, Names]:
    """Return the halves of a tiny autoencoder, and from our paths to published names."""
    halves: Halves = {}
    rows: dict[str, tuple[str, list[str]]] = {}
    for prefix, numbers in published.tae_rows(shapes).items():
        half, pieces = published.tae_row(prefix, numbers, shapes, label)
        if half in halves:
            raise UserError(f"{label} has two {half}s: give one autoencoder.")
        halves[half], rows[half] = pieces, (prefix, numbers)
    if not halves:
        some = ", ".join(shown(name) for name in list(shapes)[:3]) or "nothing"
        raise UserError(
            f"{label} has no weights of an AutoencoderKL or a tiny autoencoder: its names are such "
            f"as {some}, and wanted is encoder.conv_in.weight or encoder.layers.0.weight."
        )
    return halves, lambda path: published.tae_name(path, *rows[path.split("/")[0]])


def _kl(shapes: published.Shapes, groups: int, label: str) -> tuple[Halves, Names]:
    """Return the halves of an AutoencoderKL, and from our paths to published names."""
    if "bn.running_mean" in shapes:
        raise UserError(
            f"{label} is FLUX.2's autoencoder, which normalises packed latents: only its tiny one, "
            "TAEF2, can be read."
        )
    style = published.style_of(shapes)
    found = {
        half: published.kl_half(half, style, shapes, groups, label) for half in published.HALVES
    }
    halves: Halves = {name: half for name, half in found.items() if half is not None}
    if not halves:
        raise UserError(f"{label} has no residual blocks of an encoder or a decoder.")
    for half in halves.values():
        if odd := [width for width in half.channels if width % groups]:
            raise UserError(
                f"{label}: groups={groups} must divide all channels, and there are {odd[0]}: give "
                "load_autoencoder(..., groups=...)."
            )
    return halves, lambda path: published.kl_name(
        path, style, len(halves[path.split("/")[0]].channels)
    )


def _filled(
    networks: Mapping[str, Any],
    names_of: Names,
    prefix: str,
    shapes: published.Shapes,
    weights: Mapping[str, Any],
    label: str,
) -> dict[str, Any]:
    """Return the networks with their weights; raise unless these are all there are, and fit."""
    leaves = named(dict(networks))
    wanted = {path: prefix + names_of(path) for path in leaves}
    _check(wanted, leaves, prefix, shapes, label)
    ours: dict[str, jax.Array] = {}
    for path, name in wanted.items():
        array = _array(name, weights[name], label)
        if path.endswith("/kernel"):
            array = array.reshape(*array.shape, *(1,) * (4 - array.ndim)).transpose(2, 3, 1, 0)
        ours[path] = jnp.asarray(np.ascontiguousarray(array), leaves[path].dtype)
    return unnamed(ours, dict(networks))


def _array(name: str, value: Any, label: str) -> np.ndarray:
    """Return one of the weights as float32."""
    try:
        if isinstance(value, Tensor):
            value = value.numpy()
        array = next(iter(state_dict.arrays({name: value}).values()))
        state_dict.check_finite({name: array})
    except UserError as error:
        raise UserError(f"{label}: {error}") from None
    except Exception as cause:  # damaged files raise many kinds
        raise UserError(
            f"{label}: {name!r} cannot be read ({one_line(cause)}), so the file is damaged: copy "
            "or download it again."
        ) from None
    return array


def _check(
    wanted: Mapping[str, str],
    leaves: Mapping[str, Any],
    prefix: str,
    shapes: published.Shapes,
    label: str,
) -> None:
    if missing := [name for name in wanted.values() if name not in shapes]:
        raise UserError(
            f"{label} has no {missing[0]!r}, and {len(missing) - 1} others are missing."
            + nearest(missing[0], _strangers(wanted.values(), shapes, prefix))
        )
    if left := _strangers(wanted.values(), shapes, prefix):
        raise UserError(
            f"{label} has {shown(left[0])}, which its autoencoder would not use, and "
            f"{len(left) - 1} others: it is another network than AutoencoderKL or a tiny one."
        )
    for path, name in wanted.items():
        shape = leaves[path].shape
        if len(shape) == 4:
            shape = (shape[3], shape[2], *shape[:2])
        if shapes[name] not in (shape, shape[:2] if shape[2:] == (1, 1) else shape):
            raise UserError(
                f"{label}: {name!r} has the shape {shapes[name]}, but the others ask for {shape}."
            )


def _strangers(used: Iterable[str], shapes: published.Shapes, prefix: str) -> list[str]:
    """Return the names of a half, or of the convolutions around latents, that are not used."""
    starts = tuple(prefix + start for start in ("encoder.", "decoder.", *published.QUANT.values()))
    return sorted(name for name in shapes.keys() - set(used) if name.startswith(starts))
