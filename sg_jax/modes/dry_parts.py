"""What the lines of a dry run are made of: sizes, durations, the data and the autoencoder."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from sg_jax.costs import autoencoders
from sg_jax.costs.machines import Machine, speed, words
from sg_jax.data.expected import Expected, look
from sg_jax.data.sources import options_of
from sg_jax.encoders.autoencoder import Autoencoder
from sg_jax.modes.base import Job
from sg_jax.programs.memory import text
from sg_jax.weights import autoencoder_shapes, decoders

Lines = Iterator[tuple[str, str]]  # "read", "compute", "time", "write" or "note", and the text


def gflops(work: float) -> str:
    """Return FLOPs as GFLOPs, such as "66,061 GFLOPs"."""
    return f"{number(work / 1e9)} GFLOPs"


def in_type(dtype: str, on: Machine) -> str:
    """Return in words what type an autoencoder computes in, and what that costs if it is wide."""
    peak = on.peak(dtype, exact=True)
    return f"in {dtype}" + ("" if peak == on.peak() else f" (at most {speed(peak)} a chip)")


def lasting(seconds: float, on: Machine, more: str) -> tuple[str, str]:
    """Return the line about a duration that follows from FLOPs; `more` says what it covers."""
    return "time", f"{words(seconds)} ({more}), on {on}"


def number(value: float) -> str:
    """Return a rate with three digits, or with all digits before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def data_of(job: Job, **changes: Any) -> Expected:
    """Return what is known of the data set of a job's config.

    Args:
      job: its section config.data is used.
      changes: arguments of `sources.open_source` that differ.
    """
    assert job.config is not None
    data = job.config.data
    return look(**{"name": data.name, "split": data.split, **options_of(data), **changes})


def examples_of(found: Expected) -> str:
    """Return in words how many examples a data set has."""
    named = f"{found.name}, {found.split}"
    if not found.examples:
        return f"{named}: it is not here, so its number of examples is unknown"
    size = f", {text(found.size)}" if found.size else ""
    published = "" if found.here else ", as published: it is not here"
    return f"{found.examples:,} examples of {named}{size}{published}"


class Decoder:
    """What decodes the images that a job draws, if it draws latents.

    Args:
      job: with its experiment.

    Attributes:
      latents: whether the network draws latents.
      found: the autoencoder, perhaps with shapes for weights; None if none is needed or known.
      missing: why it is not known.
    """

    def __init__(self, job: Job):
        model, config = job.experiment.model, job.experiment.config
        source = job.source or data_of(job).source
        self.latents = source.latents if source is not None else model.channels not in (1, 3)
        self.dtype = config.autoencoder.dtype
        self.found: Autoencoder | None = None
        self.missing, side = "", model.image_size
        if self.latents:
            try:
                self.found = autoencoder_shapes.find(config, source)
            except decoders.Missing as missing:
                self.missing = str(missing)
        factor = self.found.factor if self.found else 1
        channels = 3 if self.found else model.channels
        self.shape = (side * factor, side * factor, channels)
        self.work = autoencoders.decoding(self.found, *self.shape[:2]) if self.found else 0.0

    @property
    def bytes(self) -> int:
        """Bytes of a drawn image: uint8 pixels, or float32 latents."""
        return math.prod(self.shape) * (4 if self.latents and not self.found else 1)

    def seconds(self, count: int, on: Machine) -> float:
        """Return the seconds that decoding `count` images takes."""
        return count * self.work / on.rate(self.dtype, exact=True)

    def lines(self, on: Machine) -> Lines:
        """Yield what decoding costs."""
        if self.found:
            yield (
                "compute",
                f"{gflops(self.work)} per image: decoding {in_type(self.dtype, on)}, by "
                f"{self.found.name}",
            )
        elif self.missing:
            yield "note", f"decoding is left out. {self.missing}"


def per_image(costs: Iterable[float]) -> str:
    """Return one cost, or the range of several."""
    low, high = min(found := list(costs)), max(found)
    return gflops(low) if low == high else f"{gflops(low)} to {gflops(high)}"
