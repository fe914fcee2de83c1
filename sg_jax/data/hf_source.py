"""Data sets of Hugging Face, from a folder or from the hub: "hf:NAME". It needs the extra `hf`."""

import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from sg_jax.data import splits
from sg_jax.data.captions import KEYS, Captions, texts
from sg_jax.data.containers import read_file
from sg_jax.data.encoded import Encoded, with_shape
from sg_jax.data.images import WHITE
from sg_jax.data.layout import ONLY
from sg_jax.errors import SettingError, UserError, one_line, shown
from sg_jax.runs import files
from sg_jax.runs.progress import log

PREFIX = "hf:"
LEAST = 4  # the first version of `datasets` that runs no code of a data set
SAVED = ("dataset_dict.json", "state.json")  # one of which `save_to_disk` writes
_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*(:\w[\w.+-]*)?")  # OWNER/NAME:CONFIG


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class HfSource(Encoded):
    """A split of a data set of Hugging Face, whose tables are mapped into memory."""

    table: Any = dataclasses.field(repr=False)  # datasets.Dataset with files of images undecoded
    image: str = dataclasses.field(repr=False)  # names of columns
    label: str = dataclasses.field(repr=False)  # "": all have label 0
    labels: Mapping[Any, int] | None = dataclasses.field(repr=False)  # by value; None: as stored
    captions: Captions | None = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.table)

    def read(self, i: int) -> tuple[bytes, int]:
        try:
            row = self.table[i]
        except Exception as cause:  # a damaged table
            raise UserError(one_line(cause)) from cause
        stored = row[self.image]
        if not stored or not (stored["bytes"] or stored["path"]):
            raise UserError("it has no image")
        encoded = stored["bytes"] or read_file(stored["path"])
        value = row[self.label] if self.label else 0
        if value is None:
            raise UserError("it has no label")
        return encoded, self.labels[value] if self.labels is not None else int(value)

    def place(self, i: int) -> str:
        return f"example {i} of split {self.split!r}"


@dataclasses.dataclass(frozen=True)
class _Column:
    """The captions in a column."""

    table: Any
    key: str

    def __getitem__(self, i: int) -> tuple[str, ...]:
        try:
            return texts(self.table[i][self.key])
        except Exception as cause:  # a damaged table
            raise UserError(
                f"The captions of example {i}, in column {self.key!r}, cannot be read "
                f"({one_line(cause)}): mend them, or remove the column."
            ) from cause


def claims(name: str) -> bool:
    """Return whether a name begins with "hf:"."""
    return name.startswith(PREFIX)


def on_disk(name: str) -> bool:
    """Return whether a name is the path of a data set, so that nothing is downloaded."""
    return claims(name) and name != PREFIX and _path(name).exists()


def absolute(name: str) -> str:
    """Return a name that means the same data set in any folder."""
    return PREFIX + str(files.absolute(_path(name))) if on_disk(name) else name


def _path(name: str) -> pathlib.Path:
    return pathlib.Path(os.path.expanduser(name.removeprefix(PREFIX)))


def open_hf(
    name: str,
    split: str,
    data_dir: str | None = None,
    image_size: int | None = None,
    *,
    channels: int = 0,
    background: tuple[int, int, int] = WHITE,
) -> HfSource:
    """Open one split; see `data.sources.open_source`. `data_dir` is not used."""
    datasets = _library(name)
    tables = _tables(datasets, name)
    parts = splits.select(name, split, {key: len(table) for key, table in tables.items()})
    taken = {key: tables[key].features for key, ids in parts if len(ids)}
    features: dict[str, Any] = {}  # by column, of all splits, because some may lack labels
    for table in tables.values():
        features = {**table.features, **features}
    image = _column(name, features, datasets.Image, "image", required=True)
    label = _column(name, features, datasets.ClassLabel, "label") or next(
        (key for key in ("label", "labels") if key in features), ""
    )
    captioned = [key for key in KEYS if key != label and all(key in has for has in taken.values())]
    caption = captioned[0] if captioned else ""
    for key in (image, label) if label else (image,):
        _check_alike(datasets, name, split, key, features[key], taken)
    columns = [key for key in (image, label, caption) if key]
    chosen = [
        tables[key].select_columns(columns).select(range(ids[0], ids[-1] + 1))
        for key, ids in parts
        if len(ids)
    ]
    class_names, labels = _classes(datasets, name, label, features, list(tables.values()))
    try:
        whole = datasets.concatenate_datasets(chosen)
    except ValueError as cause:
        raise SettingError(
            "config.data",
            "split",
            split,
            f"joins splits of {name!r} whose columns have other types ({one_line(cause)}): cast "
            "them to the same, or give one split.",
        ) from cause
    if caption:
        log(f"{name}: column {caption!r} has captions.")
    source = HfSource(
        name=name,
        split=split,
        class_names=class_names,
        image_size=image_size,
        background=background,
        image_shape=(0, 0, 0),
        table=whole.cast_column(image, datasets.Image(decode=False)),
        image=image,
        label=label,
        labels=labels,
        captions=_Column(whole.select_columns([caption]), caption) if caption else None,
    )
    return with_shape(source, channels)


