"""Class names from a file, config.data.classes, instead of from the names of their folders.

A text file has a line for each class, in the order of their labels:

    n01440764 tench       a folder, then the name of its class
    n01443537             or only the folder, which is then the name too
    goldfish              or, if no line begins with a folder, the names in the order of the folders

A .json file has a list of such lines, {FOLDER: NAME}, {NUMBER: NAME}, or {NUMBER: [FOLDER, NAME]}.
"""

import json
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

from sg_jax.data.containers import composed
from sg_jax.errors import SettingError, nearest, one_line, shown

MOST = 2**24  # bytes of a file


def ordered_classes(
    classes: str, folders: Sequence[str], name: str
) -> tuple[list[str], tuple[str, ...]]:
    """Return the folders of the classes and their names, both in the order of labels.

    Args:
      classes: path of the file, which may be relative to the folder of the images; "" for none.
      folders: the folders of the images, sorted.
      name: config.data.name, for messages.

    Raises:
      SettingError: the file cannot be read, or lacks a folder.
    """
    if not classes:
        return list(folders), tuple(map(_printable, folders))
    there = {composed(folder): folder for folder in folders}
    if len(there) < len(folders):  # two folders that differ in nothing else
        there = {folder: folder for folder in folders}
    known = set(there)
    lines = _lines(classes, name, known)
    split = (_separator(line, known) for line in lines if isinstance(line, str))
    usual = next(filter(None, split), "")  # the separator of lines whose folder has no images
    rows = [_row(line, known, usual, classes) for line in lines]
    listed = [folder for folder, _ in rows]
    if len(rows) == len(folders) and not known & set(listed):
        return list(folders), tuple(" ".join(row).strip() for row in rows)
    if lacking := sorted(known - set(listed)):
        raise _wrong(
            classes,
            f"has {len(rows)} classes, but none for the folder {shown(lacking[0])}, one of "
            f"{len(folders)} in {name!r}: give each folder a line, FOLDER or FOLDER NAME."
            f"{nearest(lacking[0], listed)}",
        )
    if len(set(listed)) < len(listed):
        twice = next(folder for i, folder in enumerate(listed) if folder in listed[:i])
        raise _wrong(classes, f"lists {shown(twice)} twice: remove one of these lines.")
    order = [there.get(folder, folder) for folder in listed]
    return order, tuple(rest or _printable(folder) for folder, rest in rows)


def find(classes: str, name: str) -> pathlib.Path:
    """Return the path of a file of classes, which may be relative to the folder of the images."""
    path = pathlib.Path(classes).expanduser()
    inside = pathlib.Path(name).expanduser() / classes
    return inside if not path.exists() and inside.exists() else path


def _printable(folder: str) -> str:
    return os.fsencode(folder).decode("utf-8", "replace")


def _wrong(classes: str, rule: str) -> SettingError:
    return SettingError("config.data", "classes", classes, rule)


def _lines(classes: str, name: str, known: Collection[str]) -> list[Any]:
    """Return the lines of a file, or their equivalents in a .json file."""
    try:
        path = find(classes, name)
        if path.stat().st_size > MOST:
            raise _wrong(classes, f"has more than {MOST:,} bytes.")
        text = composed(path.read_text(encoding="utf-8-sig"))
        found = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except SettingError:
        raise
    except (OSError, ValueError, RecursionError, RuntimeError) as cause:
        raise _wrong(classes, f"cannot be read ({one_line(cause)}): give a text file.") from None
    if isinstance(found, dict):
        items = list(found.items())
        if items and all(key.isdecimal() for key in found) and not known & found.keys():
            return [value for _, value in sorted(items, key=lambda item: int(item[0]))]
        return [[key, value] for key, value in items]
    lines = found if isinstance(found, list) else []
    lines = [line for line in lines if not isinstance(line, str) or line.strip()]
    if not lines:
        raise _wrong(classes, "names no classes: give a line for each, FOLDER or FOLDER NAME.")
    return lines


def _separator(line: str, known: Collection[str]) -> str:
    """Return what separates the folder in a line from the name of its class, or ""."""
    for separator in ("\t", ",", " "):
        if line.strip() not in known and line.partition(separator)[0].strip() in known:
            return separator
    return ""


def _row(line: Any, known: Collection[str], usual: str, classes: str) -> tuple[str, str]:
    """Return the folder in a line and its class name; for a line without a folder, all of it."""
    if isinstance(line, list) and 1 <= len(line) <= 2 and all(isinstance(p, str) for p in line):
        return line[0], line[1] if len(line) > 1 else ""
    if not isinstance(line, str):
        raise _wrong(classes, f"has {shown(line)} where a class should be.")
    separator = _separator(line, known) or ("" if line.strip() in known else usual)
    first, _, rest = line.partition(separator) if separator else (line, "", "")
    return first.strip(), rest.strip()
