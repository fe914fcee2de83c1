"""The published names of Inception's and DINOv2's weights, and the sizes that follow from them.

DINOv2 is published under three sets of names: those of its own code ("blocks.0.attn.qkv"), also in
chunks ("blocks.0.0."), and of transformers before and since version 5, perhaps under "dinov2." and
next to a classifier. Ours are paths such as blocks/qkv/kernel, with all blocks in one array.
"""

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sg_jax.encoders import dinov2, inception
from sg_jax.errors import UserError, shown
from sg_jax.weights.filling import Recipe, Shapes

EPSILON = 1e-3  # of Inception's norms
HEADS = ("classifier.", "head.", "linear_head.", "dino_head.", "ibot_head.", "fc_norm.")
UNUSED = ("mask_token", "embeddings.mask_token")  # only for training
NORM = ("weight", "bias", "running_mean", "running_var")

Names = Sequence[tuple[str, ...]]  # what an array may be called, or its parts
TOP: dict[str, Names] = {
    "token": (("cls_token",), ("embeddings.cls_token",)),
    "positions": (("pos_embed",), ("embeddings.position_embeddings",)),
    "registers": (("register_tokens",), ("embeddings.register_tokens",)),
    "patches": (("patch_embed.proj",), ("embeddings.patch_embeddings.projection",)),
    "norm": (("norm",), ("layernorm",)),
}
PARTS = {part: (part, f"{part[0]}_proj") for part in ("query", "key", "value")}  # of attention
BLOCK: dict[str, Names] = {
    "norm1": (("norm1",),),
    **{
        ours: (
            ("attn.qkv",),
            *(
                (f"{start}{word}",)
                for start in ("attention.attention.", "attention.")
                for word in words
            ),
        )
        for ours, words in PARTS.items()
    },
    "out": (("attn.proj",), ("attention.output.dense",), ("attention.o_proj",)),
    "scale1": (("ls1.gamma",), ("layer_scale1.lambda1",)),
    "norm2": (("norm2",),),
    "mlp_in": (("mlp.fc1",), ("mlp.w12",), ("mlp.weights_in",), ("mlp.gate_proj", "mlp.up_proj")),
    "mlp_out": (("mlp.fc2",), ("mlp.w3",), ("mlp.weights_out",), ("mlp.down_proj",)),
    "scale2": (("ls2.gamma",), ("layer_scale2.lambda1",)),
}
ROW = re.compile(r"((?:blocks\.(?:\d{1,4}\.)?|encoder\.layer\.)(\d{1,4})\.)norm1\.weight")


def prefix_of(names: Iterable[str], ends: Sequence[str], label: str, kind: str) -> str:
    """Return what stands before the names of a network, such as "dinov2.".

    Args:
      names: of all arrays.
      ends: names of which every such network has one.
      label: of the weights, for messages.
      kind: what the network is.
    """
    every = list(names)
    longest = sorted(ends, key=len, reverse=True)
    found = set()
    for name in every:
        end = next((e for e in longest if name == e or name.endswith(f".{e}")), None)
        found |= {name.removesuffix(end)} if end else set()
    if len(found) == 1:
        return found.pop()
    some = ", ".join(shown(name) for name in every[:3]) or "nothing"
    has = f"several, under {', '.join(map(shown, sorted(found)[:5]))}" if found else f"only {some}"
    raise UserError(
        f"{label} must have the weights of one {kind}, with a name such as {ends[0]!r}, but has "
        f"{has}."
    )


def inception_recipes(network: inception.Inception, paths: Iterable[str]) -> dict[str, Recipe]:
    """Return how each leaf of an Inception network is made."""
    recipes = {
        "kernel": Recipe(
            ("fc.weight",), ([(inception.LOGITS, inception.FEATURES)],), lambda w: w.T
        ),
        "bias": Recipe(("fc.bias",), ([(inception.LOGITS,)],), lambda b: b),
    }
    for path in paths:
        if path in recipes:
            continue
        unit: Any = network
        *steps, _, leaf = path.split("/")
        for step in steps:
            unit = unit[int(step)] if step.isdigit() else getattr(unit, step)
        recipes[path] = _folded(unit, leaf)
    return recipes


def _folded(unit: inception.Unit, leaf: str) -> Recipe:
    """Return how the kernel or the bias of convolutions is made, with their norms folded in."""
    height, width, inputs, _ = unit.conv.kernel.shape
    names: list[str] = []
    shapes: list[list[tuple[int, ...]]] = []
    for name, outputs in zip(unit.names, unit.widths, strict=True):
        names += [f"{name}.conv.weight", *(f"{name}.bn.{part}" for part in NORM)]
        shapes.append([(outputs, inputs, height, width)])
        shapes += [[(outputs,)] for _ in NORM]

    def make(*given: np.ndarray) -> np.ndarray:
        parts = []
        for i in range(0, len(given), 1 + len(NORM)):
            kernel, scale, bias, mean, variance = (a.astype(np.float64) for a in given[i : i + 5])
            if variance.min() < 0:
                raise UserError(
                    f"{names[i + 4]!r} has a variance below 0: these weights are wrong."
                )
            rate = scale / np.sqrt(variance + EPSILON)
            folded = kernel * rate[:, None, None, None] if leaf == "kernel" else bias - mean * rate
            parts.append(folded)
        whole = np.concatenate(parts)
        return whole.transpose(2, 3, 1, 0) if leaf == "kernel" else whole

    return Recipe(tuple(names), tuple(shapes), make)


