"""What `--mode latents` does with captions: features of a frozen encoder, along with the images."""

from collections.abc import Mapping
from typing import Any

from sg_jax.config.sections import Config
from sg_jax.data import captions, wording
from sg_jax.data.sources import Source
from sg_jax.encoders.text import BYTES, TextEncoder
from sg_jax.errors import UserError
from sg_jax.runs.progress import log
from sg_jax.weights import text_encoders

ENOUGH = 1000  # captions that are read to see how many are cut


def encoder(config: Config, source: Source) -> TextEncoder | None:
    """Return the encoder of the captions, None if only the captions are stored.

    Raises:
      UserError: there are no captions, or an image lacks one; or the encoder cannot be loaded.
    """
    text = config.text
    if text.encoder == BYTES:
        return None
    if captions.of(source) is None:
        raise UserError(
            f"config.data.name={source.name!r} has no captions, but "
            f"config.text.encoder={text.encoder!r} needs some to encode: {wording.REMEDY}."
        )
    seen = wording.look(wording.Worded(source, features=False))
    found = text_encoders.load(text)
    some = [caption for of_image in seen for caption in of_image][:ENOUGH]
    if cut := sum(found.cut(some)):
        log(
            f"config.text.length={text.length} cuts {cut:,} of {len(some):,} captions that were "
            "looked at."
        )
    return found


def mirrors(given: Mapping[str, Any], text: bool) -> bool:
    """Return whether each image's mirror image follows.

    With text features it does not by default, because captions of mirror images may be wrong.
    """
    return given["mirror"] == "yes" if given["mirror"] else not text
