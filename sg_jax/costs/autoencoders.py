"""What an autoencoder costs: its convolutions and products, counted as jax traces them."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from sg_jax.encoders.autoencoder import Autoencoder


def encoding(autoencoder: Autoencoder, height: int, width: int) -> float:
    """Return the FLOPs of encoding an image, 2 per multiply-add."""
    return 2.0 * traced(autoencoder.encoder, (1, height, width, 3))


def decoding(autoencoder: Autoencoder, height: int, width: int) -> float:
    """Return the FLOPs of decoding an image of these sides, 2 per multiply-add."""
    shape = (height // autoencoder.factor, width // autoencoder.factor, autoencoder.channels)
    return 2.0 * traced(autoencoder.decoder, (1, *shape))


def traced(network: Callable[[Any], Any], shape: tuple[int, ...]) -> int:
    """Return the multiply-adds of a network's convolutions and products.

    Args:
      network: a module; shapes in place of its weights are enough.
      shape: of its input, float32.
    """
    return macs(_program(network, shape))


def widest(network: Callable[[Any], Any], shape: tuple[int, ...]) -> int:
    """Return the bytes of the largest convolution's input and output, which exist together.

    Args:
      network, shape: see `traced`.
    """
    sizes = [0]
    for equation in _equations(_program(network, shape)):
        if equation.primitive.name == "conv_general_dilated":
            x, kernel, y = (v.aval for v in (*equation.invars[:2], equation.outvars[0]))
            sizes.append((x.size + y.size) * kernel.dtype.itemsize)
    return max(sizes)


def macs(jaxpr: Any) -> int:
    """Return the multiply-adds of all convolutions and products in a program."""
    total = 0
    for equation in jaxpr.eqns:
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(macs(inner) for inner in _inside(equation))
        total += max((macs(way.jaxpr) for way in equation.params.get("branches", ())), default=0)
        if equation.primitive.name not in ("conv_general_dilated", "dot_general"):
            continue
        left, right = (v.aval for v in equation.invars[:2])
        out = equation.outvars[0].aval
        if equation.primitive.name == "conv_general_dilated":
            dims = equation.params["dimension_numbers"].rhs_spec  # (out, in, *sides)
            total += out.size * math.prod(right.shape[d] for d in dims[1:])
        else:
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += out.size * math.prod(left.shape[i] for i in contracted)
    return total


def _program(network: Callable[[Any], Any], shape: tuple[int, ...]) -> Any:
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.make_jaxpr(lambda net, x: net(x))(network, x).jaxpr


def _inside(equation: Any) -> list[Any]:
    """Return the programs within one step of a program."""
    return [value.jaxpr for value in equation.params.values() if hasattr(value, "jaxpr")]


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Yield all steps of a program, including those within others."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in _inside(equation):
            yield from _equations(inner)
