"""Share of a TPU's peak that stacked XL/2 blocks reach, by the compiler's estimate; no TPU needed.

    python tests/benchmarks/blocks.py --images 32 --tokens 128 --remat selective

Prints this for the forward pass alone and with gradients. `blocks.md` lists what was tried with it.
"""

import argparse

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import SingleDeviceSharding

from sg_jax.costs import compiled, flops
from sg_jax.costs.chips import devices_of
from sg_jax.models.dit import SIZES, Block
from sg_jax.models.stack import RoutedStack

DEPTH = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--remat", default="selective")
    parser.add_argument("--attention", default="pallas", choices=("xla", "pallas"))
    given = parser.parse_args()
    chip, devices = devices_of(given.topology)
    here = SingleDeviceSharding(devices[0])
    _, width, heads = SIZES["XL"]

    def shape(*sizes, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=here)

    def block(rngs):
        return Block(width, heads, 4.0, jnp.dtype("bfloat16"), given.attention, rngs)

    stack = jax.eval_shape(lambda: RoutedStack(block, DEPTH, (), given.remat, nnx.Rngs(0)))
    arrays = jax.tree.map(lambda x: shape(*x.shape, dtype=x.dtype), stack)
    h, c = shape(given.images, given.tokens, width), shape(given.images, width)

    def forward(stack, h, c):
        return stack(h, c, [None])

    def loss(stack, h, c):
        return jnp.square(forward(stack, h, c).astype(jnp.float32)).mean()

    macs = DEPTH * given.images * stack.stacks[0].macs(given.tokens, True)
    programs = {"forward": (forward, 2), "with gradients": (jax.grad(loss, (0, 1, 2)), 6)}
    for name, (program, factor) in programs.items():
        text = jax.jit(program).lower(arrays, h, c).compile().as_text()
        # Loops only: outside them weights are converted, and many devices would share that work.
        cycles = compiled.cycles_by_kind(text, given.topology, loops_only=True)
        total = sum(cycles.values())
        share = factor * macs / (total / chip.clock) / flops.peak(chip.kind)
        kinds = ", ".join(f"{kind} {n / total:.0%}" for kind, n in cycles.items())
        print(f"{name:15} {share:6.1%} of peak, {total / DEPTH / 1e3:7.0f} kcycles a block")
        print(f"{'':15} {kinds}", flush=True)


if __name__ == "__main__":
    main()
