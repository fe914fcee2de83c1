"""Write a file whole or not at all."""

import os
from pathlib import Path


def write_atomically(path: str | os.PathLike, content: bytes) -> Path:
    """Write `content` so that no reader, and no interruption, ever sees half a file.

    Args:
      path: the file to create or replace; missing folders are made.
      content: all its bytes.

    Returns:
      `path` as a Path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system. Not tempfile:
    # its files are readable by their owner alone, and reports are shared.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
