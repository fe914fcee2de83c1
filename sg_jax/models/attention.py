"""Multi-head self-attention."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.errors import UserError, nearest
from sg_jax.models import attention_tpu, layers
from sg_jax.models.remat import saved

QKV = nnx.initializers.variance_scaling(0.5, "fan_avg", "uniform")  # Xavier of the fused [D, 3D]


IMPLEMENTATIONS = ("auto", "xla", "pallas")


class Attention(nnx.Module):
    """Multi-head self-attention over however many tokens it is given, but for its last bias.

    Query, key and value are three products [B, N, D] and heads a reshape of each: on TPU v5e that
    is 72% of peak, forward, for blocks of XL/2; products straight into heads [B, H, N, D/H] are
    66%, and one fused product 56% (compiler's estimate, 32 images of 128 tokens).

    Two biases have gradients without a sum over the tokens. The key's is 0: it adds the same to all
    logits of a query, which the softmax takes out again. The value's goes through the attention
    unchanged, because the weights of a query sum to 1, so its gradient follows from that of `bias`.

    Args:
      dim: D.
      heads: H.
      dtype: compute type.
      implementation: what computes it. "pallas" is `attention_kernel`, "xla" leaves it to XLA, and
        "auto" takes the kernel on TPU, in bfloat16, for the numbers of tokens that it supports and
        the chip has room for, in a program traced `on` a mesh whose devices do not share the heads.
        Without gradients XLA is as fast up to 256 tokens, and has them.
      rngs: initial weights.
    """

    def __init__(self, dim: int, heads: int, dtype: jnp.dtype, implementation: str, rngs: nnx.Rngs):
        if implementation not in IMPLEMENTATIONS:
            raise UserError(
                f"config.model.attention={implementation!r} must be one of {IMPLEMENTATIONS}."
                + nearest(implementation, IMPLEMENTATIONS)
            )
        self.query = layers.Linear(dim, dim, dtype, rngs, QKV)
        self.key = layers.Linear(dim, dim, dtype, rngs, QKV)
        self.value = layers.Linear(dim, dim, dtype, rngs, QKV)
        self.out = layers.Linear(dim, dim, dtype, rngs)
        self.heads, self.implementation = heads, implementation

    @property
    def bias(self) -> jax.Array:
        """The bias [D] of the last layer, which `gated` adds."""
        return self.out.bias[...] + _gradient_of_value(self.value.bias[...], self.out.kernel[...])

    def parts(self, x: jax.Array, query_bias_gradient: bool = True) -> list[jax.Array]:
        """Return query, key and value of tokens x, each [B, N, D], the heads side by side."""
        q = self.query(x, bias_gradient=query_bias_gradient)
        return [q, *(f(x, bias_gradient=False) for f in (self.key, self.value))]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the last layer's product, of what the heads found in tokens x: [B, N, D]."""
        kernel, fused = self.out.kernel[...], self._takes_kernel(x)
        (q, k, v), places = zip(*map(saved, self.parts(x, not fused)), strict=True)
        if not fused:
            return layers.product(attend(q, k, v, self.heads), kernel)
        return _fused(q, k, v, self.query.bias[...], kernel, places, self.heads)

    def _takes_kernel(self, x: jax.Array) -> bool:
        supported = attention_tpu.supports(x.shape[1])
        mesh = jax.sharding.get_abstract_mesh()
        shared = not mesh.empty and mesh.shape["tensor"] > 1
        if self.implementation == "pallas":
            if shared or not supported:
                raise UserError(
                    f"config.model.attention='pallas' needs config.mesh.tensor=1 and "
                    f"{attention_tpu.SUPPORTED}, not {x.shape[1]} tokens on {dict(mesh.shape)}; "
                    f"'auto' or 'xla' take all."
                )
            return True
        kind = "" if mesh.empty else mesh.abstract_device.device_kind
        fitting = x.shape[1] <= attention_tpu.FITTING.get(kind, 0)
        wanted = self.implementation == "auto" and x.dtype == jnp.bfloat16
        return wanted and fitting and supported and not shared


@jax.custom_vjp
def _gradient_of_value(bias: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return zeros [D]; their gradient is that of bias @ kernel, to the bias [D] alone."""
    return jnp.zeros_like(kernel[0])


_gradient_of_value.defvjp(
    lambda bias, kernel: (jnp.zeros_like(kernel[0]), kernel),
    lambda kernel, d: ((kernel * d[None]).sum(1), jnp.zeros_like(kernel)),
)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
    """Return softmax(q k^T / sqrt(D/H)) v of all heads [B, N, D]; the softmax in float32.

    Args:
      q, k, v: [B, N, D], the heads side by side.
      heads: H.
    """
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v))  # [B, N, H, D/H]
    logits = jnp.einsum("bnhk,bmhk->bhnm", q, k, preferred_element_type=jnp.float32)
    # Scaled here, where it is part of the softmax's first pass; q would take one of its own.
    weights = jax.nn.softmax(logits / math.sqrt(q.shape[-1]), axis=-1).astype(v.dtype)
    return jnp.einsum("bhnm,bmhk->bnhk", weights, v).reshape(*q.shape[:2], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _fused(q, k, v, bias, kernel, places, heads):
    """Return attend(q, k, v) @ kernel [B, N, D].

    Its gradients are those of a kernel that sums that of the query's bias [D] beside the others. It
    reads q, k and v at their `places`, if they are `saved`.
    """
    large = q.shape[1] > attention_tpu.QUERIES
    return layers.product((attention_tpu.forward if large else attend)(q, k, v, heads), kernel)


def _fused_forward(q, k, v, bias, kernel, places, heads):
    y = layers.product(attention_tpu.forward(q, k, v, heads), kernel)
    return y, (places if None not in places else (q, k, v), kernel)


def _fused_backward(heads, residuals, dy):
    qkv, kernel = residuals
    do = dy @ kernel.astype(dy.dtype).T
    dq, dk, dv, o, d_bias = attention_tpu.backward(*qkv, do, heads)
    return dq, dk, dv, d_bias, layers.kernel_gradient(o, dy, kernel.dtype), None


_fused.defvjp(_fused_forward, _fused_backward)
