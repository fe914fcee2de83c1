"""The labels or prompts given to `sample`, as the conditions of its batches."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sg_jax.data import asked
from sg_jax.data.asked import Asked
from sg_jax.data.wording import Wording
from sg_jax.encoders.text import TextEncoder
from sg_jax.errors import UserError, shown
from sg_jax.method.network import Condition
from sg_jax.models.text import Text
from sg_jax.programs.control import Control, check_weak

Wanted = Sequence[int] | Sequence[str] | np.ndarray | Mapping[str, np.ndarray] | Asked


def count_of(wanted: Any) -> int:
    """Return how many images are asked for, before anything is read."""
    if isinstance(wanted, Mapping):
        wanted = next(iter(wanted.values()), ())
    try:
        return max(len(wanted), 1)
    except TypeError:  # a single one
        return 1
    except OverflowError:  # of a range
        return sys.maxsize


class Conditions:
    """The conditions that are asked for: checked right away, or batch by batch when each is due.

    Args:
      conditioning: of the network.
      wanted: see `sampling.sample`.
      encoder: encodes texts, a batch at a time.
      control: directions on subjects; see `sampling.sample`.
      trained_with: fingerprint of the encoder that the network was trained with; "" if not known.

    Raises:
      UserError: they are not conditions of this network.
    """

    def __init__(
        self,
        conditioning: Any,
        wanted: Any,
        encoder: Any = None,
        control: Any = (),
        trained_with: str = "",
    ):
        self._conditioning, self._later, self._whole = conditioning, None, None
        if isinstance(conditioning, Text) and not isinstance(wanted, str | Mapping | Asked):
            with contextlib.suppress(TypeError):  # reported below
                wanted = list(wanted)  # which may be a generator, or a column of a table
        given: Any = wanted
        if encoder is not None:
            wanted = _encoded(conditioning, wanted, encoder, trained_with)
        if isinstance(wanted, Asked):
            self._later, self._count = wanted, len(wanted)
        else:
            self._whole = conditioning.check(wanted)
            self._count = len(jax.tree.leaves(self._whole)[0])
            if isinstance(conditioning, Text) and not isinstance(wanted, Mapping):
                wording = Wording(conditioning.length, words=conditioning.most_words)
                asked.tell_cut(map(wording.cuts, given), conditioning.most)
        if isinstance(given, Asked):
            given, encoder = given.words, given.encoder
        self._control = Control(conditioning, control, given, encoder)

    def __len__(self) -> int:
        return self._count

    def check_weak(self, weak: Any) -> None:
        """Raise unless a weak prediction by a network of this conditioning can read them too."""
        if self._control.acts or (isinstance(self._whole, Mapping) and "shift" in self._whole):
            check_weak(self._conditioning, weak)

    def rows(self, first: int, many: int, size: int) -> Condition:
        """Return `size` conditions: `many` of them from `first` on, then zeros."""
        part = slice(first, first + many)
        if self._later is not None:
            found = self._conditioning.check(self._later[part].prompts)
        else:
            found = jax.tree.map(lambda x: x[part], self._whole)
        if self._control.acts:
            shift = self._control.shift(part)
            found = {**found, "shift": found.get("shift", 0) + shift}

        def filled(x: np.ndarray) -> np.ndarray:
            padded = np.zeros((size, *x.shape[1:]), x.dtype)
            padded[: len(x)] = x
            return padded

        return jax.tree.map(filled, found)


def _encoded(conditioning: Any, wanted: Any, encoder: Any, trained_with: str) -> Asked:
    """Return texts whose features an encoder makes when a batch needs them."""
    if not isinstance(encoder, TextEncoder):
        raise UserError(
            f"text_encoder={shown(encoder)} must be one that sg_jax.load_text_encoder returns, or "
            "None."
        )
    texts = list(wanted) if isinstance(wanted, Sequence | np.ndarray) else []
    if isinstance(wanted, str) or not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(f"labels={shown(wanted)} must be a list of texts for the text_encoder.")
    check_encoder(encoder, trained_with)
    found = asked.of_texts(texts, encoder)
    conditioning.check(found[:1].prompts)  # reports another encoder's features right away
    asked.tell_cut(encoder.cut(texts), conditioning.most)
    return found


def check_encoder(encoder: TextEncoder, trained_with: str) -> None:
    """Raise unless an encoder is the one with this fingerprint; "" is not known."""
    fingerprint = encoder.fingerprint()
    if trained_with and fingerprint != trained_with:
        raise UserError(
            f"text_encoder={shown(encoder.about.encoder)} is not the encoder that the network was "
            f"trained with ({fingerprint}, not {trained_with}): "
            "sg_jax.load_text_encoder(RUN) loads the one of a run."
        )
