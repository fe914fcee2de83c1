"""What a data set is, in a few values, so that a run recognises its data.

They do not change with the folder, the machine, or how the examples are divided into files. For a
large data set they cover only some examples, so that a run starts quickly: a difference elsewhere
goes unnoticed if the number of examples is the same.
"""

import hashlib
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from sg_jax.data import origin, wording
from sg_jax.data.sources import Source
from sg_jax.encoders.text import Text
from sg_jax.errors import UserError

ALL, SOME = 2048, 512  # up to ALL examples, each is read; of more, only SOME are
SMALL = 2**24  # above this many numbers in all images, only SOME are read too
THREADS = 16
Identity = Mapping[str, Any]  # values of JSON, by what they describe


def of(source: Source, text: Text | None = None, damaged: bool = False) -> Identity:
    """Return what identifies the examples of a source and their order.

    It takes tenths of a second for images on a local disk. Of a source that leaves out damaged
    examples, "whole" is what identifies all of them, as far as they can be read.

    Args:
      source: the examples.
      text: the section `config.text` of a text network, for which texts are identified too.
      damaged: whether an example that cannot be read is no error.
    """
    count = len(source)
    small = count <= ALL and count * math.prod(source.image_shape) <= SMALL
    some = count if small else min(count, SOME)
    # The first, the last, and evenly spread ones between.
    ids = [i * (count - 1) // max(1, some - 1) for i in range(some)]
    images, labels = hashlib.sha256(), hashlib.sha256()
    maker = origin.maker_of(source)
    with ThreadPoolExecutor(THREADS) as pool:
        for image, label in pool.map(lambda i: _identify(source, i, damaged), ids):
            images.update(hashlib.sha256(image).digest())
            labels.update(f"{label},".encode())
    return {
        "examples": count,
        "image_shape": list(source.image_shape),
        "latents": source.latents,
        "posterior": source.posterior,
        "classes": source.num_classes,
        "checked": some,
        "images": images.hexdigest()[:16],
        "labels": labels.hexdigest()[:16],
        **({origin.ENTRY: maker.record()} if maker else {}),
        **(wording.identity(text, source) if text else {}),
        **_whole(source),
    }


def _whole(source: Any) -> Identity:
    """Return what identifies a source before damaged examples were left out; {} if none were."""
    whole = getattr(source, "whole", None)
    return {} if whole is None else {"whole": of(whole, damaged=True)}


def differences(saved: Identity, found: Identity) -> str:
    """Return what differs, such as "examples 1,000 instead of 900", or "" if nothing does.

    Values that only one of the two has, because another version wrote it, are not compared. A data
    set of which other examples are left out, because they are damaged, is the same one.
    """
    text = _differences(saved, found)
    if not text or "whole" not in found:
        return text
    before = saved.get("whole")
    before = before if isinstance(before, dict) else {}
    return _differences({**saved, **before}, {**found, **found["whole"]})


def _differences(saved: Identity, found: Identity) -> str:
    saved, found = _compared(saved), _compared(found)
    keys = [k for k in found if k in saved and k != "whole" and found[k] != saved[k]]
    plain = [f"{key} {_text(found[key])} instead of {_text(saved[key])}" for key in keys[:4]]
    hashed = {"images": "other images", "labels": "other labels", "captions": "other captions"}
    hashed[origin.ENTRY] = "another autoencoder"
    if not set(keys) - set(hashed):
        return " and ".join(hashed[key] for key in keys)
    return ", ".join(plain)


def _compared(values: Identity) -> Identity:
    """Return what is compared: of an autoencoder its weights and its numbers, but not its name."""
    made = values.get(origin.ENTRY)
    if not isinstance(made, Mapping):
        return values
    numbers = {key: made[key] for key in ("scale", "shift", "factor") if key in made}
    return {**values, origin.ENTRY: made.get("fingerprint"), **numbers}


def _text(value: Any) -> str:
    return f"{value:,}" if type(value) is int else str(value)


def _identify(source: Any, i: int, damaged: bool) -> tuple[bytes, int]:
    if hasattr(source, "identify"):
        try:
            return source.identify(i)
        except UserError:
            if not damaged:
                raise
            return b"", -1
    example = source[i]
    arrays = [np.ascontiguousarray(example[key]) for key in ("image", "std") if key in example]
    return b"".join(array.tobytes() for array in arrays), int(example["label"])
