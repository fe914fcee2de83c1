"""Find a TFDS data set on disk, prepare it if it is missing, or say how to."""

import contextlib
import os
import re
from typing import Any

from sg_jax.errors import UserError, nearest


class UnknownName(UserError):
    """Report a name that is neither prepared nor known to TFDS."""


def prepared_builder(name: str, data_dir: str | None = None) -> Any:
    """Return the read-only TFDS builder of a data set, after preparing it in ArrayRecord if needed.

    Args:
      name: "digits" or a TFDS name, which may carry a config and a version: "name/config:1.0.0".
      data_dir: folder of prepared data sets; None or "" for $TFDS_DATA_DIR, or else
        ~/tensorflow_datasets.

    Raises:
      UserError: there is no such data set, or it is not prepared and cannot be.
    """
    import tensorflow_datasets as tfds
    from etils import epath

    root = epath.Path(
        data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    ).expanduser()
    # Files first: they need neither the code that made them nor its exact version.
    if found := _find(name, root):
        return found
    try:
        builder = _digits(root) if name == "digits" else tfds.builder(name, data_dir=root)
    except ValueError:
        known = {*_prepared(root), "digits", *tfds.list_builders(with_community_datasets=False)}
        raise UnknownName(
            f"config.data.name={name!r} is neither a data set of TFDS nor prepared in "
            f"{_describe(root)}.{nearest(name, sorted(known))} To write latents there, use `python "
            "-m sg_jax.main --mode latents`."
        ) from None
    except Exception as cause:
        raise _unprepared(name, root, cause) from cause
    try:
        _check_network(builder, root)
        builder.download_and_prepare(file_format="array_record")
    except Exception as cause:
        # Another process may have been faster. TFDS renames a complete folder into place, so the
        # second rename fails, and the data set is there.
        if found := _find(name, root):
            return found
        raise _unprepared(name, root, cause) from cause
    if found := _find(name, root):
        return found
    # TFDS mistakes any existing folder of that version for a finished data set.
    incomplete = FileExistsError(f"{builder.data_dir} exists but is incomplete; delete it")
    raise _unprepared(name, root, incomplete)


def one_line(cause: Exception) -> str:
    """Return an exception as one line of at most 300 characters."""
    text = " ".join(f"{type(cause).__name__}: {cause}".split()).rstrip(".")
    return text if len(text) <= 300 else text[:297] + "..."


def _find(name: str, root: Any) -> Any:
    """Return the builder of the files under `root`, or None if there are none."""
    from tensorflow_datasets.core import read_only_builder

    try:
        return read_only_builder.builder_from_files(name, data_dir=root)
    except ValueError:
        return None
    except Exception as cause:
        raise UserError(
            f"config.data.name={name!r}: {root / name.split(':')[0]} has a data set that cannot be "
            f"opened ({one_line(cause)}). Delete that folder and prepare or copy it again."
        ) from cause


def _digits(root: Any) -> Any:
    from sg_jax.data.digits import Digits

    return Digits(data_dir=root)


def _check_network(builder: Any, root: Any) -> None:
    """Fail within seconds if downloads are impossible; TFDS alone would try for minutes."""
    import requests

    urls = [url for url in builder.url_infos or () if url.startswith("http")]
    here = builder.MANUAL_DOWNLOAD_INSTRUCTIONS or (root / "downloads" / builder.name).is_dir()
    if urls and not here:
        with contextlib.suppress(requests.ReadTimeout):
            requests.head(urls[0], timeout=20)


def _unprepared(name: str, root: Any, cause: Exception) -> UserError:
    missing = re.search(r"No module named '(\w+)", str(cause))
    install = f"`pip install {missing[1]}` and " if missing else ""
    command = (
        f"import tensorflow_datasets as tfds; tfds.builder({name!r}, data_dir={str(root)!r})"
        f".download_and_prepare(file_format='array_record')"
    )
    if name == "digits":
        remedy = "Set config.data.data_dir to a folder that can be written."
    else:
        remedy = (
            f'With network, run {install}`python -c "{command}"`, or copy a prepared data set '
            "there, or set config.data.data_dir to a folder that has one."
        )
    return UserError(
        f"config.data.name={name!r} is not prepared in {_describe(root)}, and preparing it failed: "
        f"{one_line(cause)}. {remedy}"
    )


def _describe(root: Any) -> str:
    if not root.is_dir():
        return f"config.data.data_dir={str(root)!r} (no such folder)"
    return f"config.data.data_dir={str(root)!r} (holds: {', '.join(_prepared(root)) or 'nothing'})"


def _prepared(root: Any) -> list[str]:
    """Return the names of the data sets under `root`, which lie in name[/config]/version."""
    if not root.is_dir():
        return []
    found = [*root.glob("*/*/features.json"), *root.glob("*/*/*/features.json")]
    return sorted({path.relative_to(root).parts[0] for path in found})
