"""Gradients written by hand, and code tuned for one kind of device.

Nothing here changes what a layer computes, only how fast its gradient is. The layers are in
`layers`; you can read the method without this file.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sg_jax.parallel import sharding


def written_out(
    keep: Callable[..., Any], backward: Callable[[Any, jax.Array], tuple]
) -> Callable[[Callable], Callable]:
    """Give a function a gradient of its own.

    Args:
      keep: (*arguments) -> what the backward pass needs of them.
      backward: (what was kept, gradient of the result) -> a gradient for each argument.
    """

    def give(function: Callable) -> Callable:
        found = jax.custom_vjp(function)
        found.defvjp(lambda *a: (found(*a), keep(*a)), backward)
        return found

    return give


def kernel_gradient(x: jax.Array, dy: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Return the gradient [din, dout], in `dtype`, of the kernel in y = x @ kernel, given dy."""
    axes = tuple(range(x.ndim - 1))

    def gradient(x, dy):
        return jax.lax.dot_general(x, dy, ((axes, axes), ((), ())), preferred_element_type=dtype)

    if sharding.platform() == "cpu" and x.shape[-1] > dy.shape[-1]:
        # A CPU transposes the first factor in memory: 4% of a step if it is the larger one. Without
        # the barrier, XLA fuses the transpose into a slower product.
        return jax.lax.optimization_barrier(gradient(dy, x)).T
    return gradient(x, dy)


def input_gradient(dy: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the gradient [..., din], in dy's type, of x in y = x @ kernel, given dy."""
    kernel = kernel.astype(dy.dtype)
    rows = dy.reshape(-1, dy.shape[-1])
    if sharding.platform() == "cpu" and 8 * len(rows) <= len(kernel):
        # With few rows, as in adaLN, transpose the rows in memory and not the kernel, behind a
        # barrier as above. For 8 rows and a kernel [768, 4608] this takes a fifth of the time.
        found = jax.lax.dot_general(kernel, rows, (((1,), (1,)), ((), ())))
        return jax.lax.optimization_barrier(found).T.reshape(*dy.shape[:-1], -1)
    return dy @ kernel.T


def product_backward(residuals: tuple, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the gradients of x and of the kernel of `layers.product`."""
    x, kernel = residuals
    return input_gradient(dy, kernel), kernel_gradient(x, dy, kernel.dtype)


def norm_backward(residuals: tuple, dy: jax.Array) -> tuple:
    """Return the gradients of `layers.adaptive_norm`; the moments' gradient is part of x's."""
    x, (mean, rate), scale = residuals
    wide = dy.astype(jnp.float32)
    unit = (x.astype(jnp.float32) - mean) * rate  # [B, N, D], the normalised tokens
    d_scale = (wide * unit).sum(1)  # [B, D]
    # A sum of products: XLA would take a plain sum out of the fusion with the matrix product that
    # makes dy, and read the tokens once more. That costs 3 points of peak on TPU v5e.
    d_shift = (wide * (unit + 1)).sum(1) - d_scale
    d = wide * (1 + scale[:, None])
    dx = rate * (d - d.mean(-1, keepdims=True) - unit * (d * unit).mean(-1, keepdims=True))
    return dx.astype(x.dtype), (jnp.zeros_like(mean), jnp.zeros_like(rate)), d_shift, d_scale


def scaled_backward(residuals: tuple, dy: jax.Array) -> tuple:
    """Return the gradients of `norms.scaled`; the rate's gradient is part of x's."""
    x, rate, scale = residuals
    wide = dy.astype(jnp.float32)
    unit = x.astype(jnp.float32) * rate  # [B, N, D], the normalised tokens
    d_scale = (wide * unit).sum(1)  # [B, D]
    d_shift = (wide * (unit + 1)).sum(1) - d_scale  # a sum of products, as in `norm_backward`
    d = wide * scale[:, None]
    dx = rate * (d - unit * (d * unit).mean(-1, keepdims=True))
    return dx.astype(x.dtype), jnp.zeros_like(rate), d_shift, d_scale


def scaled_sum_backward(residuals: tuple, dx: jax.Array) -> tuple[jax.Array, ...]:
    """Return the gradients of `layers.add_scaled`."""
    gate, y = residuals
    wide = dx.astype(jnp.float32)
    d_gate = (wide * y.astype(jnp.float32)).sum(1)  # [B, D]
    return dx, d_gate, (gate[:, None] * wide).astype(y.dtype)


def gated_backward(residuals: tuple, dx: jax.Array) -> tuple[jax.Array, ...]:
    """Return the gradients of `layers.add_gated`."""
    gate, y, bias = residuals
    wide = dx.astype(jnp.float32)
    total = wide.sum(1)  # [B, D], from which the bias's gradient follows without another pass
    d_gate = (wide * y.astype(jnp.float32)).sum(1) + bias[None] * total
    return dx, d_gate, (gate[:, None] * wide).astype(y.dtype), (gate * total).sum(0)


@jax.custom_vjp
def gradient_of_value(bias: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return zeros [D] that pass the gradient of bias @ kernel on to the bias [D] alone.

    The bias of the values passes attention unchanged, because the weights of a query sum to 1. So
    its gradient follows from that of the last layer's bias, without a sum over tokens.
    """
    return jnp.zeros_like(kernel[0])


gradient_of_value.defvjp(
    lambda bias, kernel: (jnp.zeros_like(kernel[0]), kernel),
    lambda kernel, d: ((kernel * d[None]).sum(1), jnp.zeros_like(kernel)),
)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Return the tanh approximation of GELU, in x's type, kept out of the products around it."""
    # Without a barrier the TPU compiler fuses both products of an MLP into one, and sampling drops
    # from 79% to 73% of v5e's peak (XL/2, 32 images of 128 tokens, compiler's estimate).
    return jax.lax.optimization_barrier(_gelu(x))


def _gelu(x):
    return jax.nn.gelu(x, approximate=True)


gelu.defvjp(lambda x: (_gelu(x), x), lambda x, dy: jax.vjp(_gelu, x)[1](dy))


@jax.custom_vjp
def swiglu(gate: jax.Array, x: jax.Array) -> jax.Array:
    """Return silu(gate) x, in x's type, kept out of the products around it as in `gelu`."""
    return jax.lax.optimization_barrier(_swiglu(gate, x))


def _swiglu(gate, x):
    return (jax.nn.silu(gate.astype(jnp.float32)) * x.astype(jnp.float32)).astype(x.dtype)


swiglu.defvjp(
    lambda gate, x: (_swiglu(gate, x), (gate, x)), lambda kept, dy: jax.vjp(_swiglu, *kept)[1](dy)
)
