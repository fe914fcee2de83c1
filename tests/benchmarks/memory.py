"""Peak memory of judging images, with few and with many real ones, kept up to 256 MiB in all.

    python tests/benchmarks/memory.py [COUNT ...]

One process per count trains the feature network for one epoch on that many generated images of
32x32x3 pixels, gathers statistics of them all, and scores 1,000 more. memory.md has figures.
"""

import resource
import subprocess
import sys
import tempfile
import types
from typing import Any

import numpy as np

COUNTS = (5_000, 50_000)
TEST_IMAGES = 1_000


class Generated:
    """Images made from their index on each read, as if they were decoded from a file."""

    num_classes, image_shape, latents = 10, (32, 32, 3), False

    def __init__(self, name: str, split: str, count: int):
        self.name, self.split, self.count = name, split, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, Any]:
        rng = np.random.default_rng([len(self.split), i])
        image = rng.integers(0, 128, self.image_shape, np.uint8)
        return {"image": image + np.uint8(12 * (i % 10)), "label": i % 10}


def measure(count: int) -> None:
    """Judge `count` real images in this process, and print its peak memory in MiB after each part.

    Args:
      count: number of training images.
    """
    from sg_jax.config.sections import Data, Evaluate, Features
    from sg_jax.evaluation import scoring
    from sg_jax.evaluation.metrics import Drawing

    test = Generated("generated", "test", TEST_IMAGES)
    scoring.open_source = lambda *args, **kwargs: test
    config = types.SimpleNamespace(
        data=Data(), evaluate=Evaluate(), features=Features(width=8, features=64, epochs=1)
    )
    peaks = [peak()]
    with tempfile.TemporaryDirectory() as folder:
        judge = scoring.open_judge(config, Generated("generated", "train", count), folder)
    peaks.append(peak())
    images = np.stack([test[i]["image"] for i in range(TEST_IMAGES)])
    tallies = judge.tallies(TEST_IMAGES)
    tallies.add(judge.observe(images), np.arange(TEST_IMAGES) % 10)
    judge.scores_of(tallies.results(), Drawing(1.0, 1.0))
    peaks.append(peak())
    print(*(f"{each:.0f}" for each in peaks))


def peak() -> float:
    """Return the peak resident memory of this process so far, in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main(counts: list[int]) -> None:
    """Measure each count in a process of its own, and print a table."""
    print(f"{'real images':>12} {'pixels':>10} {'imports':>10} {'judge':>10} {'score':>10}")
    for count in counts:
        command = [sys.executable, __file__, "--measure", str(count)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        numbers = done.stdout.splitlines()[-1].split()  # after lines of progress
        pixels = count * 32 * 32 * 3 / 2**20
        cells = [f"{pixels:.0f}", *numbers]
        print(f"{count:12,}", *(f"{cell:>6} MiB" for cell in cells), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(int(sys.argv[2]))
    else:
        main([int(word) for word in sys.argv[1:]] or list(COUNTS))
