"""Attention for TPU as two Pallas kernels, forward and backward, on tokens [B, N, D] in place.

A program of a kernel computes all heads of a few hundred queries of one image. The heads lie side
by side in the channels, and nothing is transposed, padded or copied in memory. The last program may
have fewer queries; only the real ones count. Logits are stored as [keys, queries], so that maxima
and sums of the softmax run over registers, not across their lanes. As in FlashAttention (arXiv
2205.14135) logits never leave the chip, and the backward pass recomputes them. But all keys of an
image fit on chip, so each softmax is computed in one go.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from sg_jax.errors import UserError
from sg_jax.models import gradients
from sg_jax.models.remat import Kept
from sg_jax.parallel import sharding

Saved = jax.Array | Kept  # [B, N, D], or a part of [L, B, N, D]

QUERIES = 256  # per program, at most: more queries make a program longer, not faster
KEYS = 1024  # at most, because they all stay on chip
MIB = 2**20
ON_CHIP = {"TPU v4": 16, "TPU v5 lite": 128, "TPU v5": 64, "TPU v6 lite": 128}  # MiB per core
TOGETHER = 4  # heads whose steps are interleaved, so that one's products fill another's waits
VMEM = 96 * MIB  # bytes that a program may use
LOG2_E = math.log2(math.e)
SAME = (((1,), (1,)), ((), ()))  # x [I, K], y [J, K] -> [I, J]
PLAIN = (((1,), (0,)), ((), ()))  # x [I, K], y [K, J] -> [I, J]


def fits(tokens: int, channels: int, backward: bool) -> bool | None:
    """Return whether a kernel fits on chip, on the devices that the program is traced `on`.

    The memory it needs grows with its blocks, C (Q + N) or C (Q + 2 N) numbers, and with the
    logits, Q N. The factors are bounds on what the compiler asked for, for 22 sizes on all chips.

    Args:
      tokens: N.
      channels: C.
      backward: which kernel.

    Returns:
      None if the devices are not TPUs of a known kind.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kind = "" if mesh.empty else mesh.abstract_device.device_kind
    if kind not in ON_CHIP:
        return None
    queries = min(tokens, QUERIES)
    needed = 8 * channels * (queries + tokens) + 32 * queries * tokens
    if backward:
        needed = 15 * channels * (queries + 2 * tokens) + 48 * queries * tokens
    return tokens <= KEYS and needed <= min(ON_CHIP[kind] * MIB, VMEM)


def takes(implementation: str, x: jax.Array) -> bool:
    """Return whether the kernels compute the attention of tokens x [B, N, D].

    "auto" uses them on TPU in bfloat16, if the forward kernel fits on chip and the devices of
    the mesh that the program is traced `on` do not share the heads. Without gradients it leaves up
    to 256 tokens to XLA, which is as fast there.

    Raises:
      UserError: the implementation is "pallas", but the kernels cannot be used.
    """
    shared = sharding.shares_heads()
    if implementation == "pallas":
        if shared or x.shape[1] > KEYS:
            mesh = jax.sharding.get_abstract_mesh()
            raise UserError(
                f"config.model.attention='pallas' needs config.mesh.tensor=1 and at most {KEYS} "
                f"tokens, not {x.shape[1]} on {dict(mesh.shape)}; 'auto' and 'xla' accept any."
            )
        return True
    wanted = implementation == "auto" and x.dtype == jnp.bfloat16 and not shared
    return wanted and bool(fits(x.shape[1], x.shape[2], backward=False))


