"""A run's files, on a disk or in a bucket; each is written completely or not at all."""

import os
import pathlib
import uuid

import fsspec
from etils import epath

from sg_jax.errors import UserError

# A cached listing would hide what other hosts, and Orbax with its own client, have written.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


def path(name: str | os.PathLike) -> epath.Path:
    """Return a path with pathlib's methods, in a bucket for "gs://BUCKET/FOLDER", otherwise local.

    Raises:
      UserError: the package for buckets is missing, or the address is of another kind.
    """
    scheme, separator, rest = os.fspath(name).partition("://")
    if not separator:
        return epath.Path(name)
    try:
        fsspec.get_filesystem_class(scheme)
        found = epath.Path(name)
    except ImportError:
        package = {"gs": "gcsfs", "s3": "s3fs"}.get(scheme, f"what fsspec needs for {scheme}")
        raise UserError(
            f"{os.fspath(name)!r} is in a bucket, which needs a package that is not installed: "
            f"`pip install {package}`."
        ) from None
    except (KeyError, ValueError):
        found = None
    if found is None or not rest.strip("/"):
        raise UserError(
            f"{os.fspath(name)!r} must be a local folder or gs://BUCKET/FOLDER, a folder in a "
            f"bucket of Google Cloud Storage."
        )
    return found


def is_remote(name: str | os.PathLike) -> bool:
    """Return whether a path is in a bucket, where a file can be replaced but not appended to."""
    return "://" in os.fspath(name)


def absolute(name: str | os.PathLike) -> epath.Path:
    """Return the path from the root of the file system, or from its bucket."""
    return path(name) if is_remote(name) else epath.Path(pathlib.Path(name).absolute())


def write_atomically(name: str | os.PathLike, content: bytes) -> epath.Path:
    """Write `content` so that no reader ever sees half a file, even after an interruption.

    Args:
      name: the file to create or replace; missing folders are made.
      content: all its bytes.

    Returns:
      `name` as a path.
    """
    target = path(name)
    if is_remote(target):  # an object appears only when it is complete, and needs no folder
        target.write_bytes(content)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system. Not tempfile: only
    # the owner can read its files, and reports are shared.
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target
