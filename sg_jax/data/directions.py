"""Directions of attribute control: what one is, and its file (see `method.control`)."""

import dataclasses
import io
import os
from typing import Any

import numpy as np
from etils import epath

from sg_jax.errors import UserError, one_line, shown
from sg_jax.runs import arrays, files

UNIT = "1: the difference between the positive and the negative prompt"


@dataclasses.dataclass(frozen=True, eq=False)
class Direction:
    """What is added to a subject's text tokens, times a scale.

    Attributes:
      values: d, float32 [D].
      attribute: its name, such as "size".
      network: the fingerprint of the network's text layers, whose tokens it moves.
      encoder: the fingerprint of the frozen encoder before them; "" for bytes, or if not known.
      method: "difference" or "learned".
      prompts: its triples of prompts: neutral, positive, negative, with the subject in braces.
      unit: what a scale of 1 means.
    """

    values: np.ndarray
    attribute: str
    network: str
    encoder: str
    method: str
    prompts: tuple[tuple[str, str, str], ...]
    unit: str = UNIT

    def save(self, path: str | os.PathLike) -> epath.Path:
        """Write it to an .npz file, whole or not at all; return its path."""
        content = io.BytesIO()
        texts: dict[str, Any] = {
            name: np.array(getattr(self, name)) for name in ("attribute", *_TEXTS)
        }
        prompts = np.array(self.prompts, str).reshape(-1, 3)
        np.savez(content, direction=self.values, prompts=prompts, **texts)
        return files.write_atomically(path, content.getvalue())


_TEXTS = ("network", "encoder", "method", "unit")


def load(path: Any, name: str = "direction") -> Direction:
    """Read a direction from the file that `Direction.save` wrote.

    Args:
      path: the file.
      name: of the argument, for messages.

    Raises:
      UserError: there is no such file, or it does not hold a direction.
    """
    given = f"{name}={shown(os.fspath(path) if isinstance(path, os.PathLike) else path)}"
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{given} must be a direction, or a file of one.")
    try:
        found = arrays.from_npz(arrays.read_bytes(files.path(path)))
    except OSError as cause:
        raise UserError(
            f"{given} cannot be read ({one_line(cause)}): give a file that `--mode control` wrote."
        ) from None
    except Exception as cause:  # damaged files raise many kinds of errors
        raise UserError(
            f"{given} is damaged, or is not a direction file ({one_line(cause)}): `--mode "
            "control` writes one."
        ) from None
    missing = {"direction", "attribute", "prompts", *_TEXTS} - set(found)
    if missing:
        raise UserError(
            f"{given} has no {', '.join(sorted(missing))}, so it is not a direction file: "
            "`--mode control` writes one."
        )
    values, prompts = found["direction"], found["prompts"]
    fits = values.dtype == np.float32 and values.ndim == 1 and np.isfinite(values).all()
    if not fits or prompts.ndim != 2 or prompts.shape[1] != 3:
        raise UserError(
            f"{given} has a direction of {values.dtype} {list(values.shape)} and prompts "
            f"{list(prompts.shape)}; they must be finite float32 [D] and texts [P, 3]."
        )
    triples = tuple((str(a), str(b), str(c)) for a, b, c in prompts)
    texts = {key: str(found[key]) for key in ("attribute", *_TEXTS)}
    return Direction(values, prompts=triples, **texts)
