"""Tiny runs that the tests of this folder start from, made once for all workers."""

import made_once
import numpy as np
import pytest
from harness import Lab
from published import golden


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return made_once.folder(tmp_path_factory, "faults")


@pytest.fixture(scope="session")
def lab(base):
    """Where commands are started; none is left at the end."""
    lab = Lab(base)
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def once(base):
    return made_once.maker(base)


@pytest.fixture(scope="session")
def whole(lab, once):
    """The tiny run, uninterrupted: 12 steps, samples and scores. Do not write there."""
    return once("whole", lab.run)


@pytest.fixture(scope="session")
def encode(lab, once, whole):
    """Folder of data sets -> the processes that encode 200 digits into it, in 8 files."""

    def fill(folder):
        folder.mkdir()
        np.savez(folder / "tae.npz", **golden("tae_tiny")[1])

    weights = once("weights", fill) / "tae.npz"

    def start(data, number=1, **options):
        return lab.start_group(
            data, "--mode=latents", "--config=configs/digits.py", f"--to={data}", "--name=made",
            "--per_file=50", "--config.data.split=train[:200]", "--config.data.image_size=16",
            f"--config.data.data_dir={lab.data}", f"--config.autoencoder.path={weights}",
            "--config.autoencoder.chunk=4", number=number, base=(), **options,
        )  # fmt: skip

    return start


@pytest.fixture(scope="session")
def make_latents(lab, once):
    """Folder of data sets -> the command that writes the data set tiny_latents into it."""

    def fill(folder):
        rng = np.random.default_rng(0)
        images = rng.standard_normal((40, 1, 4, 4, 4)).astype(np.float32)
        for name, array in {"a_features": images, "a_labels": np.arange(40)[:, None] % 10}.items():
            (folder / name).mkdir(parents=True)
            for i, value in enumerate(array):
                np.save(folder / name / f"{i}.npy", value)

    stored = once("stored latents", fill)
    made = ("--mode=latents", f"--from={stored}", "--name=tiny_latents", "--scale=1")
    return lambda data: lab.start(data, *made, f"--to={data}", base=())