def dinov2_rows(names: Iterable[str], label: str) -> list[str]:
    """Return what the names of each block begin with."""
    found = {int(m[2]): m[1] for m in map(ROW.fullmatch, names) if m}
    if not found or sorted(found) != list(range(len(found))):
        raise UserError(
            f"{label} has no complete row of blocks, numbered from 0: some are missing, or it is "
            "not a DINOv2."
        )
    return [found[i] for i in range(len(found))]


def dinov2_sizes(
    shapes: Shapes, rows: Sequence[str], heads: int | None, label: str
) -> dinov2.Sizes:
    """Return the sizes of a network; all but the heads follow from shapes.

    Args:
      shapes: by name.
      rows: what the names of each block begin with.
      heads: of attention; by default those of the published widths.
      label: of the weights, for messages.
    """

    def shape(ours: str, axes: int) -> tuple[int, ...]:
        block = ours in BLOCK
        start, weight = (
            (rows[0] if block else ""),
            "" if ours in ("positions", "registers") else ".weight",
        )
        parts = _parts(start, (BLOCK if block else TOP)[ours], shapes, weight)
        found = [shapes.get(part, ()) for part in parts]
        if any(len(each) != axes for each in found):
            raise UserError(
                f"{label}: {parts[0]!r} has the shape {found[0]}, but it must have {axes} axes."
                if found[0] else f"{label} has no {parts[0]!r}."
            )  # fmt: skip
        return (sum(each[0] for each in found), *found[0][1:])

    width, _, _, patch = shape("patches", 4)
    table = math.isqrt(max(shape("positions", 3)[1] - 1, 0))
    hidden, wide = shape("mlp_out", 2)[1], shape("mlp_in", 2)[0]
    named = any(name in shapes for names in TOP["registers"] for name in names)
    if heads is None and width not in dinov2.WIDTHS:
        raise UserError(
            f"{label} has tokens of {width} numbers, but the published networks have "
            f"{', '.join(map(str, dinov2.WIDTHS))}: say how many attention heads it has, with "
            "load_encoder(..., heads=...), or num_attention_heads in the config.json beside it."
        )
    heads = width // dinov2.HEAD if heads is None else heads
    if width % heads:
        raise UserError(f"{label}: heads={heads} must divide {width}, the width of a token.")
    return dinov2.Sizes(
        width=width, depth=len(rows), heads=heads, hidden=hidden, gated=wide == 2 * hidden,
        patch=patch, table=table, registers=shape("registers", 3)[1] if named else 0,
    )  # fmt: skip


def dinov2_recipes(
    network: dinov2.DINOv2, leaves: Mapping[str, Any], shapes: Shapes, rows: Sequence[str]
) -> dict[str, Recipe]:
    """Return how each leaf of DINOv2 is made."""
    return {path: _recipe(network, path, leaf.shape, shapes, rows) for path, leaf in leaves.items()}


def _recipe(
    network: dinov2.DINOv2, path: str, shape: tuple[int, ...], shapes: Shapes, rows: Sequence[str]
) -> Recipe:
    kind, *rest = path.split("/")
    ends = {"kernel": ".weight", "scale": ".weight", "bias": ".bias"}
    end = ends.get(rest[-1], "") if rest else ""
    if kind == "blocks":
        parts = [_parts(row, BLOCK[rest[0]], shapes, end) for row in rows]
        one = shape[1:]
        together = [".attn.qkv." in name for name in parts[0]] == [True]
        outputs = one[-1] * (3 if together else 1) // len(parts[0])
        wanted = (outputs, one[0]) if rest[-1] == "kernel" else (outputs,)
        names = tuple(name for each in parts for name in each)
        third = list(PARTS).index(rest[0]) * one[-1] if together else 0
        cut = slice(third, third + one[-1])
        return Recipe(names, ([wanted],) * len(names), functools.partial(_stacked, shape, cut))
    name = _parts("", TOP["positions" if kind == "class_position" else kind], shapes, end)
    table, width = network.positions.shape[1:]
    if kind in ("positions", "class_position"):
        rows_of = np.s_[0, 1:] if kind == "positions" else np.s_[0, 0]
        return Recipe(name, ([(1, 1 + table**2, width)],), lambda a: a[rows_of].reshape(shape))
    if kind in ("token", "registers"):
        return Recipe(
            name, ([(1, *((1,) * (kind == "token")), *shape)],), lambda a: a.reshape(shape)
        )
    if rest[-1] == "kernel":  # of the patches
        kernel = (width, 3, network.patch, network.patch)
        return Recipe(name, ([kernel],), lambda a: a.transpose(2, 3, 1, 0).reshape(shape))
    return Recipe(name, ([shape],), lambda a: a)


def _stacked(shape: tuple[int, ...], cut: slice, *arrays: np.ndarray) -> np.ndarray:
    """Return a part of the arrays of all blocks as one array; a kernel is transposed."""
    each = len(arrays) // shape[0]
    blocks = (np.concatenate(arrays[i : i + each])[cut].T for i in range(0, len(arrays), each))
    return np.stack(list(blocks))


def _parts(start: str, names: Names, shapes: Shapes, end: str) -> tuple[str, ...]:
    """Return the names that an array has here, or the first that it could have."""
    possible = [tuple(f"{start}{name}{end}" for name in each) for each in names]
    present = [each for each in possible if any(name in shapes for name in each)]
    usual = possible[0 if start.startswith("blocks") or len(possible) == 1 else -1]
    return present[0] if present else usual
