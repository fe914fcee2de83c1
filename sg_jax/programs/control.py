"""Attribute control at sampling time: directions on subjects of prompts, as shifts of text tokens.

`method.control` explains what a direction is, and `programs.directions` finds one.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sg_jax.data import directions, subjects
from sg_jax.data.directions import Direction
from sg_jax.data.subjects import Marked
from sg_jax.errors import FLOAT32, UserError, is_number, plain, shown
from sg_jax.models.encoding import bytes_read, word_spans
from sg_jax.models.text import Text
from sg_jax.parallel import processes

Entry = tuple[Any, str | os.PathLike | Direction, Any]  # subject, direction, scale
PART = 1000  # prompts to check at a time
EXAMPLE = "[('circle', 'size.npz', 1.5)]"


def fingerprint(conditioning: Text) -> str:
    """Return 16 hex digits that identify the layers that make a network's text tokens."""
    digest = hashlib.sha256()
    for value in jax.tree.leaves(conditioning):
        array = processes.to_host(value)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True, eq=False)
class Moved:
    """One direction on one subject of each prompt.

    Attributes:
      values: d [D].
      subjects: where each of B prompts names its subject.
      scales: float32 [B].
    """

    values: np.ndarray
    subjects: Sequence[Marked]
    scales: np.ndarray


class Control:
    """What `sample(..., control=...)` adds to conditions.

    Args:
      conditioning: of the network.
      asked: triples of a subject, a direction or its file, and a scale; see `sampling.sample`.
      texts: the prompts; None if only their features are known.
      encoder: the frozen encoder of a network of features.

    Raises:
      UserError: an entry is wrong, a direction belongs to another network, or a prompt does not
        have its subject.
    """

    def __init__(self, conditioning: Any, asked: Any, texts: Any = None, encoder: Any = None):
        self._moved: list[Moved] = []
        self._conditioning, self._encoder = conditioning, encoder
        whole = isinstance(asked, list | tuple)
        if not whole or not all(isinstance(one, list | tuple) and len(one) == 3 for one in asked):
            raise UserError(
                f"control={shown(asked)} must be a list of (subject, direction, scale), such as "
                f"{EXAMPLE}."
            )
        if not asked:
            return
        if not isinstance(conditioning, Text):
            raise UserError(
                f"control={shown(asked)} moves words of prompts, but the network's conditions are "
                f"{conditioning.kind}."
            )
        known = isinstance(texts, Sequence) and not isinstance(texts, str)
        if not known or not all(isinstance(text, str) for text in texts) or not any(texts):
            raise UserError(
                "control finds its subjects in the texts of prompts, but there are only features: "
                "give texts, and text_encoder."
            )
        if conditioning.features and encoder is None:
            raise UserError(
                "control needs the encoder of the features, to find the tokens of a subject: "
                "give text_encoder."
            )
        own = fingerprint(conditioning)
        for n, entry in enumerate(asked):
            moved = self._checked(f"control[{n}]", entry, texts, own)
            if moved.scales.any():
                self._moved.append(moved)

    def _checked(self, name: str, entry: Any, texts: Sequence[str], own: str) -> Moved:
        subject, direction, scale = entry
        if not isinstance(direction, Direction):
            direction = directions.load(direction, f"{name}'s direction")
        check(direction, self._conditioning, own, self._encoder, name)
        names = _each(subject, len(texts))
        if names is None or not all(isinstance(each, str | Marked) for each in names):
            raise UserError(
                f"{name}'s subject {shown(subject)} must be a text, such as 'circle', or one for "
                f"each of {len(texts)} prompts."
            )
        numbers = _each(plain(scale), len(texts))
        if numbers is None or not all(is_number(s) and abs(s) <= FLOAT32 for s in numbers):
            raise UserError(
                f"{name}'s scale {shown(scale)} must be a number, or one for each of {len(texts)} "
                "prompts."
            )
        found = [
            each if isinstance(each, Marked) else subjects.find(text, each, f"{name}: prompts[{i}]")
            for i, (text, each) in enumerate(zip(texts, names, strict=True))
        ]
        for first in range(0, len(found), PART):  # so that a cut-off subject is reported now
            places_of(self._conditioning, found[first : first + PART], self._encoder)
        return Moved(direction.values, found, np.array(numbers, np.float32))

    @property
    def acts(self) -> bool:
        """Whether any token is moved."""
        return bool(self._moved)

    def shift(self, part: slice) -> np.ndarray:
        """Return what is added to the text tokens of a slice of the prompts, float32 [b, T, D]."""
        total: Any = 0.0
        for moved in self._moved:
            places = places_of(self._conditioning, moved.subjects[part], self._encoder)
            amount = moved.scales[part, None] * moved.values  # [b, D]
            total = total + places[:, :, None] * amount[:, None, :]
        return np.asarray(total, np.float32)


