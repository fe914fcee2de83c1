"""Peak memory of scoring 1,000 and 20,000 images in a stream: it does not grow with their number.

    python tests/benchmarks/streaming.py

The images are random, and a stand-in network with Inception's widths looks at them, so only what is
kept of an image matters. Every Inception metric is measured, including those that compare all
features. Each number of images has its own process, whose peak resident memory (VmHWM) is printed.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

SIDE, POOL, SPATIAL, CLASSES, BATCH, REFERENCES = 32, 2048, 2023, 1008, 250, 10_000


class Wide:
    """A network of random projections."""

    digest, test_accuracy = "0badcafe", None

    def __init__(self):
        rng = np.random.default_rng(0)
        self.weights = [
            rng.standard_normal((64, n)).astype(np.float32) for n in (POOL, SPATIAL, CLASSES)
        ]

    def score(self, images):
        """Return features of images, as Inception does."""
        x = images.reshape(len(images), -1)[:, :64].astype(np.float32) / 255 - 0.5
        pool, spatial, logits = (np.sin(x @ w) for w in self.weights)
        return pool, None, spatial, logits


def drawn(labels, first=0, spent=None):
    """Yield random images; image i depends on i alone."""
    for begin in range(first, first + len(labels), BATCH):
        count = min(BATCH, first + len(labels) - begin)
        rng = np.random.default_rng(begin)
        yield rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def measure(count: int) -> None:
    """Score `count` images, and print the peak memory before and after in MiB, and seconds."""
    from sg_jax.evaluation import metrics
    from sg_jax.evaluation.judge import Judge
    from sg_jax.evaluation.real import View
    from sg_jax.evaluation.stream import Stream

    network = Wide()
    base = Judge({metrics.INCEPTION: View(network, None)}, main=metrics.INCEPTION)
    real = base.tallies(REFERENCES)
    for images in drawn(np.arange(REFERENCES), first=10**6):
        real.add(base.observe(images), np.zeros(len(images), int))
    views = {metrics.INCEPTION: View(network, real.results()[metrics.INCEPTION])}
    judge = Judge(views, main=metrics.INCEPTION)
    before, began = peak(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        stream = Stream(drawn, np.zeros(count, int), judge, keep=None, shown=0, batch_size=BATCH)
        found = stream.run(pathlib.Path(folder) / "part", "")
        scores = judge.scores_of(found.sets)
    words = " ".join(f"{name} {value:.4g}" for name, value in scores.items())
    print(f"{count} {before:.0f} {peak():.0f} {time.perf_counter() - began:.0f}  {words}")


def peak() -> float:
    """Return the peak of this process's memory in MiB."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 20_000])
    parser.add_argument("--one", type=int, help="measure in this process")
    given = parser.parse_args()
    if given.one:
        measure(given.one)
    else:
        print("images, peak before and after in MiB, seconds, scores")
        for number in given.counts:
            subprocess.run([sys.executable, __file__, "--one", str(number)], check=True)
