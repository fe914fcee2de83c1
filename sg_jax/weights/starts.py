"""Weights that training starts from: of another run, of an exported one, or of a file.

Everything but the number of classes must match the new network; routes may differ, because
they have no weights. With another number of classes the label table gets new rows.
"""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sg_jax.config import record
from sg_jax.errors import UserError
from sg_jax.models import sizes
from sg_jax.models.backbone import Backbone
from sg_jax.models.kinds import BACKBONES, argument
from sg_jax.models.parts import Parts
from sg_jax.models.stack import RoutedStack
from sg_jax.runs.progress import log
from sg_jax.weights import checkpoints, networks, reading, state_dict
from sg_jax.weights.checkpoints import named, unnamed
from sg_jax.weights.families import FAMILIES

TABLE = "label_embedding"
TOLD = {"image_size": "tokens", "heads": "head"}  # by the axes of stored position tables
SAME = (  # attributes that decide what weights mean, by the keys of config.model
    "depth", "width", "heads", "patch", "channels", "mlp_ratio", "learn_sigma", "prediction",
    "time_endpoint", "decoder_width", "decoder_depth", "decoder_heads", "state", "expand",
    *(field.name for field in dataclasses.fields(Parts)), "text_features", "text_layers",
    "text_words",
)  # fmt: skip


def check(source: str | os.PathLike, model: Backbone) -> None:
    """Raise unless a network can start from a source; a file of weights is read for this.

    Args:
      source: a run, an exported folder, or a file of weights.
      model: shapes of the network.
    """
    if networks.is_weights(source):
        check_same(source, from_file(source, model), model)
        return
    if not record.is_run(source):
        raise UserError(
            f"config.train.init_from={str(source)!r} is neither a run nor weights: give a run, an "
            f"exported folder, or a file of weights. {reading.HUB}"
        )
    other = checkpoints.abstract_network(source)
    check_same(source, other, model)
    folder = checkpoints.checkpoint_dir(source) / str(checkpoints.saved_steps(source)[-1])
    checkpoints.check_shapes(folder, {"ema": named(other)}, verified=False)


def load(
    source: str | os.PathLike, model: Backbone, mesh: Mesh, step: int | None = None
) -> Backbone:
    """Return a network with the weights of a source; see `check`.

    Args:
      source: a run, an exported folder, or a file of weights.
      model: the network with fresh weights, some of which the label table may keep.
      mesh: the devices of its weights.
      step: of the checkpoint of a run; the latest by default.
    """
    if networks.is_weights(source):
        found = from_file(source, model, tell=True)
    else:
        like = checkpoints.abstract_network(source)
        if (_stacks(like), classes(like), like.inner) == (
            _stacks(model), classes(model), model.inner
        ):  # fmt: skip
            return checkpoints.load(source, step, mesh=mesh, like=model)
        found = checkpoints.load(source, step)
    check_same(source, found, model)
    return fitted(found, model)


def fitted(found: Backbone, model: Backbone) -> Backbone:
    """Return a network with the weights of `found` and the label table and stacks of `model`.

    With another number of classes, the table's rows for classes are the fresh ones of `model`. The
    row for no class is that of `found`. An inner head that `found` does not have is fresh too.
    """
    theirs = {name: np.asarray(leaf) for name, leaf in named(found).items()}
    parts: dict[str, list[np.ndarray]] = {}
    for name, leaf in theirs.items():  # "blocks/stacks/0/mlp/..." of all stacks, in order
        parts.setdefault(_without_stack(name), []).append(leaf)
    cuts = {path: [s.start for s in stack.segments[1:]] for path, stack in _stacks_of(model)}
    leaves: dict[str, jax.Array] = {}
    for name, fresh in named(model).items():
        whole = parts.get(_without_stack(name))
        if whole is None:  # of the inner head
            leaves[name] = fresh
            continue
        path, within, rest = name.partition("/stacks/")
        value = whole[0]
        if within:
            pieces = np.split(np.concatenate(whole), cuts[path])
            value = pieces[int(rest.split("/")[0])]
        elif name == TABLE and classes(found) != classes(model):
            leaves[name] = fresh
            if model.conditioning.null_row:
                leaves[name] = _with_last(fresh, whole[0][-1])
            log(
                f"The weights are of {classes(found)} classes and the run has {classes(model)}, "
                f"so the label table has {classes(model)} new rows"
                + (", and keeps the one for no class." if model.conditioning.null_row else ".")
            )
            continue
        leaves[name] = jax.device_put(jnp.asarray(value), fresh.sharding)
    return unnamed(leaves, model)


