"""Data: sources by name, batches of a step, pixels to floats and back."""

from sg_jax.data.images import to_float, to_uint8
from sg_jax.data.pipeline import all_images, seek, train_iterator
from sg_jax.data.sources import Source, open_source

__all__ = [
    "Source",
    "all_images",
    "open_source",
    "seek",
    "to_float",
    "to_uint8",
    "train_iterator",
]
