"""Data sets that need no download: they are prepared on first use, from what is installed.

To add one, write a TFDS builder in a file of its own, such as `data.digits`, and add a row to
`BUILDERS`.
"""

import importlib
import pathlib
from typing import Any

from sg_jax.data import partial
from sg_jax.runs import files

BUILDERS = {
    "digits": "sg_jax.data.digits:Digits",
    "shapes": "sg_jax.data.shapes:Shapes",
    "emoji": "sg_jax.data.emoji:Emoji",
}
# The credit in pictures that show a data set, or what a network has learned from it.
CREDITS = {"emoji": "Emoji: OpenMoji, CC BY-SA 4.0"}


def builder(name: str, root: Any) -> Any:
    """Return the TFDS builder of one of `BUILDERS`, for a folder of data sets."""
    module, _, kind = BUILDERS[name].partition(":")
    return getattr(importlib.import_module(module), kind)(data_dir=root)


def prepare(name: str, root: Any) -> None:
    """Prepare one of `BUILDERS` in ArrayRecord, in a folder of data sets."""
    place = files.path(builder(name, root).data_dir)
    # Not in TFDS's own temporary folder, which a killed process would leave behind.
    with partial.folder(pathlib.Path(root), name) as made:
        inside = builder(name, made)
        inside.download_and_prepare(file_format="array_record")
        place.parent.mkdir(exist_ok=True)
        files.path(inside.data_dir).rename(place)
