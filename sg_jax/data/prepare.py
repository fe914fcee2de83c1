"""Find a TFDS data set on disk, prepare it if it is missing, or say how to."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from etils import epath

from sg_jax.data import embedded
from sg_jax.data.checks import too_many_open
from sg_jax.errors import UserError, nearest, one_line, shown
from sg_jax.runs import files
from sg_jax.runs.progress import log

# TFDS would also take arguments, and "NAMESPACE:NAME", whose code it would download and run.
NAME = re.compile(r"[A-Za-z]\w*(/\w[\w+.-]*)?(:(\d+|\*)(\.(\d+|\*)){2})?")

FEATURES, INFO = "features.json", "dataset_info.json"  # which every prepared data set has


class UnknownName(UserError):
    """Report a name that is neither prepared nor known to TFDS."""


def prepared_builder(name: str, data_dir: str | None = None) -> Any:
    """Return the read-only TFDS builder of a data set, after preparing it in ArrayRecord if needed.

    Args:
      name: an embedded or a TFDS name, which may carry a config and a version: "name/config:1.0.0".
      data_dir: folder of prepared data sets; None or "" for $TFDS_DATA_DIR, or else
        ~/tensorflow_datasets.

    Raises:
      UserError: there is no such data set, or it is not prepared and cannot be.
    """
    import tensorflow_datasets as tfds

    root = _root(data_dir)
    try:
        files.children(root)
    except OSError as cause:
        raise UserError(
            f"config.data.data_dir={str(root)!r} cannot be read ({one_line(cause)}): make it "
            "readable, or give another folder."
        ) from cause
    if not NAME.fullmatch(name):
        raise _unknown(name, root)
    # Look for files first: they need neither the code that made them nor its exact version.
    if found := _find(name, root):
        return found
    try:
        with files.temporary():  # TFDS leaves some behind
            if name in embedded.BUILDERS:
                builder = embedded.builder(name, root)
            else:
                builder = tfds.builder(name, data_dir=root)
    except UserError:  # from an embedded data set: what is missing
        raise
    except ValueError:
        raise _unknown(name, root) from None
    except Exception as cause:
        raise _unprepared(name, root, cause) from cause
    try:
        with files.temporary():
            _prepare(builder, root)
    except Exception as cause:
        # Another process may have been faster. A second folder cannot be moved to the place of
        # the first, and the data set is there.
        if found := _find(name, root):
            return found
        raise _unprepared(name, root, cause) from cause
    if found := _find(name, root):
        return found
    # TFDS mistakes any existing folder of that version for a finished data set.
    raise _unprepared(
        name,
        root,
        FileExistsError(f"{builder.data_dir} exists but is incomplete; delete it"),
    )


def is_prepared(name: str, data_dir: str | os.PathLike) -> bool:
    """Return whether a data set is in a folder ("": TFDS's own), so that opening writes nothing."""
    return bool(NAME.fullmatch(name)) and _find(name, _root(data_dir)) is not None


def remedy(cause: str) -> str:
    """Return what to do, given the cause, about unreadable files of a prepared data set."""
    if "ermission denied" in cause:
        return "let this user read it"
    if many := too_many_open(cause):
        return many
    return "delete its folder and prepare or copy the data set again"


def _root(data_dir: str | os.PathLike | None) -> epath.Path:
    return files.path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def _find(name: str, root: Any) -> Any:
    """Return the builder of the files under `root`, or None if there are none."""
    from tensorflow_datasets.core import read_only_builder
    from tensorflow_datasets.core.utils import error_utils

    described: list[Any] = []
    try:
        described = _described(name, root)
        # TFDS itself looks in more places: in small letters, or where a data set says its default
        # config is.
        with error_utils.record_error_context():  # which that function needs
            place = read_only_builder._find_builder_dir(name, data_dir=root)
        for folder in [*described, *([place] if place else [])]:
            _check_description(name, folder)
        return read_only_builder.builder_from_files(name, data_dir=root)
    except UserError:
        raise
    except Exception as cause:
        if isinstance(cause, ValueError) and not described:
            return None
        # TFDS does not say why it cannot read a file.
        why = cause.__context__ if isinstance(cause.__context__, PermissionError) else cause
        place = described[-1] if described else root / re.split("[/:]", name)[0]
        raise UserError(
            f"config.data.name={name!r}: {place} has a data set that cannot be opened "
            f"({one_line(why)}): {remedy(one_line(why))}."
        ) from cause


def _described(name: str, root: Any) -> list[Any]:
    """Return the folders under `root` that a name may mean and that describe a data set."""
    whole, _, version = name.partition(":")
    first, _, config = whole.partition("/")
    found = set()
    for depth in ("*", "*/*"):
        for file in (FEATURES, INFO):
            found |= {path.parent for path in files.named(root / first, f"{depth}/{file}")}
    return sorted(
        folder
        for folder in found
        if ("*" in version or version in ("", folder.name))
        and (not config or folder.parent.name == config)
    )


def _check_description(name: str, folder: Any) -> None:
    """Raise unless a data set is described, and only by TFDS's own features.

    Other features are classes whose modules TFDS would import.
    """
    for path in (folder / FEATURES, folder / INFO):
        try:
            content = json.loads(path.read_bytes())
            classes = list(_classes(content)) if path.name == FEATURES else []
            wrong = "" if isinstance(content, dict) else "is another file"
        except PermissionError:
            return  # reported elsewhere, with its remedy
        except (OSError, ValueError, RecursionError) as cause:
            wrong = f"is damaged ({one_line(cause)})" if path.exists() else "is missing"
        if wrong:
            raise UserError(f"config.data.name={name!r}: {path} {wrong}: {remedy(wrong)}.")
        for kind in classes:
            if not kind.startswith("tensorflow_datasets."):
                raise UserError(
                    f"{path} names the feature {kind!r}. Only features of tensorflow_datasets are "
                    "read, because others would import code."
                )


def _classes(value: Any) -> Iterator[str]:
    """Yield the names of Python classes in the contents of a features.json."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key in ("type", "pythonClassName", "python_class_name") and isinstance(part, str):
                yield part
            elif key == "json" and isinstance(part, str):  # some features store parts this way
                yield from _classes(json.loads(part))
            else:
                yield from _classes(part)
    elif isinstance(value, list):
        for part in value:
            yield from _classes(part)


def _prepare(builder: Any, root: Any) -> None:
    """Prepare a data set in ArrayRecord, unless it exists."""
    place = files.path(builder.data_dir)
    if place.exists():
        return
    if files.is_remote(root):
        raise OSError(f"{root} is in a bucket: prepare the data set on a disk, and copy it there")
    if urls := [url for url in builder.url_infos or () if url.startswith("http")]:
        _check_network(builder, root, urls)
        log(f"{builder.name} is not prepared in {root}: downloading it ...")
    if builder.name in embedded.BUILDERS:
        embedded.prepare(builder.name, root)
    else:
        builder.download_and_prepare(file_format="array_record")


def _check_network(builder: Any, root: Any, urls: list[str]) -> None:
    """Fail within seconds if downloads are impossible; TFDS alone would try for minutes."""
    import requests

    here = builder.MANUAL_DOWNLOAD_INSTRUCTIONS or (root / "downloads" / builder.name).is_dir()
    if not here:
        with contextlib.suppress(requests.ReadTimeout):
            requests.head(urls[0], timeout=20)


def _unknown(name: str, root: Any) -> UnknownName:
    import tensorflow_datasets as tfds

    text = f"config.data.name={shown(name)} is neither a data set of TFDS nor prepared in"
    if hint := _path_hint(name):
        return UnknownName(f"{text} {_describe(root)}. {hint}")
    known = {
        *_prepared(root),
        *embedded.BUILDERS,
        *tfds.list_builders(with_community_datasets=False),
    }
    form = "" if NAME.fullmatch(name) else " A name is NAME, NAME/CONFIG or NAME:VERSION."
    return UnknownName(
        f"{text} {_describe(root)}.{form}{nearest(name, sorted(known))} To write latents there, "
        "use `python -m sg_jax.main --mode latents`."
    )


def _path_hint(name: str) -> str:
    """Return what to do with a folder given as a name, or "" for what looks like a name."""
    try:
        path = files.absolute(name)
        if not name.strip() or not (path.is_dir() or name.endswith("/") or ".." in name):
            return ""
        there = path.is_dir()
    except (OSError, ValueError):  # not a file name either
        return ""
    if not there:
        return "There is no such folder, and a name is NAME, NAME/CONFIG or NAME:VERSION."
    shown_as = name if name.endswith("/") else f"./{name}"
    return folder_hint(path) or (
        f"There is a folder of that name: to read the images in it, write {shown_as}."
    )


def folder_hint(path: Any) -> str:
    """Return what to do with a data folder that is given as a name, or "" for any other folder.

    Raises:
      OSError: the folder cannot be read.
    """
    found = [file for depth in range(3) for file in files.named(path, "*/" * depth + FEATURES)]
    if found:
        places = sorted({_place(features.parent) for features in found})
        root = places[0][0]
        names = " or ".join(f"--config.data.name={kind}" for where, kind in places if where == root)
        return f"That folder holds a prepared data set: --config.data.data_dir={root} {names}."
    if any(child.name.endswith("_features") for child in files.children(path)):
        return (
            "That folder looks like latents in .npy files; make a data set of them with `python "
            f"-m sg_jax.main --mode latents --from {path} --to DATA_DIR --name NAME --scale SCALE`."
        )
    return ""


def _place(folder: Any) -> tuple[str, str]:
    """Return the data_dir and the name of the data set in a folder."""
    last, before = folder.parents[0], folder.parents[1]
    try:
        called = json.loads((folder / INFO).read_text())["name"]
    except (OSError, ValueError, LookupError, TypeError):
        called = last.name
    if last.name == called:
        return str(before), last.name
    return str(before.parent), f"{before.name}/{last.name}"


def _unprepared(name: str, root: Any, cause: Exception) -> UserError:
    missing = re.search(r"No module named '(\w+)", str(cause))
    install = f"`pip install {missing[1]}` and " if missing else ""
    command = (
        f"import tensorflow_datasets as tfds; tfds.builder({name!r}, data_dir={str(root)!r})"
        f".download_and_prepare(file_format='array_record')"
    )
    if name in embedded.BUILDERS:
        what = "Set config.data.data_dir to a folder that can be written."
    else:
        what = (
            f'With a network, run {install}`python -c "{command}"`, or copy a prepared data set '
            "there, or set config.data.data_dir to a folder that has one."
        )
    return UserError(
        f"config.data.name={name!r} is not prepared in {_describe(root)}, and preparing it failed: "
        f"{one_line(cause)}. {what}"
    )


def _describe(root: Any) -> str:
    if not root.is_dir():
        return f"config.data.data_dir={str(root)!r} (no such folder)"
    return f"config.data.data_dir={str(root)!r} (holds: {', '.join(_prepared(root)) or 'nothing'})"


def _prepared(root: Any) -> list[str]:
    """Return the names of the data sets under `root`."""
    return sorted({path.relative_to(root).parts[0] for path in _data_sets(root)})


def _data_sets(root: Any) -> list[Any]:
    """Return the folders of the data sets under `root`, name[/config]/version, by name."""
    found = []
    for child in files.children(root):
        if not child.name.startswith("."):  # such as one that is being written
            with contextlib.suppress(OSError):  # it may not be read
                for pattern in (f"*/{FEATURES}", f"*/*/{FEATURES}"):
                    found += [path.parent for path in files.named(child, pattern)]
    return sorted(found)
