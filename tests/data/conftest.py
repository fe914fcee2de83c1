import shutil

import pytest


@pytest.fixture
def copied(digits_dir, tmp_path):
    """Return a folder with the digits to damage, and the file of their training split."""
    shutil.copytree(digits_dir, tmp_path / "copy")
    (shard,) = (tmp_path / "copy").glob("digits/1.0.0/*train*")
    return tmp_path / "copy", shard
