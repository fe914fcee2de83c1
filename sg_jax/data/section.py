"""The settings in config.data."""

import dataclasses

from sg_jax.data.images import MOST_SIDE, colour
from sg_jax.data.sources import DAMAGED
from sg_jax.data.workers import MOST_THREADS, MOST_WORKERS
from sg_jax.errors import ALWAYS, CONTINUED, Settings, UserError, setting


def _channels(value: object) -> str:
    return "" if type(value) is int and value in (0, 1, 3) else "must be 0, 1 or 3."


def _colour(value: object) -> str:
    try:
        colour(value)  # type: ignore[arg-type]
    except UserError as error:
        return "must" + str(error).rpartition(" must")[2]
    return ""


@dataclasses.dataclass(frozen=True)
class Data(Settings):
    """The data set, and how to read it."""

    SECTION = "config.data"

    name: str = setting(
        "digits",
        '"digits", "shapes", "emoji", a TFDS name, latents, "hf:NAME", "wds:FOLDER", or a folder, '
        ".zip or .tar of images",
        fixed=ALWAYS,
    )
    data_dir: str = setting("", "folder of prepared data sets; empty: TFDS's own ($TFDS_DATA_DIR)")
    split: str = setting("train", "the split to train on", fixed=CONTINUED)
    test_split: str = setting("test", "the split that the feature network is tested on")
    image_size: int = setting(
        0,
        "side to resize and crop images to; 0: as stored",
        low=0,
        high=MOST_SIDE,
        fixed=ALWAYS,
    )
    channels: int = setting(
        0, "1: grey, 3: colour, 0: as the data set says, or colour", rule=_channels
    )
    background: str = setting(
        "white",
        'colour behind transparent pixels, such as "#808080"',
        rule=_colour,
        fixed=("continued", "scored"),
    )
    classes: str = setting("", "file with the names of the classes of a folder or archive")
    aesthetics: float = setting(
        0.0, "lowest score of an image in WebDataset tars; 0: all", fixed=CONTINUED
    )
    damaged: str = setting(
        "stop", "what to do about an example that cannot be read", options=DAMAGED
    )
    flip: bool = setting(False, "mirror half of the images (not latents)", fixed=CONTINUED)
    workers: int = setting(
        0, "processes that read; 0: threads of this process", low=0, high=MOST_WORKERS
    )
    threads: int = setting(
        4, "threads that prepare batches, in each process", low=0, high=MOST_THREADS
    )