def _each(value: Any, count: int) -> Sequence[Any] | None:
    """Return a value for each of `count` prompts; None if a list has a different length."""
    if not isinstance(value, list | tuple):
        return [value] * count
    return value if len(value) == count else None


def check(
    direction: Direction, conditioning: Any, own: str, encoder: Any = None, name: str = "direction"
) -> None:
    """Raise unless a direction belongs to a network.

    Args:
      direction: the direction.
      conditioning: of the network.
      own: its fingerprint.
      encoder: the frozen encoder that makes its features.
      name: of the argument, for messages.
    """
    of_encoder = encoder.fingerprint() if encoder is not None else ""
    other = direction.encoder and of_encoder and direction.encoder != of_encoder
    if direction.network != own or len(direction.values) != conditioning.width or other:
        found, wanted = direction.network, own
        if direction.network == own and other:
            found, wanted = direction.encoder, of_encoder
        raise UserError(
            f"{name}: the direction of {direction.attribute!r} was found in another network, or in "
            f"another checkpoint of it ({found}, not {wanted}): find it in this one by `--mode "
            "control`."
        )


def check_weak(conditioning: Text, weak: Text) -> None:
    """Raise unless the text tokens of the weak prediction's network can be moved alike."""
    if weak.width != conditioning.width:
        raise UserError(
            f"control moves text tokens of width {conditioning.width}, but those of the network "
            f"that makes the weak prediction have width {weak.width}: choose guidance by a network "
            "of the same width, such as an earlier checkpoint."
        )


def places_of(conditioning: Text, prompts: Sequence[Marked], encoder: Any = None) -> np.ndarray:
    """Return which text tokens are those of the prompts' subjects, bool [B, T].

    Args:
      conditioning: of the network.
      prompts: the prompts, with their subjects marked.
      encoder: the frozen encoder of a network of features.

    Raises:
      UserError: a subject lies beyond the tokens that the network reads.
    """
    places = np.zeros((len(prompts), conditioning.tokens), bool)
    if conditioning.features:
        spans = encoder.spans([p.text for p in prompts])
        ends = [(p.first, p.last) for p in prompts]
    else:
        spans = [_own_spans(conditioning, p.text) for p in prompts]
        ends = [(_bytes(p.text[: p.first]), _bytes(p.text[: p.last])) for p in prompts]
    for row, (prompt, (first, last)) in enumerate(zip(prompts, ends, strict=True)):
        inside = [n for n, (a, b) in enumerate(spans[row]) if a < last and b > first]
        if not inside or spans[row][inside[-1]][1] < last:
            raise UserError(
                f"The subject {prompt.subject!r} of {shown(prompt.text[:80])} lies beyond the "
                f"{conditioning.most} that the network reads: put it nearer the beginning."
            )
        places[row, inside] = True
    return places


def _bytes(text: str) -> int:
    return len(text.encode(errors="replace"))


def _own_spans(conditioning: Text, text: str) -> list[tuple[int, int]]:
    """Return where the tokens of a text of bytes begin and end, in bytes."""
    read, _ = bytes_read(text, conditioning.length, conditioning.most_words)
    return word_spans(read) if conditioning.most_words else [(n, n + 1) for n in range(len(read))]
