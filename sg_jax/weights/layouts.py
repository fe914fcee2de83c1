"""Layouts of arrays in words, such as "(3 heads head) width", and moving arrays between them.

Each word is an axis with its own size, or a number that is its size; (a b) is one axis made of
both, with b the faster one.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np


def groups(axes: str) -> list[list[str]]:
    """Split "(3 heads head) width" into [["3", "heads", "head"], ["width"]]."""
    return [group.strip("()").split() for group in re.findall(r"\([^)]*\)|\S+", axes)]


def shape_of(axes: str, sizes: Mapping[str, int]) -> tuple[Any, ...]:
    """Return the shape of a layout, with the words where a size is not known yet."""
    out: list[int | str] = []
    for group in groups(axes):
        known: list[Any] = [int(a) if a.isdigit() else sizes.get(a) for a in group]
        out.append(" ".join(group) if None in known else math.prod(known))
    return tuple(out)


def rearrange(array: np.ndarray, source: str, target: str, sizes: Mapping[str, int]) -> np.ndarray:
    """Bring an array from one layout to another."""
    flat, wanted = ([a for g in groups(axes) for a in g if a != "1"] for axes in (source, target))
    array = array.reshape([int(a) if a.isdigit() else sizes[a] for a in flat])
    array = array.transpose([flat.index(a) for a in wanted])
    return array.reshape(shape_of(target, sizes))
