"""What the names and shapes of published weights say about their network, and whether they fit."""

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from sg_jax.errors import UserError, is_whole, nearest, plain, shown
from sg_jax.models import rotary
from sg_jax.models.layers import position_table
from sg_jax.models.maskdit import MaskDiT
from sg_jax.models.sizes import hidden
from sg_jax.weights.families import FAMILIES, Family
from sg_jax.weights.layouts import groups, shape_of

Arrays = Mapping[str, np.ndarray]
# The types that a table may have been rounded to, and how far from ours it may then be. A value is
# below 1, and so rounded by at most 2^-12 in float16 and 2^-9 in bfloat16.
ROUNDED: tuple[tuple[Any, float], ...] = (
    (np.float32, 1e-4),
    (np.float16, 1e-4 + 2**-12),
    (ml_dtypes.bfloat16, 1e-4 + 2**-9 + 2**-12),
)


def depths(arrays: Arrays) -> dict[str, int]:
    """Return how many blocks each list of blocks has, by the name of the list."""
    found: dict[str, int] = defaultdict(int)
    for name in arrays:
        if match := re.match(r"(\w+)\.(\d{1,9})\.", name):
            block = int(match[2])
            if block >= len(arrays):  # each block has at least one name
                raise UserError(
                    f"{shown(name)} is of block {block}, but there are only {len(arrays)} names."
                )
            found[match[1]] = max(found[match[1]], block + 1)
    return found


def infer(arrays: Arrays, layouts: Mapping[str, str]) -> dict[str, int]:
    """Return the size that most arrays give each axis, from dimensions that are a single axis."""
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    for name, axes in layouts.items():
        parts = groups(axes)
        if name in arrays and arrays[name].ndim == len(parts):
            for group, size in zip(parts, arrays[name].shape, strict=True):
                if len(group) == 1 and not group[0].isdigit():
                    votes[group[0]][size] += 1
    return {axis: count.most_common(1)[0][0] for axis, count in votes.items()}


def arguments(
    known: Family, arrays: Arrays, sizes: Mapping[str, int], blocks: Mapping[str, int]
) -> dict[str, Any]:
    """Return the arguments of the network's constructor, except the number of heads."""
    width, patch, channels = sizes["width"], sizes["row"], sizes["channels"]
    side = math.isqrt(sizes["tokens"])
    if side**2 != sizes["tokens"]:
        raise UserError(
            f"'pos_embed' has {sizes['tokens']} tokens, which is not square: extra tokens (class "
            "tokens) and oblong images are not supported."
        )
    pairs = [(sizes["hidden"], width)]
    depth = next(blocks[name] for name in ("blocks", "transformer_blocks") if name in blocks)
    kwargs: dict[str, Any] = dict(
        image_size=side * patch, channels=channels, patch=patch, width=width, depth=depth,
        learn_sigma=len(arrays[f"{known.head}.weight"]) == 2 * patch**2 * channels,
        prediction=known.prediction, time_endpoint=known.time_endpoint,
    )  # fmt: skip
    if known.network is MaskDiT:
        pairs.append((sizes["decoder_hidden"], sizes["decoder"]))
        kwargs |= dict(
            decoder_width=sizes["decoder"], decoder_depth=blocks["decoder_blocks"], decoder_heads=16
        )
    return kwargs | dict(mlp_ratio=_ratio(pairs, known.parts.mlp))


def _ratio(pairs: list[tuple[int, int]], mlp: str) -> float:
    """Return the MLP ratio of a network from pairs of hidden channels and width."""
    if all(hidden(width, 4.0, mlp) == found for found, width in pairs):
        return 4.0
    before = [  # channels before those of a gated MLP are reduced
        next(n for n in itertools.count(found) if mlp == "gelu" or int(2 / 3 * n) >= found)
        for found, _ in pairs
    ]
    whole = [(n, width) for n, (_, width) in zip(before, pairs, strict=True)]
    ratio = max(n / width for n, width in whole)
    while any(int(width * ratio) < n for n, width in whole):  # a last bit was lost
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def classes(known: Family, rows: int, given: Any) -> tuple[int, bool]:
    """Return the number of classes of a label table, and whether it lacks the row for no class.

    Networks that were trained without dropping labels have no such row. No shape tells, so if the
    number of rows looks like a number of classes, the user has to say which it is.

    Args:
      known: the family.
      rows: of the table.
      given: the number of classes, or None.
    """
    given = plain(given)
    if not known.null_rows:
        if given is not None and not (is_whole(given) and given == rows):
            raise UserError(f"num_classes={shown(given)} is not {rows}, the labels of the table.")
        return rows, False
    if given is None:
        if rows % 10 and rows > 1:
            return rows - 1, False
        raise UserError(
            f"The label table has {rows} rows, which may be {rows} classes, or {rows - 1} and a "
            "row for no class, which networks trained with dropped labels have. Say which with "
            f"num_classes={rows} or num_classes={rows - 1}."
        )
    if not is_whole(given) or given not in (rows, rows - 1):
        raise UserError(
            f"num_classes={shown(given)} does not fit the {rows} rows of the label table: it must "
            f"be {rows - 1}, with a row for no class, or {rows} without."
        )
    return given, given == rows


