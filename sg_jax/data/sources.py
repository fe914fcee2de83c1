"""Data sets by name: what a source of examples is, which kinds exist, and how to open one.

config.data.name -> the first of KINDS that claims it -> its Source -> batches, in data.pipeline.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from sg_jax.data import hf_source, pictures, tfds_source, web_shards
from sg_jax.data.checks import fault
from sg_jax.data.images import MOST_SIDE, colour
from sg_jax.data.prepare import UnknownName
from sg_jax.data.skipping import without_captions, without_damaged
from sg_jax.errors import SettingError, UserError
from sg_jax.runs import files


class Source(Protocol):
    """One split of a data set: its examples by index, and what they have in common.

    `source[i]` is {"image": uint8 [H, W, C], "label": int} for 0 <= i < len(source). For latents,
    "image" is float16 or float32; with `posterior` it is the mean of the normal distribution that
    latents are drawn from, and "std" [H, W, C] its standard deviation.

    Examples can be read in any order, by several threads at once, and by other processes, so a
    source can be pickled. An unreadable example raises a UserError that names its file. Latents
    that are not finite and labels out of range are found by `data.checks`.

    `source.identify(i)` may return bytes that are the same for this example on every machine, and
    its label; without it, `data.identity` takes the pixels. `source.file_of(i)` may return the file
    that holds an example, for messages, and `source.version()` bytes that change with what is read.
    `source.origin` may say how latents were made; see `data.origin`. `source.captions[i]` may be
    the captions of an example, as texts; `source.captions` is None if a data set has none.

    To add a kind of data set:

    1. Write a class with the members below, in a file of its own, such as `data.tfds_source`.
       `data.images.decode` turns a file of any mode and size into the pixels of an example.
    2. Write the function that opens it, as `Kind.open` describes.
    3. Add a row to `KINDS`, before the last one, which claims every name.
    """

    @property
    def name(self) -> str:
        """The config.data.name that opened it."""

    @property
    def split(self) -> str:
        """config.data.split."""

    @property
    def num_classes(self) -> int:
        """Labels are 0 to num_classes - 1."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """H, W and C of every example."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name for each label."""

    @property
    def latents(self) -> bool:
        """Whether "image" contains latents instead of pixels."""

    @property
    def posterior(self) -> bool:
        """Whether latents are drawn from the distribution of "image" and "std"."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of data set: what its names look like, and the function that opens one.

    Args:
      text: what its names look like and stand for, in one line for error messages.
      claims: whether a name belongs to this kind, judged only by how it looks.
      open: called with name, split, data_dir and image_size (None: as stored), as `open_source`
        describes them. It raises a UserError, with the key and what is allowed, for whatever can be
        checked before training: an unknown name, images that differ in size without an image_size,
        a file that is missing or damaged. For a missing split it raises a SettingError.
      options: the arguments of `open_source` that `open` takes too, out of "channels", "background"
        (red, green and blue), "classes" and "aesthetics".
      absolute: returns a name that means the same in any folder.
    """

    text: str
    claims: Callable[[str], bool]
    open: Callable[..., Source]
    options: tuple[str, ...] = ()
    absolute: Callable[[str], str] = str


KINDS = [
    Kind(
        "hf:FOLDER or hf:OWNER/NAME: a Hugging Face data set",
        hf_source.claims,
        hf_source.open_hf,
        options=("channels", "background"),
        absolute=hf_source.absolute,
    ),
    Kind(
        "wds:FOLDER or wds:FOLDER@TIMES,...: WebDataset tars, each image with .txt or .json",
        web_shards.claims,
        web_shards.open_shards,
        options=("channels", "background", "aesthetics"),
        absolute=web_shards.absolute,
    ),
    Kind(
        "a path such as ./photos or photos.zip: a folder, .zip or .tar of CLASS/*.jpg or "
        "SPLIT/CLASS/*.jpg",
        pictures.claims,
        pictures.open_pictures,
        options=("channels", "background", "classes"),
        absolute=lambda name: str(files.absolute(name)),
    ),
    Kind(
        "NAME, NAME/CONFIG or NAME:VERSION: a data set of TFDS, 'digits', 'shapes', 'emoji', or "
        "written latents",
        lambda name: True,
        tfds_source.open_tfds,
        options=("channels", "background"),
    ),
]
DAMAGED = ("stop", "skip")  # config.data.damaged


