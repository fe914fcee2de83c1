"""A data set whose examples take a while to read, as from a slow disk: "slow:MILLISECONDS"."""

import dataclasses
import sys
import time

import numpy as np


@dataclasses.dataclass(frozen=True)
class Slow:
    """Example i is a grey image of 8x8 pixels, read after `wait` seconds."""

    name: str
    split: str
    wait: float
    num_classes: int = 10
    image_shape: tuple[int, int, int] = (8, 8, 1)
    class_names: tuple[str, ...] = tuple("0123456789")
    latents: bool = False
    posterior: bool = False

    def __len__(self):
        return 100_000

    def __getitem__(self, i):
        time.sleep(self.wait)
        return {"image": np.full(self.image_shape, i % 256, np.uint8), "label": i % 10}


def open_slow(name, split, data_dir, image_size):
    return Slow(name, split, float(name.partition(":")[2]) / 1e3)


def register():
    from sg_jax.data import sources

    kind = sources.Kind("slow:MILLISECONDS", lambda name: name.startswith("slow:"), open_slow)
    sources.KINDS.insert(0, kind)


if __name__ == "__main__":
    import slow_source  # so that its class has a name that other processes can import

    from sg_jax.main import main

    slow_source.register()
    main(sys.argv)
