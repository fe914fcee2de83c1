"""Inside a route, two predictions keep different numbers of tokens: two calls, or one sequence?

One routed block on K_strong and K_weak tokens, as two calls of the block and as one packed
sequence, whose linear layers see all tokens at once and whose attention stays within a prediction.

    python tests/benchmarks/packed.py                     # times on this machine's device
    python tests/benchmarks/packed.py --topology v5e:2x2  # the TPU compiler's estimate, by libtpu

Ratios at (0.5, 0.9) of 256 tokens, packed over two calls (below 1: packed is faster):

                        batch 1   batch 8   batch 64
    TPU v5e, S/2, bf16     1.03      1.10       1.77     (compiler's estimate)
    TPU v5e, XL/2, bf16    1.00      1.18       1.54     (compiler's estimate)
    2 CPU cores, S/2       0.50      1.06                (a busy machine: batch 1 is noise)
    2 CPU cores, XL/2      0.94      1.02

So the program makes two calls: packing saves nothing where the matrix products are large enough,
and it adds the slices and joins around attention. No GPU has been measured.
"""

import argparse
import os
import re
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--topology", default="", help="estimate for this TPU instead of measuring")
parser.add_argument("--sizes", default="S/2,XL/2")
parser.add_argument("--batches", default="1,8,64")
parser.add_argument("--rounds", type=int, default=20)
options = parser.parse_args()
if options.topology:
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    }

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402

from sg_jax.method.tokens import keep_count  # noqa: E402
from sg_jax.models import layers  # noqa: E402
from sg_jax.models.attention import attend  # noqa: E402
from sg_jax.models.dit import Block  # noqa: E402
from sg_jax.models.sizes import geometry  # noqa: E402

KEEPS = [keep_count(256, gamma) for gamma in (0.5, 0.9)]


def two_calls(block, parts, c):
    """Run the block once per prediction: tokens [B, K, D] each."""
    return [block(h, layers.moments(h), c)[0] for h in parts]


def packed(block, parts, c):
    """Run the block once on [B, K_strong + K_weak, D]."""
    cut = [parts[0].shape[1]]
    h = jnp.concatenate(parts, axis=1)
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = layers.modulation(block.modulation, c, 6)
    x = layers.adaptive_norm(h, layers.moments(h), shift_a, scale_a)
    heads = (jnp.split(y, cut, axis=1) for y in block.attention.parts(x))
    out = [attend(*one, block.attention.heads) for one in zip(*heads, strict=True)]
    x = layers.product(jnp.concatenate(out, axis=1), block.attention.out.kernel[...])
    h = layers.gated(h, gate_a, x, block.attention.bias)
    x = block.mlp(layers.adaptive_norm(h, layers.moments(h), shift_m, scale_m))
    return jnp.split(layers.gated(h, gate_m, x, block.mlp.bias), cut, axis=1)


def shapes(size, batch, dtype):
    """Return shapes of a block, of both sets of tokens and of the conditioning."""
    geo = geometry(size)
    d = geo["width"]
    block = jax.eval_shape(lambda: Block(d, geo["heads"], 4.0, dtype, "xla", nnx.Rngs(0)))
    parts = [jax.ShapeDtypeStruct((batch, keep, d), dtype) for keep in KEEPS]
    return block, parts, jax.ShapeDtypeStruct((batch, d), dtype)


def estimate(topology, size, batch):
    """Return the compiler's estimated cycles for both ways on one chip."""
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    chip = topologies.get_topology_desc(topology, "tpu").devices[0]
    where = SingleDeviceSharding(chip)
    arguments = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
        shapes(size, batch, jnp.dtype("bfloat16")),
    )
    texts = [jax.jit(f).lower(*arguments).compile().as_text() for f in (two_calls, packed)]
    return [sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text))) for text in texts]


def measure(size, batch):
    """Return the median seconds for both ways, and check that they agree."""
    rng = np.random.default_rng(0)
    arguments = jax.tree.map(
        lambda s: jnp.asarray(0.1 * rng.standard_normal(s.shape), s.dtype),
        shapes(size, batch, jnp.dtype("float32")),
    )
    ways = [jax.jit(f) for f in (two_calls, packed)]
    first, second = (way(*arguments) for way in ways)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    seconds = [[], []]
    for _ in range(options.rounds):
        for way, times in zip(ways, seconds, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(way(*arguments))
            times.append(time.perf_counter() - began)
    return [float(np.median(times)) for times in seconds]


if __name__ == "__main__":
    unit = "cycles" if options.topology else "seconds"
    for size in options.sizes.split(","):
        for batch in map(int, options.batches.split(",")):
            if options.topology:
                two, one = estimate(options.topology, size, batch)
            else:
                two, one = measure(size, batch)
            print(f"{size} batch {batch}: two calls {two:.4g} {unit}, packed {one:.4g}, "
                  f"ratio {one / two:.3f}", flush=True)  # fmt: skip
