import shutil

import pytest

from sg_jax.data.sources import open_source


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """Return a folder with the digits prepared; copy it before changing anything."""
    folder = tmp_path_factory.mktemp("tfds")
    open_source("digits", "train", str(folder))
    return folder


@pytest.fixture
def copied(digits_dir, tmp_path):
    """Return a folder with the digits to damage, and the file of their training split."""
    shutil.copytree(digits_dir, tmp_path / "copy")
    (shard,) = (tmp_path / "copy").glob("digits/1.0.0/*train*")
    return tmp_path / "copy", shard
