"""Eight virtual CPU devices, strict broadcasting, tiny networks whose every weight is random."""

import collections
import gc
import os
import pathlib

import compiling

# Both are read when jax is first used, so they come before any import of it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        compiling.FAST,
    ]
)

import jax
import jax.numpy as jnp
import pytest
import random_weights
from etils.epath import backend as etils_backend
from etils.epath import gpath
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry as file_systems
from orbax.checkpoint._src.path import gcs_utils

from sg_jax.data.sources import open_source
from sg_jax.models.dit import DiT
from sg_jax.parallel import sharding

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing makes many objects. The default looks through all others after every 700 of them, which
# takes a tenth of the time of a run.
gc.set_threshold(20_000, 50, 100)

TINY = dict(
    image_size=8, channels=3, num_classes=5, patch=2, width=32, depth=4, heads=2, routes=((1, 2),)
)  # 16 tokens
SMALL = dict(width=16, depth=2, routes=((1, 1),))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test marked every(n), one in n cases runs by default; the others are slow."""
    counts = collections.Counter()
    for item in items:
        if mark := item.get_closest_marker("every"):
            test = item.nodeid.partition("[")[0]
            if counts[test] % mark.args[0]:
                item.add_marker(pytest.mark.slow)
            counts[test] += 1


def pytest_collection_finish():
    """What was imported stays, so the garbage collector need not look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def make_dit():
    """Changes to a tiny network -> that network, all of it random: a fresh DiT returns zeros."""

    def make(seed=0, **changes):
        sizes = {**TINY, **changes}
        return random_weights.network(lambda rngs: DiT(**sizes, rngs=rngs), seed=seed)

    return make


@pytest.fixture(scope="session")
def tiny(make_dit):
    """A network of 16 tokens and 4 blocks; blocks 1 and 2 are routed."""
    return make_dit()


@pytest.fixture(scope="session")
def make_small(make_dit):
    """As `make_dit`, of a network half as wide, with 2 blocks: compiled in half the time."""
    return lambda **changes: make_dit(**{**SMALL, **changes})


@pytest.fixture(scope="session")
def small(make_small):
    """A network of 16 tokens and 2 blocks; the second one is routed."""
    return make_small()


@pytest.fixture(scope="session")
def zero():
    """The small network as initialised: its velocity is zero, so its samples are the noise."""
    return random_weights.fresh(lambda rngs: DiT(**{**TINY, **SMALL}, rngs=rngs))


@pytest.fixture(scope="session")
def inputs():
    """Images x_t [3, 8, 8, 3], times [3] and labels [3] of the tiny network."""
    x = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
    return x, jnp.array([0.1, 0.5, 0.9]), jnp.array([0, 4, 2])


@pytest.fixture(scope="session")
def forward():
    """`model(x, t, y, ids)` under jit, compiled once for each shape in the whole run."""
    return jax.jit(lambda model, *args: model(*args))


@pytest.fixture(scope="session")
def mesh_of():
    """(data, fsdp) -> a mesh over the first data * fsdp devices."""

    def make(data, fsdp):
        if jax.device_count() < data * fsdp:
            pytest.skip(f"needs {data * fsdp} devices")
        return sharding.make_mesh(data=data, fsdp=fsdp, devices=jax.devices()[: data * fsdp])

    return make


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """Return a folder with the digits prepared; copy it before changing anything."""
    folder = tmp_path_factory.mktemp("tfds")
    open_source("digits", "train", str(folder))
    return folder


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder that gs:// is kept in for a test: gs://b/run is b/run there. No network.

    As in a real bucket a folder exists while there is a file in it, and no file is appended to or
    renamed. Orbax writes arrays to gs:// by tensorstore, not by fsspec; here to the same folder.
    """
    root = tmp_path / "buckets"
    root.mkdir()

    class Bucket(DirFileSystem):
        protocol = ("gs", "gcs")

        def __init__(self, **options):
            super().__init__(path=str(root), fs=LocalFileSystem(auto_mkdir=True), **options)

        def isdir(self, path):
            return any(p.is_file() for p in pathlib.Path(self._join(path)).rglob("*"))

        def exists(self, path, **_):
            return self.isfile(path) or self.isdir(path)

        def mkdir(self, path, *_, **__):
            pass

        makedirs = mkdir

        def open(self, path, mode="rb", **options):
            assert "a" not in mode and "+" not in mode, f"{path} cannot be appended to"
            return super().open(path, mode, **options)

        def mv(self, path1, path2, **_):
            raise AssertionError(f"{path1} is renamed")

        rename = mv_file = mv

    def kvstore(path):
        return {"driver": "file", "path": str(root / str(path).removeprefix("gs://"))}

    forget = etils_backend._FileSystemSpecBackend._get_filesystem.cache_clear
    for name in ("gs", "gcs"):
        monkeypatch.setitem(file_systems, name, Bucket)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(gcs_utils, "get_kvstore_for_gcs", kvstore)
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    forget()
    yield root
    forget()