def _with_last(table: jax.Array, row: np.ndarray) -> jax.Array:
    """Return a table with another last row, wherever its parts are."""
    return jax.jit(lambda t, r: t.at[-1].set(r), out_shardings=table.sharding)(table, row)


def from_file(source: str | os.PathLike, model: Backbone, tell: bool = False) -> Backbone:
    """Return the network of a file of weights.

    What the file and the config next to it do not tell is as in the new network.
    """
    found = networks.find(source)
    if found.about:
        return networks.build(found)
    options: dict[str, Any] = {}
    try:
        family = networks.family_of(found, prediction=model.prediction)
        known = FAMILIES[family]
        # The file decides what its network predicts, and `check_same` compares that.
        told = {"dtype", "prediction", "time_endpoint"}
        axes = {axis for table in known.tables.values() for axis in table.split()}
        if known.table_stored:
            told |= {key for key, axis in TOLD.items() if axis in axes}
        for name in known.options:
            if hasattr(model, name) and name not in told:
                options[name] = getattr(model, name)
        if known.null_rows:
            table = next(n for n, ours, _ in known.rules if ours == TABLE).replace("*", "0")
            rows = state_dict.shape(found.weights, table)
            options["num_classes"] = _rows(rows[0] if rows else 0, classes(model) or 0)
    except UserError as error:
        raise UserError(f"config.train.init_from={str(source)!r}: {error}") from None
    if tell:
        log(f"{found.path} is read as weights of family {family}.")
    return networks.build(found, family, {**options, **found.options})


def _rows(rows: int, wanted: int) -> int | None:
    """Return how many classes a label table has; None if its rows tell."""
    if wanted == rows - 1:
        return wanted
    return rows if rows == 1 or (rows and rows % 10 == 0) else None  # see `shapes.classes`


def check_same(source: Any, found: Backbone, model: Backbone) -> None:
    """Raise unless two networks have the same weights, except for the label table."""
    kinds = {kind: name for name, kind in BACKBONES.items()}
    differing: list[tuple[str, Any, Any]] = [("kind", kinds[type(found)], kinds[type(model)])]
    differing += [
        (name, argument(found, name), argument(model, name))
        for name in SAME
        if None not in (argument(found, name), argument(model, name))
    ]
    for name, theirs, ours in differing:
        same = theirs == ours
        if name == "mlp_ratio":
            same = _hidden(found) == _hidden(model)
        if not same:
            raise UserError(
                f"config.train.init_from={str(source)!r} has weights with {name} {theirs!r}, which "
                f"do not fit config.model.{name}={ours!r}: set it to {theirs!r}, or start from "
                "other weights."
            )


def _hidden(network: Backbone) -> int:
    """Return the hidden channels of a network's MLPs."""
    width, ratio = argument(network, "width"), argument(network, "mlp_ratio")
    return sizes.hidden(width, ratio, argument(network, "mlp") or "gelu")


def classes(network: Backbone) -> int | None:
    """Return how many classes a network knows; None if its condition is not a class."""
    return network.conditioning.count


def _stacks_of(network: Backbone) -> list[tuple[str, RoutedStack]]:
    return [(n, part) for n, part in vars(network).items() if isinstance(part, RoutedStack)]


def _stacks(network: Backbone) -> list[list[tuple[int, int]]]:
    """Return where the stacks of a network begin and end."""
    return [[(s.start, s.stop) for s in stack.segments] for _, stack in _stacks_of(network)]


def _without_stack(name: str) -> str:
    """Return "blocks/*/mlp" for "blocks/stacks/0/mlp"."""
    path, within, rest = name.partition("/stacks/")
    return f"{path}/*/{rest.partition('/')[2]}" if within else name