def _library(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"config.data.name={name!r} needs a package that is not installed: "
            "`pip install 'sg_jax[hf]'`, or `pip install datasets`."
        ) from None
    if int(datasets.__version__.partition(".")[0]) < LEAST:
        raise UserError(
            f"config.data.name={name!r} needs datasets {LEAST} or later, not "
            f"{datasets.__version__}, because older ones run a data set's own code: "
            "`pip install -U datasets`."
        )
    return datasets


def _tables(datasets: Any, name: str) -> dict[str, Any]:
    """Return all splits of a data set by name."""
    path = _path(name)
    try:
        if not on_disk(name):
            called = name.removeprefix(PREFIX)
            if not _ID.fullmatch(called):
                raise UserError(
                    f"config.data.name={shown(name)} must be hf:FOLDER, with an existing folder, "
                    "hf:OWNER/NAME or hf:OWNER/NAME:CONFIG."
                )
            log(f"{name}: downloading what is not in the Hugging Face cache ...")
            loaded = datasets.load_dataset(*called.split(":"))
        elif any((path / file).is_file() for file in SAVED):
            loaded = datasets.load_from_disk(str(path))
        else:
            loaded = datasets.load_dataset(str(path))
    except UserError:
        raise
    except Exception as cause:  # many kinds of errors, also from other packages
        raise UserError(
            f"config.data.name={shown(name)} cannot be opened ({one_line(cause)}): give the folder "
            "that save_to_disk wrote, or the OWNER/NAME of a data set on the hub, which needs "
            "a network connection, and for some `hf auth login`."
        ) from cause
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _column(
    name: str, features: Mapping[str, Any], kind: type, preferred: str, required: bool = False
) -> str:
    """Return the one column of a kind, or the preferred one of several; "" for none."""
    keys = [key for key, feature in features.items() if type(feature) is kind]
    if preferred in keys or len(keys) == 1:
        return preferred if preferred in keys else keys[0]
    if not keys and not required:
        return ""
    found = ", ".join(f"{key} ({type(f).__name__})" for key, f in features.items())
    if not keys:
        raise UserError(
            f"config.data.name={name!r} has no column of type {kind.__name__}; its columns are "
            f"{found}. If one holds the files of images, cast it, say with cast_column('image', "
            "datasets.Image()), and save the data set to a folder (save_to_disk)."
        )
    raise UserError(
        f"config.data.name={name!r} has {len(keys)} columns of type {kind.__name__}, but none is "
        f"called {preferred!r}; its columns are {found}. Rename the one to use "
        "(rename_column), and save the data set to a folder (save_to_disk)."
    )


def _check_alike(
    datasets: Any,
    name: str,
    split: str,
    column: str,
    feature: Any,
    taken: Mapping[str, Mapping[str, Any]],
) -> None:
    """Raise if a split lacks a column that others have, or numbers its classes otherwise.

    Args:
      datasets, name, split: see `open_hf`.
      column: the column.
      feature: its type, in the first split that has it.
      taken: the types of the columns of each split that is read.
    """
    for key, features in taken.items():
        if column not in features:
            why = f"lacks the column {column!r} of other splits: add it"
        elif features[column] != feature and isinstance(feature, datasets.ClassLabel):
            why = f"has other classes in column {column!r} than another split: cast it to the same"
        else:
            continue
        rule = f"reads split {key!r} of {name!r}, which {why}, or give another split."
        raise SettingError("config.data", "split", split, rule)


def _classes(
    datasets: Any, name: str, label: str, features: Mapping[str, Any], tables: list[Any]
) -> tuple[tuple[str, ...], Mapping[Any, int] | None]:
    """Return the names of the classes, and labels by stored value (None: labels are stored)."""
    if not label:
        return (ONLY,), None
    feature = features[label]
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names or map(str, range(feature.num_classes))), None
    columns = (table.unique(label) for table in tables if label in table.features)
    plain = isinstance(feature, datasets.Value)
    values = set(itertools.chain.from_iterable(columns)) - {None} if plain else set()
    if not plain or not all(isinstance(value, int | str) for value in values):
        raise UserError(
            f"config.data.name={name!r} has labels in column {label!r} that are neither names nor "
            "whole numbers: mend them, or rename the column to have no labels."
        )
    ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
    return tuple(map(str, ordered)), {value: i for i, value in enumerate(ordered)}