def programs(tokens: int) -> int:
    """Return how many programs of a kernel share an image."""
    return -(-tokens // QUERIES)


def forward(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
    """Return softmax(q k^T / sqrt(D/H)) v of all heads [B, N, D]; the softmax in float32.

    Args:
      q, k, v: [B, N, D], the heads side by side.
      heads: H.
    """
    return _call(_forward, [q], [k, v], ["query"], heads, products=2)[0]


def backward(
    q: Saved, k: Saved, v: Saved, do: jax.Array, heads: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return the gradients of q, k and v, `forward`'s result, and the gradient of q's bias.

    The first four are [B, N, D]. The last [D] is the sum of the first over images and tokens,
    float32.

    Args:
      q, k, v, heads: as given to `forward`, or the places where they are kept.
      do: the gradient of its result.
    """
    kinds = ["query", "query", "key", "key", "sum"]
    dq, o, dk, dv, totals = _call(_backward, [q, do], [k, v], kinds, heads, products=6)
    return dq, dk, dv, o, totals.sum((0, 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def attend_and_project(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array,
    kernel: jax.Array,
    places: tuple,
    heads: int,
    attend: Callable[..., jax.Array],
    product: Callable[..., jax.Array],
) -> jax.Array:
    """Return product(attend(q, k, v, heads), kernel) [B, N, D].

    Its gradients come from a kernel that also sums the gradient of the query's bias [D]. The kernel
    reads q, k and v at their `places` if they are `saved`. If it does not fit on the chip, the
    gradients come from `attend`. Without gradients, `attend` computes the value for up to `QUERIES`
    tokens.
    """
    return product((forward if q.shape[1] > QUERIES else attend)(q, k, v, heads), kernel)


def _with_residuals(q, k, v, bias, kernel, places, heads, attend, product):
    y = product(forward(q, k, v, heads), kernel)
    return y, (places if None not in places else (q, k, v), kernel)


def _gradients(heads, attend, product, residuals, dy):
    (q, k, v), kernel = residuals
    do = dy @ kernel.astype(dy.dtype).T
    if fits(do.shape[1], do.shape[2], backward=True) is False:
        q, k, v = (x.value if isinstance(x, Kept) else x for x in (q, k, v))
        o, pull = jax.vjp(functools.partial(attend, heads=heads), q, k, v)
        dq, dk, dv = pull(do)
        d_bias = dq.astype(jnp.float32).sum((0, 1))
    else:
        dq, dk, dv, o, d_bias = backward(q, k, v, do, heads)
    return dq, dk, dv, d_bias, gradients.kernel_gradient(o, dy, kernel.dtype), None


attend_and_project.defvjp(_with_residuals, _gradients)


def _call(
    kernel, of_queries: Sequence[Saved], of_keys: Sequence[Saved], kinds, heads: int, products: int
) -> list[jax.Array]:
    """Run a kernel for each image and each part of its queries.

    Args:
      kernel: (programs per image, heads, places, *arrays, *results, *sums over programs).
      of_queries: arrays of which each program reads only the part of its queries.
      of_keys: arrays that each program reads whole.
      kinds: what the results are: of a "query", of a "key" (added up over an image's programs), or
        a "sum" over a program's queries.
      heads: H.
      products: matrix products per head, for the estimated cost.
    """
    arrays = [
        x if isinstance(x, Kept) else Kept(x[None], jnp.int32(0)) for x in (*of_queries, *of_keys)
    ]
    _, b, n, d = arrays[0].stack.shape
    dtype = arrays[0].stack.dtype
    size = min(n, QUERIES)
    steps = programs(n)
    places = jnp.stack([jnp.asarray(x.place, jnp.int32) for x in arrays])

    def read(number):
        if number < len(of_queries):
            return pl.BlockSpec((None, None, size, d), lambda i, j, at: (at[number], i, j, 0))
        return pl.BlockSpec((None, None, n, d), lambda i, j, at: (at[number], i, 0, 0))

    specs = dict(
        query=pl.BlockSpec((None, size, d), lambda i, j, at: (i, j, 0)),
        key=pl.BlockSpec((None, n, d), lambda i, j, at: (i, 0, 0)),
        sum=pl.BlockSpec((None, None, 1, d), lambda i, j, at: (i, j, 0, 0)),
    )
    whole = jax.ShapeDtypeStruct((b, n, d), dtype)
    sums = jax.ShapeDtypeStruct((b, steps, 1, d), jnp.float32)
    shapes = [sums if kind == "sum" else whole for kind in kinds]
    scratch = [pltpu.VMEM((n, d), jnp.float32) for kind in kinds if kind == "key" and steps > 1]

    def call(places, *stacks, interpret):
        return pl.pallas_call(
            functools.partial(kernel, steps, heads),
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=1,
                grid=(b, steps),
                in_specs=[read(number) for number in range(len(stacks))],
                out_specs=[specs[kind] for kind in kinds],
                scratch_shapes=scratch,
            ),
            out_shape=shapes,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM
            ),
            cost_estimate=pl.CostEstimate(
                flops=2 * products * b * n * n * d,
                transcendentals=b * heads * n * n,
                bytes_accessed=(len(stacks) + len(kinds)) * b * n * d * dtype.itemsize,
            ),
            name=f"attention{kernel.__name__}_{heads}",  # as `costs.kernels` reads it
            interpret=interpret,
        )(places, *stacks)

    found = jax.lax.platform_dependent(
        places,
        *(x.stack for x in arrays),
        tpu=functools.partial(call, interpret=False),
        default=functools.partial(call, interpret=True),
    )
    return [x[:, :, 0] if kind == "sum" else x for x, kind in zip(found, kinds, strict=True)]


def _forward(steps, heads, places, q_ref, k_ref, v_ref, o_ref):
    o, size = [], q_ref.shape[1] // heads
    for group in _groups(heads):
        q, k, v = (_take(ref, group, size) for ref in (q_ref, k_ref, v_ref))
        weights = [w.astype(o_ref.dtype).T for w in _weights(q, k)]  # [queries, keys]
        o += [_dot(*pair, PLAIN).astype(o_ref.dtype) for pair in zip(weights, v, strict=True)]
    o_ref[...] = jnp.concatenate(o, -1)


def _backward(steps, heads, places, q_ref, do_ref, k_ref, v_ref, *refs):
    dq_ref, o_ref, dk_ref, dv_ref, total_ref, *sums = refs
    dtype, size = o_ref.dtype, q_ref.shape[1] // heads
    dq, dk, dv, o, total = [], [], [], [], []
    for group in _groups(heads):
        k, v = (_take(ref, group, size) for ref in (k_ref, v_ref))
        q, do = (_real(_take(ref, group, size), len(k[0])) for ref in (q_ref, do_ref))
        weights = _weights(q, k)  # this and all arrays below: [keys, queries]
        d_weights = [_dot(*pair, SAME) for pair in zip(v, do, strict=True)]
        rounded = [w.astype(dtype) for w in weights]
        dv += [_dot(*pair, PLAIN) for pair in zip(rounded, do, strict=True)]
        o += [_dot(w.T, x, PLAIN).astype(dtype) for w, x in zip(rounded, v, strict=True)]
        d_logits = [
            ((w * (d - (w * d).sum(0, keepdims=True))) * (1 / math.sqrt(size))).astype(dtype)
            for w, d in zip(weights, d_weights, strict=True)
        ]
        dk += [_dot(*pair, PLAIN) for pair in zip(d_logits, q, strict=True)]
        wide = [_dot(d.T, x, PLAIN) for d, x in zip(d_logits, k, strict=True)]
        dq += [x.astype(dtype) for x in wide]
        total += [x.sum(0, keepdims=True) for x in wide]
    for ref, parts in ((dq_ref, dq), (o_ref, o), (total_ref, total)):
        ref[...] = jnp.concatenate(parts, -1)
    if steps == 1:
        for ref, parts in ((dk_ref, dk), (dv_ref, dv)):
            ref[...] = jnp.concatenate([x.astype(dtype) for x in parts], -1)
        return
    step = pl.program_id(1)
    for ref, sum_ref, parts in zip((dk_ref, dv_ref), sums, (dk, dv), strict=True):
        more = jnp.concatenate(parts, -1)
        sum_ref[...] = jnp.where(step == 0, more, sum_ref[...] + more)

        @pl.when(step == steps - 1)
        def _(ref=ref, sum_ref=sum_ref):
            ref[...] = sum_ref[...].astype(dtype)


def _groups(heads):
    for first in range(0, heads, TOGETHER):
        yield range(first, min(first + TOGETHER, heads))


def _take(ref, group, size):
    """Return the channels [N, D/H] of each head of a group."""
    return [ref[:, head * size : (head + 1) * size] for head in group]


def _real(parts, tokens):
    """Return parts of queries [Q, C] with zeros beyond the last of an image's tokens."""
    size = len(parts[0])
    if tokens % size == 0:
        return parts
    row = pl.program_id(1) * size + jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0)
    return [jnp.where(row < tokens, x, 0) for x in parts]


def _weights(q, k):
    """Return the softmax [keys, queries], float32, of each head of a group."""
    scale = LOG2_E / math.sqrt(q[0].shape[1])
    logits = [_dot(y, x, SAME) * scale for x, y in zip(q, k, strict=True)]
    powers = [jnp.exp2(x - x.max(0, keepdims=True)) for x in logits]
    return [x * (1 / x.sum(0, keepdims=True)) for x in powers]


def _dot(x, y, dims):
    return jax.lax.dot_general(x, y, dims, preferred_element_type=jnp.float32)
