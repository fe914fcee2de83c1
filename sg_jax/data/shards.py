"""The files of a TFDS split: which there are, and whether they are as their folder says."""

import functools
import pathlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from sg_jax.data.prepare import remedy
from sg_jax.errors import SettingError, UserError, nearest, one_line
from sg_jax.runs import files

THREADS = 16  # that open files, which may be remote


def open_records(name: str, builder: Any, split: str, image_key: str | None) -> tuple[Any, list]:
    """Return TFDS's data source of a split, and what it reads from which files.

    Args:
      name: config.data.name.
      builder: of the prepared data set.
      split: a split or a slice of one.
      image_key: the feature whose encoded bytes are returned; None to decode everything.

    Raises:
      SettingError: there is no such split, or it is empty.
      UserError: the data set has no random access, its description is damaged, or a file is
        missing, damaged, or holds another number of examples than the description says.
    """
    import tensorflow_datasets as tfds

    splits = builder.info.splits
    there = ", ".join(f"{key} ({info.num_examples})" for key, info in splits.items())
    try:
        count = splits[split].num_examples
    except Exception as cause:
        whole = split.partition("[")[0]
        hint = "" if whole in splits else nearest(whole, splits)
        raise SettingError(
            "config.data",
            "split",
            split,
            f"is not a split of {name!r}, in {builder.data_dir} ({one_line(cause)}). There are: "
            f"{there or 'none'}, and slices such as 'train[:100]'.{hint}",
        ) from cause
    if not count:
        rule = f"of {name!r}, in {builder.data_dir}, is empty. There are: {there}."
        raise SettingError("config.data", "split", split, rule)
    decoders = {image_key: tfds.decode.SkipDecoding()} if image_key else None
    try:
        records = builder.as_data_source(split, decoders=decoders)
        # Only now, because as_data_source has just chosen one of several file formats.
        shards = builder.info.splits[split].file_instructions
    except NotImplementedError as cause:
        raise UserError(
            f"config.data.name={name!r} is prepared in {builder.data_dir} as "
            f"{builder.info.file_format.value}, which has no random access. Convert it (needs "
            f"tensorflow) with `tfds convert_format --dataset_version_dir={builder.data_dir} "
            f"--out_file_format=array_record`, or set another config.data.data_dir to prepare it "
            f"there as array_record."
        ) from cause
    except Exception as cause:
        raise UserError(
            f"config.data.name={name!r}: {epath.Path(builder.data_dir) / 'dataset_info.json'} is "
            f"damaged ({one_line(cause)}): {remedy('')}."
        ) from cause
    wrong_in = functools.partial(_wrong, epath.Path(builder.data_dir))
    with ThreadPoolExecutor(THREADS) as pool:
        for file, wrong in zip(shards, pool.map(wrong_in, shards), strict=True):
            if wrong:
                raise UserError(
                    f"config.data.name={name!r}: split {split!r} cannot be read from "
                    f"{file.filename} ({wrong}): {remedy(wrong)}."
                )
    return records, shards


def _wrong(folder: epath.Path, file: Any) -> str:
    """Return what is wrong with a file as a whole, or ""."""
    from array_record.python.array_record_module import ArrayRecordReader

    path = epath.Path(file.filename)
    if not path.is_relative_to(folder) or ".." in path.relative_to(folder).parts:
        return "which dataset_info.json puts outside its folder"
    try:
        if not path.exists():
            return "the file is missing"
        # For epath, anything but a folder is a file, even a pipe, which waits for a writer.
        if not files.is_remote(path) and not pathlib.Path(path).is_file():
            return "it is not a regular file"
        # Opened as the data source opens it; only its index is read.
        reader = ArrayRecordReader(
            str(path), options="readahead_buffer_size:0", file_reader_buffer_size=32768
        )
        found = reader.num_records()
        reader.close()
    except Exception as cause:
        return one_line(cause)
    expected = file.examples_in_shard
    if found != expected:
        return f"it holds {found} examples, but dataset_info.json says {expected}"
    return ""
