"""Images per second of SD's autoencoder, and the share of the peak that it reaches.

    python tests/benchmarks/autoencoder.py                   # by the TPU compiler's estimate
    python tests/benchmarks/autoencoder.py --topology ""     # measured on this machine's device
    python tests/benchmarks/autoencoder.py --side 512 --images 2

The estimate needs libtpu but no TPU. FLOPs are 2 for each multiply-add of the convolutions and of
attention's products; norms are not counted.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding

from sg_jax.costs import autoencoders, compiled, flops
from sg_jax.costs.chips import devices_of
from sg_jax.encoders import autoencoder, kl

CHANNELS, FACTOR, LATENTS = (128, 256, 512, 512), 8, 4


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="v5e:2x2", help="one chip of it is used")
    parser.add_argument("--images", type=int, default=8, help="at a time")
    parser.add_argument("--side", type=int, default=256, help="of an image, in pixels")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--only", choices=("encode", "decode"))
    given = parser.parse_args()
    dtype, side = jnp.dtype(given.dtype), given.side // FACTOR
    half = kl.Half(CHANNELS, (2,) * 4, LATENTS)
    other = kl.Half(CHANNELS[::-1], (3,) * 4, LATENTS)
    programs = {
        "encode": (kl.Encoder, half, autoencoder._encode, (given.side, given.side, 3)),
        "decode": (kl.Decoder, other, autoencoder._decode, (side, side, LATENTS)),
    }
    for name, (network, sizes, program, shape) in programs.items():
        if given.only not in (None, name):
            continue
        net = jax.eval_shape(lambda n=network, s=sizes: n(s, dtype, rngs=nnx.Rngs(0)))
        x = jax.ShapeDtypeStruct((given.images, *shape), jnp.float32)
        work = 2 * autoencoders.traced(net, x.shape)
        run = estimate if given.topology else measure
        found = run(program, net, x, work, given.topology)
        print(f"{name}, {given.images} images of {given.side}: {work / given.images / 1e9:.0f} "
              f"GFLOPs an image, {found}", flush=True)  # fmt: skip


def estimate(program, net, x, work, topology):
    """Return images/s, MFU and memory on one chip, by the TPU compiler's estimate."""
    _, devices = devices_of(topology)
    here = SingleDeviceSharding(devices[0])
    number = jax.ShapeDtypeStruct((), jnp.float32)
    net, x, number = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), (net, x, number)
    )
    report = compiled.measure(program.lower(net, x, number, number), topology, work)
    if "cycles" not in report:
        return f"needs {report['peak_gib']:.1f} GiB of {report['hbm_gib']:g}"
    total = sum(report["cycles"].values())
    kinds = ", ".join(f"{kind} {n / total:.1%}" for kind, n in report["cycles"].items())
    return (
        f"{x.shape[0] / report['step_seconds']:.0f} images/s "
        f"and {report['mfu']:.1%} of the peak of {topology.split(':')[0]}, estimated; "
        f"{report['peak_gib']:.2f} GiB; {kinds}; compiled in {report['compile_seconds']:.0f} s"
    )


def measure(program, net, x, work, _):
    """Return images/s on this machine's device, and MFU if its peak is known."""
    rng = np.random.default_rng(0)
    net, x = jax.tree.map(
        lambda s: jnp.asarray(0.02 * rng.standard_normal(s.shape), s.dtype), (net, x)
    )
    jax.block_until_ready(program(net, x, 1.0, 0.0))
    times = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(program(net, x, 1.0, 0.0))
        times.append(time.perf_counter() - began)
    seconds, kind = float(np.median(times)), jax.devices()[0].device_kind
    peak = flops.peak(kind)
    share = f" and {work / seconds / peak:.1%} of the peak" if peak else ""
    return f"{len(x) / seconds:.3g} images/s{share} of {kind}, measured"


if __name__ == "__main__":
    main()
