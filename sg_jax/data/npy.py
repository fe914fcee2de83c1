"""Folders of .npy latents, read for `latents.write`. Pickles are never read."""

import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath

from sg_jax.errors import UserError, one_line
from sg_jax.runs import arrays, files
from sg_jax.runs.progress import Progress

ASKED = (8, 32)  # channels that may be twice those of an autoencoder
AHEAD = 1024  # files read at a time


def read_npy(
    folder: str, scale: float, posterior: str | None = None, shift: float = 0.0
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the examples for `write` from folders of .npy files, in the order of their numbers.

    Args:
      folder: contains one folder of features and one of labels; see `data.latents`.
      scale: factor for the files' latents; 1 if they are scaled already.
      posterior: what the second half of the channels holds, "std" or "logvar"; the first half is
        the mean. "none": all channels are latents. None: the same, unless there may be two halves.
      shift: subtracted from the files' latents, or their means, before they are scaled.

    Raises:
      UserError: the scale is not a valid factor, or the shift not finite; a folder or file is
        missing, is damaged or has another format.
    """
    if not 0 < scale < np.inf:
        raise UserError(f"--scale={scale} must be above 0 and finite: it multiplies all latents.")
    if not np.isfinite(shift):
        raise UserError(f"--shift={shift} must be finite: it is subtracted from all latents.")
    drawn = posterior not in (None, "none")
    root = pathlib.Path(files.path(folder))
    features, labels = (_numbered(root, kind) for kind in ("features", "labels"))
    if features.keys() != labels.keys():
        odd = min(features.keys() ^ labels.keys())
        raise UserError(f"--from {folder}: {odd}.npy must be among the features and the labels.")

    def load(number: int) -> tuple[np.ndarray, int]:
        path = features[number]
        array = _array(path)
        if array.ndim == 4 and len(array) == 1:
            array = array[0]
        if array.ndim != 3 or 0 in array.shape or (drawn and len(array) % 2):
            raise UserError(
                f"{path} must be [C, S, S] or [1, C, S, S], not {array.shape}; C must be even with "
                "--posterior."
            )
        if array.dtype.kind not in "fiu":
            bfloat16 = ", which is how such files hold bfloat16" if array.dtype == "V2" else ""
            raise UserError(
                f"{path} has values of type {array.dtype}{bfloat16}: save float32 or float16."
            )
        if posterior is None and len(array) in ASKED:
            raise UserError(
                f"{path} has {len(array)} channels, which may be latents of {len(array)} channels, "
                f"or means of {len(array) // 2} and their spread. Say which: "
                "--posterior none, --posterior std (standard deviations), or --posterior logvar "
                "(logarithms of variances)."
            )
        with np.errstate(over="ignore"):  # infinity is reported
            array = np.moveaxis(array.astype(np.float32), 0, -1)  # [S, S, C]
        if not np.isfinite(array).all():
            raise UserError(f"{path} has values that are not finite in float32.")
        if drawn:
            mean, std = np.split(array, 2, axis=-1)
            if posterior == "logvar":
                if std.min(initial=0) >= 0:
                    raise UserError(
                        f"{path}: none of these values is negative, so they look like standard "
                        "deviations, not log variances: use --posterior std."
                    )
                std = np.exp(0.5 * np.clip(std, -30, 20))
            array = np.stack([mean - np.float32(shift), std])  # [2, S, S, C]
        else:
            array = array - np.float32(shift)
        return array * np.float32(scale), _label(labels[number])

    numbers = sorted(features)
    progress = Progress(0, len(numbers), 1, unit="example")
    with ThreadPoolExecutor(16) as pool:
        for i in range(0, len(numbers), AHEAD):
            progress.sometimes(i)
            yield from pool.map(load, numbers[i : i + AHEAD])


def _array(path: pathlib.Path) -> np.ndarray:
    """Return the array of a .npy file, which takes no more memory than the file."""
    try:
        return arrays.from_npy(arrays.read_bytes(epath.Path(path)))
    except Exception as cause:  # damaged files raise many kinds of errors
        raise UserError(
            f"{path} cannot be read as an array of numbers ({one_line(cause)}): write it again, "
            "with numpy.save."
        ) from cause


def _label(path: pathlib.Path) -> int:
    array = _array(path)
    value = array.item() if array.size == 1 and array.dtype.kind in "biuf" else None
    if value is None or not np.isfinite(value) or value != int(value):
        found = value if value is not None else f"{array.dtype} {array.shape}"
        raise UserError(f"{path} must hold one whole number, the label, not {found}.")
    return int(value)


def _numbered(folder: pathlib.Path, kind: str) -> dict[int, pathlib.Path]:
    """Return the files 0.npy, 1.npy, ... of the one subfolder called *features or *labels."""
    try:
        found = [c for c in sorted(folder.iterdir()) if c.name.endswith(kind) and c.is_dir()]
        if len(found) != 1:
            there = ", ".join(path.name for path in found) or "none"
            raise UserError(
                f"--from {folder} must contain one folder *{kind}; it contains {there}."
            )
        numbered: dict[int, pathlib.Path] = {}
        for path in found[0].iterdir():
            if path.suffix == ".npy" and path.stem.isascii() and path.stem.isdecimal():
                if (other := numbered.setdefault(int(path.stem), path)) != path:
                    raise UserError(f"{path} and {other.name} have the same number: rename one.")
    except OSError as cause:
        raise UserError(f"--from {folder} cannot be read ({one_line(cause)}).") from cause
    if not numbered:
        raise UserError(f"{found[0]} contains no files 0.npy, 1.npy, ...")
    return numbered