def kind_of(name: str) -> Kind:
    """Return the kind that a name belongs to."""
    return next(kind for kind in KINDS if kind.claims(name))


def options_of(data: Any, all_damaged: bool = False) -> dict[str, Any]:
    """Return what the section config.data says about opening any of its splits.

    Args:
      data: the section.
      all_damaged: open the data set as it is, since everything damaged will be named.
    """
    names = ("data_dir", "image_size", "channels", "background", "classes", "aesthetics", "damaged")
    options = {name: getattr(data, name) for name in names}
    return options | (dict(damaged="stop", tried=False) if all_damaged else {})


def open_source(
    name: str,
    split: str,
    data_dir: str | None = None,
    image_size: int | None = None,
    key: str = "split",
    *,
    channels: int = 0,
    background: str = "white",
    classes: str = "",
    aesthetics: float = 0.0,
    damaged: str = "stop",
    tried: bool = True,
    captioned: bool = False,
) -> Source:
    """Open one split of a data set, after preparing it if that is needed and possible.

    Args:
      name: one of `embedded.BUILDERS` (prepared on first use, without network), any TFDS name, or
        what another of `KINDS` claims.
      split: a split or a slice of one in TFDS's notation: "train", "train[:100]", "train+test".
      data_dir: folder of prepared data sets; None or "" for TFDS's own ($TFDS_DATA_DIR or
        ~/tensorflow_datasets).
      image_size: side in pixels to which images are resized and centre-cropped as in ADM; None or 0
        leaves them as stored.
      key: the key of config.data that gave the split, for messages: "split" or "test_split".
      channels: 1 for grey, 3 for colour; 0 for what the data set says, or else colour.
      background: the colour under what is transparent, see `images.colour`.
      classes: file with the names of the classes, see `data.class_file`; "" for none.
      aesthetics: least score of an image in WebDataset tars; 0: all are taken.
      damaged: "stop", so that reading a damaged example is an error, or "skip": all are read now,
        and unreadable ones are left out.
      captioned: whether captions are needed, so that "skip" also leaves out examples without one.
      tried: whether one example is read, which finds most faults.

    Raises:
      UserError: the name, split or size is unknown; the data set is not prepared or has no image or
        label; or a file is missing or damaged.
    """
    if not name:
        raise UserError(
            "config.data.name is empty: name a data set, such as --config.data.name=digits."
        )
    if image_size and not 0 < image_size <= MOST_SIDE:
        raise UserError(
            f"config.data.image_size={image_size} must be positive and at most {MOST_SIDE}, or 0 "
            "to keep images as stored."
        )
    kind = kind_of(name)
    given = dict(channels=channels, background=background, classes=classes, aesthetics=aesthetics)
    defaults = dict(channels=0, background="white", classes="", aesthetics=0.0)
    for option in given.keys() - set(kind.options):
        if given[option] != defaults[option]:
            rule = f"has no effect on config.data.name={name!r}: leave it at {defaults[option]!r}."
            raise SettingError("config.data", option, given[option], rule)
    try:
        taken: dict[str, Any] = {option: given[option] for option in kind.options}
        if "background" in taken:
            taken["background"] = colour(background)
        source = kind.open(name, split, data_dir or None, image_size or None, **taken)
    except UnknownName as error:
        others = [f" Or: {other.text}." for other in KINDS if other is not kind]
        raise UserError(f"{error}{''.join(others)}") from None
    except SettingError as error:
        named = key if error.name == "split" else error.name
        raise SettingError("config.data", named, error.value, error.rule) from None
    if damaged == "skip":
        source = without_damaged(source)
        source = without_captions(source) if captioned else source
    if tried and (
        wrong := fault(source[0], source)
    ):  # one example is decoded before any other work
        raise UserError(f"config.data.name={name!r}: example 0 of split {split!r} {wrong}.")
    return source
