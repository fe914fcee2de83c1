"""From the paths of images to splits, classes and labels.

    CLASS/....jpg         one split, 'train'; a class for each folder, with all its subfolders
    SPLIT/CLASS/....jpg   if all folders at the top have names of splits, such as train and val
    ....jpg, SPLIT/....   without class folders: one class

A single folder around all of that is ignored. Classes are in the order of their folders' names,
over all splits, unless a file says otherwise (`class_file`). A `dataset.json` at the top, as
StyleGAN's and EDM's tools write it, gives labels instead: {"labels": [["00000/img0.png", 6], ...]}.
With {"labels": null} the images have none, and so one class: their folders are only parts.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from sg_jax.data import splits
from sg_jax.data.class_file import ordered_classes
from sg_jax.data.containers import TABLE, Files, LeftOut
from sg_jax.errors import SettingError, UserError, one_line, shown

ONLY = "image"  # the class of images without labels
UNLABELLED: Mapping[str, int] = {}  # what a table says about images that have no labels
MOST_CLASSES = 1_000_000
BESIDE = "images beside the folders of classes or splits"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The images of one place by split, and their classes.

    Attributes:
      ids: int64, the numbers of a split's images in `Files`, in the order of `splits.spread`.
      labels: int64, their classes; None for a split without labels where others have some.
      class_names: a name for each label.
      left_out: images that have no place in the layout.
    """

    ids: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray | None]
    class_names: tuple[str, ...]
    left_out: LeftOut

    def select(self, name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids and labels of a split, or of a slice of one; see `splits.select`."""
        ids, labels = [], []
        for whole, part in splits.select(name, split, {k: len(v) for k, v in self.ids.items()}):
            found = self.labels[whole]
            if found is None:
                raise SettingError(
                    "config.data",
                    "split",
                    split,
                    f"has no folders of classes in {name!r}, where other splits have them: sort "
                    f"the images of {whole!r} into such folders, or give another split.",
                )
            ids.append(self.ids[whole][part])
            labels.append(found[part])
        return np.concatenate(ids), np.concatenate(labels)


def arrange(files: Files, name: str, classes: str = "") -> Layout:
    """Return the splits and classes that the paths of images stand for.

    Args:
      files: the images, one or more.
      name: config.data.name, for messages.
      classes: config.data.classes, a file as `class_file` describes it; "" for the folders' names.

    Raises:
      UserError: the file of classes or labels does not fit the images.
    """
    left_out = LeftOut()
    start = _wrapper(files.names)
    paths = [path[start:] for path in files.names]
    table = files.names[0][:start] + TABLE
    tops = {path.partition("/")[0].lower() for path in paths if "/" in path}
    if table in files.beside and (labels := _labels(files, table, name)) is not None:
        return _from_table(paths, labels, name, classes)
    members: dict[str, list[tuple[int, str]]] = {}
    if len(tops & splits.NAMES) > 1 and tops - splits.NAMES:
        raise UserError(
            f"config.data.name={name!r} has folders of splits ({_listed(tops & splits.NAMES)}) "
            f"beside others ({_listed(tops - splits.NAMES)}): move the others elsewhere, or give "
            "them the name of a split too, such as val."
        )
    if tops and tops <= splits.NAMES:
        for i, path in enumerate(paths):
            split, _, inside = path.partition("/")
            if inside:
                members.setdefault(split, []).append((i, inside))
            else:
                left_out.add(BESIDE, path)
    else:
        members["train"] = list(enumerate(paths))
    found = {}
    for split, pairs in sorted(members.items()):
        labelled = [(i, path) for i, path in pairs if "/" in path]
        if labelled:
            for path in (path for _, path in pairs if "/" not in path):
                left_out.add(BESIDE, path)
        found[split] = labelled or pairs
    folders = sorted({p.partition("/")[0] for ps in found.values() for _, p in ps if "/" in p})
    order, names = ordered_classes(classes, folders or [ONLY], name)
    numbers = {folder: i for i, folder in enumerate(order)}
    ids: dict[str, np.ndarray] = {}
    by_split: dict[str, np.ndarray | None] = {}
    for split, pairs in found.items():
        flat = "/" not in pairs[0][1]
        given = np.array([0 if flat else numbers[p.partition("/")[0]] for _, p in pairs], np.int64)
        spread = splits.spread([_key(path) for _, path in pairs], given)
        ids[split] = np.array([i for i, _ in pairs], np.int64)[spread]
        by_split[split] = None if flat and folders else given[spread]
    return Layout(ids, by_split, names, left_out)


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")


def _wrapper(names: Sequence[str]) -> int:
    """Return the length of the path of a single folder around all classes and splits."""
    start = 0
    while True:
        first, slash, rest = names[0][start:].partition("/")
        around = names[0][:start] + first + "/"
        # The names are sorted, so all begin with what the first and the last begin with.
        if not slash or first.lower() in splits.NAMES or not names[-1].startswith(around):
            return start
        if "/" not in rest or not all("/" in name[len(around) :] for name in names):
            return start
        start = len(around)


def _key(path: str) -> bytes:
    return hashlib.blake2b(os.fsencode(path), digest_size=8).digest()


def _labels(files: Files, table: str, name: str) -> Mapping[str, int] | None:
    """Return the labels of a dataset.json by path; None if it is about something else."""
    try:
        found = json.loads(files.read_beside(table))
        if not isinstance(found, dict) or "labels" not in found:
            return None
        if (pairs := found["labels"]) is None:
            return UNLABELLED
        return {path: label for path, label in pairs if type(label) is int and label >= 0}
    except (OSError, UserError) as cause:
        raise UserError(
            f"config.data.name={name!r}: its {TABLE} cannot be read ({one_line(cause)}): mend or "
            "remove it."
        ) from cause
    except (ValueError, TypeError, RecursionError) as cause:
        raise UserError(
            f"config.data.name={name!r}: its {TABLE} is not as StyleGAN's tools write it ({cause}):"
            ' make it {"labels": [["00000/img0.png", 6], ...]}, or remove it.'
        ) from None


def _from_table(paths: Sequence[str], labels: Mapping[str, int], name: str, classes: str) -> Layout:
    if labels is UNLABELLED:
        given, folders = np.zeros(len(paths), np.int64), [ONLY]
    else:
        given = _given(paths, labels, name)
        folders = [str(label) for label in range(int(given.max()) + 1)]
    order, names = ordered_classes(classes, folders, name)
    numbers = {folder: i for i, folder in enumerate(order)}
    given = np.array([numbers[folder] for folder in folders], np.int64)[given]
    spread = splits.spread([_key(path) for path in paths], given)
    return Layout({"train": spread}, {"train": given[spread]}, names, LeftOut())


def _given(paths: Sequence[str], labels: Mapping[str, int], name: str) -> np.ndarray:
    """Return the labels that a table gives images, int64 [N]."""
    lacking = [path for path in paths if path not in labels]
    if lacking:
        raise UserError(
            f"config.data.name={name!r}: its {TABLE} has no whole number of 0 or more for "
            f"{len(lacking):,} of {len(paths):,} images, such as {shown(lacking[0])}: complete it, "
            "or remove it, so that folders are classes."
        )
    if (highest := max(labels[path] for path in paths)) >= MOST_CLASSES:
        raise UserError(
            f"config.data.name={name!r}: its {TABLE} has the label {highest}; labels must be below "
            f"{MOST_CLASSES:,}."
        )
    return np.array([labels[path] for path in paths], np.int64)
