"""The networks that measure images, from published weights: Inception and DINOv2."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from sg_jax.encoders import dinov2, inception
from sg_jax.encoders.dinov2 import DINOv2
from sg_jax.encoders.inception import Inception
from sg_jax.errors import UserError, is_number, is_whole, one_of, shown
from sg_jax.weights import encoder_names as published
from sg_jax.weights import filling, places, state_dict
from sg_jax.weights.checkpoints import named

DTYPES = ("float32", "bfloat16")
FILES = {  # the usual names of a network's file, and where it is published
    "inception": (
        ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"),
        "the releases of pytorch-fid (https://github.com/mseitzer/pytorch-fid/releases, "
        "fid_weights) and of torch-fidelity (https://github.com/toshas/torch-fidelity/releases)",
    ),
    "dinov2": (
        ("dinov2_vitl14_pretrain.pth",),
        "the README of DINOv2 (https://github.com/facebookresearch/dinov2, ViT-L/14 distilled, "
        "backbone only)",
    ),
}
EXAMPLES = {"inception": "OWNER/NAME", "dinov2": "facebook/dinov2-large"}


def load_encoder(
    kind: str,
    source: str | os.PathLike | Mapping,
    dtype: str = "float32",
    *,
    heads: int | None = None,
    offset: float = 0.0,
) -> Inception | DINOv2:
    """Load a network that measures images.

    No foreign code is run, and nothing is downloaded unless `source` is a hub id.

    Args:
      kind: "inception", the network of FID, sFID and the Inception score, with the names of
        torch-fidelity or pytorch-fid; or "dinov2", ViT-S to ViT-g with or without registers, with
        the names of DINOv2's own code, or of transformers before or since version 5.
      source: a file (.safetensors, .npz, or of torch.save); a folder with one and perhaps a
        config.json; a hub id such as "facebook/dinov2-large", for which huggingface_hub is needed;
        or a mapping of names to arrays.
      dtype: "float32" or "bfloat16", the type that products are computed in.
      heads: of DINOv2's attention; by default that of config.json, or of the published
        widths: one for every 64 numbers of a token.
      offset: of DINOv2's resized position embeddings: 0 as in transformers, or 0.1 as in DINOv2's
        own code and so in the published FD-DINOv2 (`dinov2.PUBLISHED_OFFSET`).

    Returns:
      An `Inception` or a `DINOv2`.

    Raises:
      UserError: the source does not exist, is damaged or is none of these.
    """
    one_of("kind", kind, FILES)
    one_of("dtype", dtype, DTYPES)
    for name, value, default in (("heads", heads, None), ("offset", offset, 0.0)):
        if kind != "dinov2" and value != default:
            raise UserError(f"{name}={shown(value)} is an option of dinov2, not of {kind}.")
    if heads is not None and not (is_whole(heads) and 0 < heads < 2**16):
        raise UserError(f"heads={shown(heads)} must be a positive whole number.")
    if not (is_number(offset) and 0 <= offset < 1):
        raise UserError(f"offset={shown(offset)} must be a number in [0, 1), such as 0 or 0.1.")
    found = places.find(source, EXAMPLES[kind])
    weights = _plain(found)
    if kind == "inception":
        return _inception(weights, found.label, jnp.dtype(dtype))
    stored = found.config.get("num_attention_heads")
    heads = stored if heads is None and is_whole(stored) and stored > 0 else heads
    return _dinov2(weights, found.label, jnp.dtype(dtype), heads, float(offset))


def where(kind: str, given: str | os.PathLike = "") -> str:
    """Return where a network's weights are.

    Args:
      kind: "inception" or "dinov2".
      given: a path or a hub id, which is returned as it is.

    Raises:
      UserError: none is given, and there is none in the usual places.
    """
    one_of("kind", kind, FILES)
    if given:
        return os.fspath(given)
    names, published_by = FILES[kind]
    folders = usual_folders()
    for path in (folder / name for folder in folders for name in names):
        if path.is_file():
            return str(path)
    raise UserError(
        f"The weights of {kind} are not here, and nothing is downloaded unasked. Get {names[0]} "
        f"from {published_by}, and put it into {folders[0]} or say where it is."
    )


def usual_folders() -> list[pathlib.Path]:
    """Return where weights are looked for: our cache, and that of torch.hub."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    torch_home = pathlib.Path(os.environ.get("TORCH_HOME") or cache / "torch")
    return [cache / "sg_jax" / "weights", torch_home.expanduser() / "hub" / "checkpoints"]


def _plain(found: places.Found) -> dict[str, Any]:
    """Return a source's arrays under plain names, without reading them."""
    if len(found.files) != 1:
        raise UserError(f"{found.label} has {len(found.files)} files of weights: give one.")
    (weights,) = found.files.values()
    inner = state_dict.unwrapped(weights)
    if not isinstance(inner, Mapping):
        raise UserError(f"{found.label} must map names to arrays, as module.state_dict() does.")
    return {name: inner[key] for name, key in state_dict.keys(inner).items()}


def _inception(weights: Mapping[str, Any], label: str, dtype: jnp.dtype) -> Inception:
    kind = "Inception network"
    inner, strangers = _below(weights, ("Conv2d_1a_3x3.conv.weight",), label, kind)
    network = inception.of_shapes(label, dtype)
    recipes = published.inception_recipes(network, named(network))
    return filling.filled(network, recipes, inner, strangers, label, f"an {kind}")


def _dinov2(
    weights: Mapping[str, Any], label: str, dtype: jnp.dtype, heads: int | None, offset: float
) -> DINOv2:
    inner, strangers = _below(weights, ("cls_token", "embeddings.cls_token"), label, "DINOv2")
    rows = published.dinov2_rows(inner, label)
    shapes = {name: filling.described(value) for name, value in inner.items()}
    sizes = published.dinov2_sizes(shapes, rows, heads, label)
    network = dinov2.of_shapes(label, sizes, dtype, offset)
    recipes = published.dinov2_recipes(network, named(network), shapes, rows)
    return filling.filled(network, recipes, inner, strangers, label, "DINOv2")


def _below(
    weights: Mapping[str, Any], ends: Sequence[str], label: str, kind: str
) -> tuple[dict[str, Any], list[str]]:
    """Return the weights below a network's prefix, and the names of those that must be used."""
    prefix = published.prefix_of(weights, ends, label, kind)
    outside = [n for n in weights if not n.startswith((prefix, *published.HEADS))]
    if outside:
        raise UserError(
            f"{label} has {shown(outside[0])} besides {kind}, which is under {prefix!r}: give the "
            "network alone."
        )
    inner = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    beside = (*published.HEADS, *published.UNUSED)
    return inner, [name for name in inner if not name.startswith(beside)]
