"""A network from wherever its weights are: a run, an exported folder, or a file of weights."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sg_jax.config import exported, geometry, parsing, record, tree
from sg_jax.data import origin as origins
from sg_jax.errors import UserError, one_line, one_of, shown
from sg_jax.method.presets import Named
from sg_jax.models.attention import IMPLEMENTATIONS
from sg_jax.models.backbone import Backbone
from sg_jax.models.kinds import reads
from sg_jax.parallel import sharding
from sg_jax.runs import files
from sg_jax.weights import checkpoints, convert, described, reading, shapes, state_dict
from sg_jax.weights.checkpoints import named, unnamed
from sg_jax.weights.families import FAMILIES
from sg_jax.weights.tensors import type_name

DIFFUSERS = "diffusers_dit"
CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")  # of diffusers, with DiT's weights
IN_FOLDER = "diffusion_pytorch_model.safetensors"  # or .bin, or with a variant: ...model.fp16.bin
WEIGHTS = re.compile(r"diffusion_pytorch_model(\.[\w\-]+)?\.(safetensors|bin)")

HOW = {  # keys of config.model on which no weights depend, and their values
    "dtype": ("float32", "bfloat16"),
    "attention": IMPLEMENTATIONS,
}


@dataclasses.dataclass(frozen=True)
class Found:
    """What a file or folder of weights holds.

    Attributes:
      path: of the file.
      weights: arrays by name, perhaps within mappings.
      about: what we wrote about them; {} for weights of someone else.
      options: what a config next to them tells about the network.
      family: how they are named; "" if only the names can tell.
    """

    path: epath.Path
    weights: Mapping[str, Any]
    about: described.Description
    options: Mapping[str, Any]
    family: str


def load(
    source: str | os.PathLike,
    step: int | str | None = None,
    weights: str = "ema",
    mesh: Mesh | None = None,
    like: Backbone | None = None,
    *,
    family: str = "",
    dtype: Any = None,
    attention: str | None = None,
    **options: Any,
) -> Backbone:
    """Load a network: of a run, of what `--mode export` wrote, or from published weights.

    A run brings its guidance settings: `sample(model, labels, "sg")` takes the run's own "sg".

    Args:
      source: the folder of a run; a file of weights (.safetensors, .npz, or of torch.save); or a
        folder in diffusers' layout.
      step, weights, mesh, like: which weights of a run, and where they go; see `checkpoints.load`.
        A file has only one network.
      family: how published weights are named, such as "sit", if names alone do not tell.
      dtype: the type that products are computed in, "float32" or "bfloat16" (or a NumPy or JAX
        dtype); by default that of the run or the exported file, and float32 for published weights.
        Weights stay float32.
      attention: what computes attention in a run's or an exported file's network; see
        `config.model.attention`.
      options: what the shapes of published weights do not tell, such as heads; see
        `convert.from_state_dict`.

    Returns:
      The network.

    Raises:
      UserError: there is nothing to load, it is damaged, or it is another kind of thing.
    """
    computed = _computed(dtype, attention)
    if computed and like is not None:
        raise UserError(
            f"{next(iter(computed))} has no effect, because like has one: leave it out."
        )
    if not is_weights(source):
        if str(source).count("/") == 1 and not files.path(source).exists():
            raise UserError(
                f"workdir={str(source)!r} does not exist: train there first. {reading.HUB}"
            )
        if given := [*(["family"] if family else []), *options]:
            raise UserError(
                f"{given[0]} has no effect, because {str(source)!r} is not a file of published "
                "weights: leave it out."
            )
        if computed:
            like = checkpoints.abstract_network(source, **computed)
        return checkpoints.load(source, step, weights, mesh, like)
    for name, value in {"step": step, "like": like}.items():
        if value is not None:
            raise UserError(f"{name} has no effect: {str(source)!r} is not a run. Leave it out.")
    if weights != "ema":
        raise UserError(
            f"weights={shown(weights)} has no effect: {str(source)!r} holds one network."
        )
    sharding.check(mesh)
    network = build(find(source), family, {**options, **computed})
    return network if mesh is None else placed(network, mesh)


def _computed(dtype: Any, attention: str | None) -> dict[str, str]:
    """Return what is given of `HOW`, the type by its name."""
    found = {}
    if dtype is not None:
        name = type_name(dtype)
        one_of("dtype", name if name in HOW["dtype"] else dtype, HOW["dtype"])
        found["dtype"] = name
    if attention is not None:
        one_of("attention", attention, HOW["attention"])
        found["attention"] = attention
    return found


def placed(network: Backbone, mesh: Mesh) -> Backbone:
    """Return a network with its weights on the devices of a mesh."""
    places = sharding.place(jax.eval_shape(lambda: network), mesh)
    moved = jax.tree.map(lambda x, to: jax.device_put(x, to.sharding), network, places)
    moved.named = network.named
    return moved


def is_weights(source: str | os.PathLike) -> bool:
    """Return whether a path is a file of weights or a folder of diffusers, and not a run."""
    path = files.path(source)
    if record.is_run(path) and not _is_diffusers(path):
        return False
    looks = os.fspath(source).lower().endswith(reading.SUFFIXES)
    return (path.exists() and not path.is_dir()) or _is_diffusers(path) or looks


def find(source: str | os.PathLike) -> Found:
    """Read a file of weights, or the one in a folder of diffusers; arrays are read later.

    The config.json of such a folder counts for a file in it too.
    """
    path = files.path(source)
    options: dict[str, Any] = {}
    if path.is_dir():
        folder = path if _is_diffusers(path, deeper=False) else path / "transformer"
        options = _diffusers_options(folder)
        inside = _inside(folder)
        if not inside:
            raise UserError(
                f"{folder} has no {IN_FOLDER}, and no .bin: give a folder with all weights in one "
                "file."
            )
        path = inside[0]
    weights, about = described.read(path)
    beside = WEIGHTS.fullmatch(path.name) and (path.parent / "config.json").exists()
    if beside and not (options or about):
        options = _diffusers_options(path.parent)
    family = DIFFUSERS if options else str(about.get("family", ""))
    return Found(path, weights, about, options, family)


def build(found: Found, family: str = "", options: Mapping[str, Any] | None = None) -> Backbone:
    """Return the network of what was found.

    Args:
      found: by `find`.
      family, options: see `load`.
    """
    given = dict(options or {})
    try:
        if found.about:
            return _ours(found, family, given)
        family = family_of(found, family)
        return convert.from_state_dict(found.weights, family, **{**found.options, **given})
    except UserError as error:
        raise UserError(f"{found.path}: {error}") from None


def family_of(found: Found, family: str = "", prediction: str = "") -> str:
    """Return the family of published weights.

    Args:
      found: by `find`.
      family: as given, or "".
      prediction: decides between families with the same names, if it is given.

    Raises:
      UserError: names alone do not tell.
    """
    if family or found.family:
        return family or found.family
    names = state_dict.names(found.weights)
    fitting = shapes.fitting(names)
    chosen = [name for name in fitting if FAMILIES[name].prediction == prediction] or fitting
    if len(chosen) == 1:
        return chosen[0]
    if not fitting:
        some = ", ".join(shown(name) for name in list(names)[:3]) or "nothing"
        raise UserError(
            f"its names, such as {some}, are not those of any family; the families are "
            f"{', '.join(FAMILIES)}."
        )
    raise UserError(
        f"its names are those of several families: set family to one of {', '.join(chosen)}."
    )


def config_of(found: Found) -> ConfigDict:
    """Return the config in an exported file's description, without what leads out of the file.

    Args:
      found: by `find`; if `build` accepts it, it has such a config.
    """
    return tree.without_unread(exported.portable(parsing.merge(found.about["config"])))


def _ours(found: Found, family: str, given: Mapping[str, Any]) -> Backbone:
    """Return the network that an exported file describes."""
    unread = [name for name in given if name not in HOW]
    if unread or family not in ("", found.family):
        name = next(iter(unread), "family")
        raise UserError(f"{name} has no effect: the file says what its network is. Leave it out.")
    try:
        config = config_of(found)
        abstract = geometry.abstract_model(config)
        settings = tree.settings(config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"its description is not that of a network ({one_line(error)}).") from None
    if given:
        abstract = geometry.abstract_model(config, **given)
    if found.family:
        known = FAMILIES.get(found.family)
        arguments = set(known.options) if known else set()
        options = {
            name: value
            for name, value in config.model.items()
            if name in arguments & set(reads(config.model.kind))
        }
        leaves = named(convert.from_state_dict(found.weights, found.family, **options))
    else:
        leaves = {name: jnp.asarray(a) for name, a in state_dict.arrays(found.weights).items()}
    wanted = named(abstract)
    for name in {**wanted, **leaves}:
        shape, here = (getattr(x.get(name), "shape", "missing") for x in (leaves, wanted))
        if shape != here:
            raise UserError(f"{shown(name)} is {shape}, but its description asks for {here}.")
    state_dict.check_finite({name: np.asarray(leaf) for name, leaf in leaves.items()})
    network = unnamed(leaves, abstract)
    made = found.about.get(origins.ENTRY)
    maker = None if made is None else origins.from_record(made, found.path)
    network.named = Named(settings, str(found.about.get(record.ENCODER, "")), maker)
    return network


def _inside(folder: epath.Path) -> list[epath.Path]:
    """Return the files of weights in a folder of diffusers, the best first."""
    found = [path for path in files.children(folder) if WEIGHTS.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.stem.count("."), path.suffix == ".bin", path.name))


def _is_diffusers(path: epath.Path, deeper: bool = True) -> bool:
    """Return whether a folder, or `transformer` in it, has a network of diffusers."""
    if not path.is_dir():
        return False
    if _inside(path):
        return True  # if it has no readable config, that is reported later
    config = path / "config.json"
    try:
        if config.exists() and "_class_name" in json.loads(config.read_text(encoding="utf-8")):
            return True
    except (OSError, ValueError, TypeError, RecursionError):
        return False
    return deeper and _is_diffusers(path / "transformer", deeper=False)


def _diffusers_options(folder: epath.Path) -> dict[str, Any]:
    """Return what config.json of diffusers tells that shapes do not."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind, activation = config["_class_name"], config.get("activation_fn", "gelu-approximate")
        if kind not in CLASSES or activation != "gelu-approximate":
            raise UserError(
                f"{path} describes a {shown(kind)} with {shown(activation)}: only DiT can be read, "
                f"which is a {CLASSES[0]} with 'gelu-approximate'."
            )
        found = {
            "heads": config["num_attention_heads"],
            "image_size": config["sample_size"],
            "num_classes": config.get("num_embeds_ada_norm"),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} cannot be read as diffusers' config ({one_line(error)})."
        ) from None
    return {name: value for name, value in found.items() if value is not None}
