"""Seconds of each distance between 10,000 real and 50,000 generated samples of 2,048 features.

    python tests/benchmarks/distances.py              # on this machine; takes minutes
    python tests/benchmarks/distances.py --small      # 1,000 and 2,000 samples of 256 features
    python tests/benchmarks/distances.py --search     # what a search computes for each setting
    python tests/benchmarks/distances.py --estimate   # all pairs by the TPU compiler, on one chip

The features are random, with variances that fall as 1 / i. A search compares many sets, here of
1,000 samples of 128 features, with the same real samples; a reference keeps what the real samples
alone contribute. The estimate needs libtpu but no TPU. It covers the work of the devices, not of
the host, and leaves out the choice of the smallest distances (`top_k`), for which the compiler
gives no cycles: eight passes over a block would take 3 ms.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from sg_jax.costs import compiled
from sg_jax.costs.chips import devices_of
from sg_jax.evaluation import distances, kernel, neighbours, pairs

REAL, FAKE, WIDTH, CLASSES = 10_000, 50_000, 2048, 1008
SMALL = 1_000, 2_000, 256
SEARCH, ROUNDS = (REAL, 1_000, 128), 5


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--estimate", action="store_true")
    parser.add_argument("--topology", default="v5e:2x2", help="one chip of it is used")
    parser.add_argument("--only", help="one of the distances")
    given = parser.parse_args()
    if given.estimate:
        estimate(given.topology)
    elif given.search:
        search(*(SMALL if given.small else SEARCH))
    else:
        measure(*(SMALL if given.small else (REAL, FAKE, WIDTH)), given.only)


def measure(real, fake, width, only):
    """Print the seconds of each distance on this machine."""
    if real == SMALL[0]:  # then all programs run
        kernel.DEVICE_PAIRS = neighbours.DEVICE_PAIRS = 0
    x, y = (drawn(count, width, seed) for seed, count in enumerate((real, fake)))
    logits = np.random.default_rng(2).standard_normal((fake, CLASSES), np.float32)
    found = {}

    def both_statistics():
        found.update({name: distances.Statistics.of(z) for name, z in (("x", x), ("y", y))})

    steps = {
        "statistics": both_statistics,
        "frechet": lambda: distances.frechet(found["x"], found["y"]),
        "inception_score": lambda: distances.inception_score(logits),
        "mind": lambda: distances.mind(x, y),
        "kid": lambda: distances.kid(x, y),
        "precision_recall": lambda: distances.precision_recall(x, y),
    }
    print(f"{real:,} real and {fake:,} generated samples of {width:,} features, on "
          f"{len(jax.local_devices())} x {jax.devices()[0].device_kind}:")  # fmt: skip
    for name, step in steps.items():
        if only in (None, name) or (only == "frechet" and name == "statistics"):
            began, worked = time.perf_counter(), time.process_time()
            value = step()
            seconds, worked = time.perf_counter() - began, time.process_time() - worked
            shown = "" if value is None else f" = {value}"
            print(f"{name:17} {seconds:8.2f} s, {worked:8.2f} s of all cores{shown}", flush=True)


def search(real, fake, width):
    """Print the seconds of each distance for one of many sets, from arrays and from a reference."""
    x, *sets = (drawn(count, width, i) for i, count in enumerate([real] + [fake] * (1 + ROUNDS)))
    kernels, slices = distances.KernelReference(x), distances.SlicedReference(x)
    manifold = distances.Manifold(x)
    steps = {
        "kid": (lambda y: distances.kid(x, y), lambda y: distances.kid(kernels, y)),
        "mind": (lambda y: distances.mind(x, y), lambda y: distances.mind(slices, y)),
        "precision_recall": (
            lambda y: distances.precision_recall(x, y),
            lambda y: distances.precision_recall(manifold, y),
        ),
    }
    print(f"{real:,} real and {fake:,} generated samples of {width} features, {ROUNDS} sets:")
    for name, (each_time, once) in steps.items():
        seconds = []
        for i, y in enumerate(sets):
            began = time.perf_counter()
            expected = each_time(y)
            between = time.perf_counter()
            assert once(y) == expected
            if i:  # the first set compiles, and pays for the reference
                seconds.append((between - began, time.perf_counter() - between))
        a, b = (statistics.median(each) for each in zip(*seconds, strict=True))
        ratio = statistics.median(x / y for x, y in seconds)
        print(f"{name:17} {a:6.2f} s each time, {b:6.2f} s by a reference, ratio {ratio:.1f}",
              flush=True)  # fmt: skip


def drawn(count, width, seed):
    """Return samples with few large and many small directions, like the features of images."""
    rng = np.random.default_rng(seed)
    scales = np.arange(1, width + 1, dtype=np.float32) ** -0.5 * (1 + 0.05 * seed)
    turn = np.linalg.qr(np.random.default_rng(9).standard_normal((width, width)))[0]
    x = rng.standard_normal((count, width), np.float32) * scales[None, :]
    return x @ turn.astype(np.float32) + np.float32(0.4)


def estimate(topology):
    """Print the seconds that all pairs take in blocks on one chip, by the compiler's estimate."""
    _, devices = devices_of(topology)
    here = SingleDeviceSharding(devices[0])
    wanted = neighbours.NEIGHBOURS + neighbours.SPARE
    rows, columns = pairs.ROWS, pairs.COLUMNS

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

    points, others = array(rows, WIDTH), array(columns, WIDTH)
    own, number = array(rows, dtype=jnp.int32), array(dtype=jnp.int32)
    found = array(rows, wanted), array(rows, wanted, dtype=jnp.int32)
    # (program, its arguments, the sets whose pairs it runs over)
    programs = {
        "nearest": ((*found, own, points, others, number, number), [(REAL, REAL), (FAKE, FAKE)]),
        "margins": (
            (array(rows, 2), points, others, array(columns)), [(FAKE, REAL), (REAL, FAKE)],
        ),
        "cubes": ((own, points, others, number), [(REAL, REAL), (FAKE, FAKE), (REAL, FAKE)]),
    }  # fmt: skip
    for name, (arguments, sets) in programs.items():
        report = compiled.measure(
            jax.jit(getattr(pairs, name)).lower(*arguments), topology, 2 * rows * columns * WIDTH
        )
        blocks = sum(
            name != "cubes" or (a, b) == (REAL, FAKE) or first >= start  # earlier: already counted
            for a, b in sets
            for start in range(0, a, rows)
            for first in range(0, b, columns)
        )
        total = sum(report["cycles"].values())
        kinds = ", ".join(f"{kind} {n / total:.0%}" for kind, n in report["cycles"].items())
        print(f"{name:8} {blocks} blocks of {rows} x {columns}: {1e3 * report['step_seconds']:.1f} "
              f"ms each, {blocks * report['step_seconds']:.2f} s in all, estimated for one chip of "
              f"{topology.split(':')[0]}; {report['mfu']:.1%} of its bf16 peak; {kinds}; "
              f"{report['peak_gib']:.2f} GiB", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