def tables(known: Family, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the position tables [1, N, D], and those of rotary embeddings, by their names."""
    side = math.isqrt(sizes["tokens"])
    found = {}
    for name, layout in known.tables.items():
        size = sizes[layout.split()[-1]]
        if layout.endswith("head"):  # [N, D/H]: neighbouring channels have the same angle
            cosines, sines = np.split(rotary.grid(side, side, size), 2, axis=1)
            found[name] = np.repeat(cosines if name.endswith("cos") else sines, 2, axis=1)
        else:
            found[name] = position_table(side, side, size)[None].copy()
    return found


def check_table(name: str, found: np.ndarray, table: np.ndarray) -> None:
    """Raise unless a position table is the fixed one, perhaps rounded to half precision."""
    error = np.abs(found - table).max()
    for dtype, most in ROUNDED:
        if error <= most and (found.astype(dtype).astype(np.float32) == found).all():
            return
    raise UserError(
        f"{name!r} differs by up to {error:.2g} from the fixed sine-cosine table of its "
        f"{table.shape[-2]} tokens, which our networks compute; learned position embeddings cannot "
        "be read."
    )


def check_names(
    known: Family, arrays: Arrays, layouts: Mapping[str, str], sizes: Mapping[str, int], family: str
) -> None:
    """Raise if names are unknown or missing."""
    extra = [name for name in arrays if name not in layouts]
    optional = () if known.table_stored else known.tables
    missing = [name for name in layouts if name not in arrays and name not in optional]
    found = []
    if extra:
        shape, close = _text(arrays[extra[0]].shape), nearest(extra[0], missing or layouts)
        found.append(f"unknown name {extra[0]!r} {shape} ({len(extra)} in all).{close}")
    if missing:
        shape = _text(shape_of(layouts[missing[0]], sizes))
        found.append(f"missing {missing[0]!r} {shape} ({len(missing)} in all).")
    if found:
        others = [name for name in fitting(arrays) if name != family]
        found += [f"Their names are those of family {' or '.join(others)}."] if others else []
        raise UserError(f"These are not the weights of family={family!r}: " + " ".join(found))


def fitting(names: Iterable[str]) -> list[str]:
    """Return the families that know all of these names, and of which no needed name is missing."""
    stars = {re.sub(r"^(\w+)\.\d+\.", r"\1.*.", name) for name in names}
    out = []
    for family, known in FAMILIES.items():
        wanted = {name for name, *_ in known.rules}
        wanted |= set(known.tables) if known.table_stored else set()
        own = {name for name in stars if not known.dropped or not name.startswith(known.dropped)}
        allowed = {name for rules in known.optional.values() for name, *_ in rules}
        if wanted <= own <= wanted | set(known.tables) | allowed:
            out.append(family)
    return out


def check_shapes(arrays: Arrays, layouts: Mapping[str, str], sizes: Mapping[str, int]) -> None:
    """Raise if the shape of an array does not fit the sizes of its axes."""
    for name, axes in layouts.items():
        if name not in arrays:
            continue
        shape, expected = arrays[name].shape, shape_of(axes, sizes)
        if len(shape) != len(expected) or any(
            isinstance(e, int) and s != e for s, e in zip(shape, expected, strict=True)
        ):
            raise UserError(
                f"{name!r} has the shape {_text(shape)}, but the other weights need "
                f"{_text(expected)}: {axes}."
            )


def _text(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
