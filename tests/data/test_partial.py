"""What a killed writer leaves is removed by the next one, and nothing else is."""

import os
import subprocess
import sys
import time

import pytest

from sg_jax.data import partial
from sg_jax.errors import UserError


def _left(root):
    return sorted(path.name for path in root.iterdir())


def test_a_folder_is_there_until_the_end(tmp_path):
    root = tmp_path / "data"  # made
    with partial.folder(root, "mine") as made:
        assert made.parent == root and made.name.startswith(".mine.")
        with partial.folder(root, "mine") as other:  # the first one is in use
            assert made.is_dir() and other != made
        assert made.is_dir() and not other.exists()
    with pytest.raises(KeyError), partial.folder(root, "mine"):
        raise KeyError
    assert _left(root) == []


def test_what_a_killed_writer_left_is_removed(tmp_path):
    script = (
        "import os, sys; from sg_jax.data import partial\n"
        "with partial.folder(__import__('pathlib').Path(sys.argv[1]), 'mine') as made:\n"
        "    (made / 'half').write_text('x'); os._exit(1)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)]).returncode == 1
    (left,) = tmp_path.iterdir()
    with partial.folder(tmp_path, "other"):
        assert left.exists()
    with partial.folder(tmp_path, "mine"):
        assert not left.exists()


def test_what_another_host_writes_is_left_for_a_day(tmp_path):
    theirs = tmp_path / ".mine.other-host.0123.partial"
    theirs.mkdir()
    (theirs / "lock").touch()
    (theirs / "half").touch()
    with partial.folder(tmp_path, "mine"):
        assert theirs.exists()
    long_ago = time.time() - 2 * partial.DAY
    for path in (theirs / "lock", theirs / "half", theirs):
        os.utime(path, (long_ago, long_ago))
    with partial.folder(tmp_path, "mine"):
        assert not theirs.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"file is a file, but a folder is needed"),
        partial.folder(tmp_path / "file", "mine"),
    ):
        pass
