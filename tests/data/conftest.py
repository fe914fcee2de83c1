import pytest

from sg_jax.data.sources import open_source


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """Return a folder with the digits prepared; copy it before changing anything."""
    folder = tmp_path_factory.mktemp("tfds")
    open_source("digits", "train", str(folder))
    return folder
