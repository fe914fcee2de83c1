"""The convolutions of the Inception network of 2015, by their published names.

A name is made of the block's, the branch's and, in a branch of several convolutions, a number.
"""

import dataclasses

POOL = "branch_pool"


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution: channels out, sides of the kernel, and 2 if it halves the sides.

    With a stride of 1 it keeps them. Its name ends in `end`.
    """

    outputs: int
    height: int = 1
    width: int = 1
    stride: int = 1
    end: str = ""


Branch = tuple["Layer | tuple[Layer, Layer]", ...]  # one after another; a pair side by side


@dataclasses.dataclass(frozen=True)
class Mixed:
    """A block: its branches by name, and what its pool computes.

    Args:
      branches: in the order of their outputs.
      average: whether `branch_pool` averages; otherwise it takes the maximum.
      halves: whether the sides are halved; if so, the maximum of the input is an output too.
    """

    branches: dict[str, Branch]
    average: bool = True
    halves: bool = False


def _a(pool: int) -> Mixed:
    return Mixed({
        "branch1x1": (Layer(64),),
        "branch5x5": (Layer(48), Layer(64, 5, 5)),
        "branch3x3dbl": (Layer(64), Layer(96, 3, 3), Layer(96, 3, 3)),
        POOL: (Layer(pool),),
    })  # fmt: skip


def _c(width: int) -> Mixed:
    row, column = Layer(width, 1, 7), Layer(width, 7, 1)
    return Mixed({
        "branch1x1": (Layer(192),),
        "branch7x7": (Layer(width), row, Layer(192, 7, 1)),
        "branch7x7dbl": (Layer(width), column, row, column, Layer(192, 1, 7)),
        POOL: (Layer(192),),
    })  # fmt: skip


def _e(average: bool) -> Mixed:
    pair = (Layer(384, 1, 3, end="a"), Layer(384, 3, 1, end="b"))
    return Mixed({
        "branch1x1": (Layer(320),),
        "branch3x3": (Layer(384), pair),
        "branch3x3dbl": (Layer(448), Layer(384, 3, 3), pair),
        POOL: (Layer(192),),
    }, average=average)  # fmt: skip


STEM = {
    "Conv2d_1a_3x3": Layer(32, 3, 3, 2),
    "Conv2d_2a_3x3": Layer(32, 3, 3),
    "Conv2d_2b_3x3": Layer(64, 3, 3),
    "Conv2d_3b_1x1": Layer(80),
    "Conv2d_4a_3x3": Layer(192, 3, 3),
}
UNPADDED = ("Conv2d_2a_3x3", "Conv2d_4a_3x3")  # these do not keep the sides
MIXED = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": Mixed({
        "branch3x3": (Layer(384, 3, 3, 2),),
        "branch3x3dbl": (Layer(64), Layer(96, 3, 3), Layer(96, 3, 3, 2)),
    }, halves=True),
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": Mixed({
        "branch3x3": (Layer(192), Layer(320, 3, 3, 2)),
        "branch7x7x3": (Layer(192), Layer(192, 1, 7), Layer(192, 7, 1), Layer(192, 3, 3, 2)),
    }, halves=True),
    "Mixed_7b": _e(average=True),
    "Mixed_7c": _e(average=False),
}  # fmt: skip
SPATIAL_BLOCK = "Mixed_6d"  # its first channels are those of its first branch


def outputs(mixed: Mixed, inputs: int) -> int:
    """Return the channels that a block returns."""
    lasts = [layers[-1] for layers in mixed.branches.values()]
    pairs = [(last,) if isinstance(last, Layer) else last for last in lasts]
    return sum(layer.outputs for pair in pairs for layer in pair) + inputs * mixed.halves
