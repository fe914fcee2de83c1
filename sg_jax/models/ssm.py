"""SSM: a state-space backbone, with routes that work as they do in a transformer.

A block scans the tokens with a selective state space (Mamba, Gu & Dao, arXiv 2312.00752) in both
directions (Vision Mamba, arXiv 2401.09417), conditioned by adaLN-Zero like other diffusion models
of this kind (DiM, arXiv 2405.14224; ZigMa, arXiv 2403.13802). Kept tokens are in raster order, so a
route scans them in that order, as if the bypassed ones did not exist (TREAD, arXiv 2501.04765).

Mamba's short convolution is left out: its weights belong to offsets, but the offset to the next
kept token changes with every draw and every gamma. Only the position table says where a token lies.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from sg_jax.errors import one_of
from sg_jax.models import layers, sizes
from sg_jax.models.backbone import Backbone
from sg_jax.models.remat import save

SCANS = ("sequential", "associative")
CHUNK = 16  # tokens; memory is least at sqrt(N)
STEP = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # within +- 1 / sqrt(R)


def step_bias(key: jax.Array, size: int) -> jax.Array:
    """Draw biases [size] whose softplus, the step size, is log-uniform in [0.001, 0.1]."""
    step = jnp.exp(jax.random.uniform(key, (size,), minval=math.log(1e-3), maxval=math.log(0.1)))
    return step + jnp.log(-jnp.expm1(-step))


def selective_scan(
    u: jax.Array,
    step: jax.Array,
    a: jax.Array,
    b: jax.Array,
    c: jax.Array,
    chunk: int = CHUNK,
    scan: str = "sequential",
) -> jax.Array:
    """Run a diagonal state space over tokens, with a step and matrices that depend on them.

    s_n = exp(step_n A) s_{n-1} + step_n B_n u_n,   y_n = C_n s_n       (arXiv 2312.00752, Eq. 2)

    A is discretised as in its Eq. 4, B by Euler's rule as in its published code.

    Each of the E channels of u has S states. The backward pass needs the states of all tokens,
    [N, B, S, E]; with N = 256, E = 2304 and S = 16 this is 38 MB per image. So it keeps one state
    per chunk and recomputes one chunk at a time. That takes (N / chunk + chunk) B S E floats, which
    is least at chunk = sqrt(N). With chunk = S, the kept states are no larger than u. E is last
    because TPU tiles are 128 wide there.

    Within a chunk "associative" is `jax.lax.associative_scan`: log(chunk) steps, for devices that
    would be idle in a short loop. "sequential" goes token by token. It is faster if batch, states
    and channels already fill the machine; there the tree of partial products costs more, 3.6 times
    as much per block on TPU v5e (compiler's estimate, chunk 16, with gradient) and 6 to 7 times as
    much on CPU.

    Args:
      u: input [B, N, E], float32 like all others.
      step: step sizes [B, N, E], positive.
      a: diagonal of A [S, E], negative.
      b, c: [B, N, S].
      chunk: the most tokens in a chunk; all chunks get the same length.
      scan: "sequential" or "associative".

    Returns:
      y [B, N, E].
    """
    batch, n, inner = u.shape
    count = -(-n // chunk)
    length = -(-n // count)

    def chunks(x):  # a token with step 0, such as padding, does not change the state
        x = jnp.pad(x, ((0, 0), (0, count * length - n), (0, 0)))
        return x.reshape(batch, count, length, -1).transpose(1, 2, 0, 3)  # [N/T, T, B, E or S]

    def terms(u, step, b):  # decay and inflow of the state, each [..., B, S, E]
        return jnp.exp(step[..., None, :] * a[(None,) * (step.ndim - 1)]), (step * u)[
            ..., None, :
        ] * b[..., None]

    def token(state, x):
        *x, c = x
        decay, inflow = terms(*x)
        state = decay * state + inflow
        return state, (state * c[..., None]).sum(-2)  # [B, S, E], [B, E]

    def tree(state, x):
        *x, c = x
        decays, inflows = jax.lax.associative_scan(_compose, terms(*x))  # [T, B, S, E]
        states = decays * state[None] + inflows
        return states[-1], (states * c[..., None]).sum(-2)

    run = tree if scan == "associative" else lambda state, x: jax.lax.scan(token, state, x)
    run = jax.checkpoint(run, prevent_cse=False)
    state = jnp.zeros((batch, *a.shape), u.dtype)
    _, y = jax.lax.scan(run, state, tuple(chunks(x) for x in (u, step, b, c)))  # [N/T, T, B, E]
    return y.transpose(2, 0, 1, 3).reshape(batch, -1, inner)[:, :n]


def _compose(first, then):
    """Compose two stretches of the recurrence s -> decay s + inflow."""
    return first[0] * then[0], then[0] * first[1] + then[1]


class Selective(nnx.Module):
    """A selective scan in one direction: step, B and C come from the tokens themselves.

    The recurrence is always float32, because its decays are close to 1.
    """

    def __init__(
        self, inner: int, rank: int, state: int, scan: str, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.project = layers.Linear(inner, rank + 2 * state, dtype, rngs, bias=False)
        self.step = layers.Linear(rank, inner, dtype, rngs, STEP, bias=False)
        self.step_bias = nnx.Param(step_bias(rngs.params(), inner))
        rates = jnp.arange(1.0, state + 1)  # A = -1 .. -S in every channel: S4D-real
        self.log_a = nnx.Param(jnp.tile(jnp.log(rates)[:, None], (1, inner)))
        self.skip = nnx.Param(jnp.ones((inner,)))
        self.cuts, self.scan = (rank, rank + state), scan

    def __call__(self, u: jax.Array) -> jax.Array:
        """Return [B, N, E] from u [B, N, E]; each token sees itself and those before it."""
        low, b, c = jnp.split(self.project(u), self.cuts, axis=-1)  # [B, N, R], two [B, N, S]
        bias, skip = self.step_bias[...][None, None], self.skip[...][None, None]
        step = jax.nn.softplus(self.step(low).astype(jnp.float32) + bias)  # [B, N, E]
        exact, b, c = (x.astype(jnp.float32) for x in (u, b, c))
        y = selective_scan(exact, step, -jnp.exp(self.log_a[...]), b, c, scan=self.scan)
        return (y + skip * exact).astype(u.dtype)


class Block(nnx.Module):
    """Scans in both directions between two projections, gated by the token and conditioned."""

    def __init__(
        self, width: int, state: int, expand: int, scan: str, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        inner, rank = expand * width, -(-width // 16)
        self.width, self.inner, self.rank, self.state = width, inner, rank, state
        self.inward = layers.Linear(width, 2 * inner, dtype, rngs)
        self.forward = Selective(inner, rank, state, scan, dtype, rngs)
        self.backward = Selective(inner, rank, state, scan, dtype, rngs)
        self.outward = layers.Linear(inner, width, dtype, rngs, closes=True)
        self.modulation = layers.Linear(width, 3 * width, dtype, rngs, layers.ZEROS)

    def __call__(
        self, h: jax.Array, found: layers.Moments, c: jax.Array
    ) -> tuple[jax.Array, layers.Moments]:
        """Return tokens [B, N, D] and their moments, given h, its moments and c [B, D]."""
        shift, scale, gate = layers.modulation(self.modulation, c, 3)  # each [B, D]
        x = layers.adaptive_norm(h, found, shift, scale)
        u, z = jnp.split(jax.nn.silu(save(self.inward(x))), 2, axis=-1)  # each [B, N, E]
        y = save(self.forward(u) + self.backward(u[:, ::-1])[:, ::-1])
        out = self.outward
        h = layers.gated(h, gate, layers.product(y * z, out.kernel[...]), out.bias[...])
        return h, layers.moments(h)

    def macs(self, tokens: int, mixing: bool) -> float:
        """Return the multiply-adds of this block on `tokens` tokens of one image.

        (3 D + 2 (2 R + 2 S)) E K + 3 D^2, and 2 * 3 S E K for the two scans (inflow, recurrence
        and readout, as if run token by token); the exponentials are not counted.

        Args:
          tokens: K.
          mixing: whether the work between tokens counts, here the scans.
        """
        linear = 3 * self.width + 4 * (self.rank + self.state)
        scans = 6 * self.state if mixing else 0
        return (linear + scans) * self.inner * tokens + 3 * self.width**2


class SSM(Backbone):
    """A backbone of state-space blocks.

    A block has about half the parameters of a transformer block of its width.

    Args:
      width: D.
      state: S, states per channel.
      expand: channels of the scan over `width`, E / D.
      scan: "sequential" or "associative"; see `selective_scan`.
      dtype: compute type.
      rngs: initial weights.
      backbone: image_size, channels, num_classes, patch, depth, and so on; see `Backbone`.
    """

    unread = ("norm",)

    def __init__(
        self,
        *,
        width: int,
        state: int = 16,
        expand: int = 2,
        scan: str = "sequential",
        dtype: str = "float32",
        rngs: nnx.Rngs,
        **backbone,
    ):
        width, state, expand = sizes.checked(width=width, state=state, expand=expand)
        one_of("config.model.scan", scan, SCANS)
        self.state, self.expand, self.scan = state, expand, scan

        def block(rngs: nnx.Rngs) -> Block:
            return Block(width, state, expand, scan, jnp.dtype(dtype), rngs)

        super().__init__(width=width, block=block, dtype=dtype, rngs=rngs, **backbone)
