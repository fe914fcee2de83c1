"""What a text network is asked to draw: prompts, or captions of the data in a fixed order."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from sg_jax.data import wording
from sg_jax.data.section import Data
from sg_jax.data.sources import Source, open_source, options_of
from sg_jax.data.wording import Wording
from sg_jax.encoders.text import Text
from sg_jax.errors import SettingError, UserError
from sg_jax.runs.progress import log

THREADS = 16
ORDER = 0  # seed of the order of captions


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """Prompts in order, to be taken in slices; features are read only when they are drawn.

    Attributes:
      texts: what is asked for, in words, for every number.
      read: maps numbers to what the network's conditioning checks: texts, or arrays of features.
      labels: classes int32 [B] that go with them; None if there are none.
      numbers: the numbers in this slice.
      encoder: the frozen encoder that reads the texts; None for bytes, or stored features.
    """

    texts: Sequence[str]
    read: Callable[[Sequence[int]], Any]
    labels: np.ndarray | None
    numbers: range
    encoder: Any = None

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, part: slice) -> "Asked":
        return dataclasses.replace(self, numbers=self.numbers[part])

    @property
    def prompts(self) -> Any:
        """What the network's conditioning checks, for this slice."""
        return self.read(self.numbers)

    def digest(self) -> str:
        """Return 16 hex digits of what this slice asks for."""
        found = hashlib.sha256(repr(self.words).encode(errors="replace"))
        if not any(self.words):  # features alone
            found.update(b"".join(np.asarray(x).tobytes() for x in self.prompts.values()))
        return found.hexdigest()[:16]

    @property
    def words(self) -> list[str]:
        """The texts of this slice."""
        return [self.texts[i] for i in self.numbers]


def of_texts(texts: Sequence[str], encode: Callable[[list[str]], Any] | None = None) -> Asked:
    """Return what to draw for texts.

    Args:
      texts: the prompts.
      encode: a frozen encoder that turns texts into features; None for a network that reads bytes.
    """

    def read(numbers: Sequence[int]) -> Any:
        some = [texts[i] for i in numbers]
        if encode is None:
            return some
        rows = {text: n for n, text in enumerate(dict.fromkeys(some))}  # each text is read once
        found = encode(list(rows))
        return {name: value[[rows[text] for text in some]] for name, value in found.items()}

    return Asked(texts, read, None, range(len(texts)), encode)


def of_features(features: Mapping[str, np.ndarray], texts: Sequence[str] = ()) -> Asked:
    """Return what to draw for features {"text" [B, L, F], "length" [B]}, with texts if known."""
    count = len(features["length"])

    def read(numbers: Sequence[int]) -> Any:
        rows = list(numbers)
        return {name: value[rows] for name, value in features.items()}

    return Asked(texts or [""] * count, read, None, range(count))


def tell_cut(cut: Iterable[bool], most: str, lines: Sequence[int] = ()) -> None:
    """Log how many prompts are cut, and which one is the first.

    Args:
      cut: whether each prompt is cut.
      most: the longest that a prompt may be, in words.
      lines: the line of each prompt in its file; without them, prompts are numbered from 0.
    """
    if found := [i for i, is_cut in enumerate(cut) if is_cut]:
        prompts = "1 prompt is" if len(found) == 1 else f"{len(found):,} prompts are"
        first = f"line {lines[found[0]]}" if lines else f"number {found[0]}"
        log(f"{prompts} longer than {most} and cut; the first is {first}.")


def labels_of(asked: np.ndarray | Asked) -> np.ndarray:
    """Return the classes of what is drawn, int32 [B]."""
    if isinstance(asked, np.ndarray):
        return asked
    assert asked.labels is not None
    return asked.labels[asked.numbers.start : asked.numbers.stop]


@dataclasses.dataclass(frozen=True, eq=False)
class Captioned:
    """The captions of a split, as prompts.

    Attributes:
      source: the split.
      wording: how the network reads them.
    """

    source: Source
    wording: Wording

    def ask(self, count: int) -> Asked:
        """Return captions of `count` images of the split with their classes, always the same ones.

        The images are drawn at random, because data may be sorted by class. If there are fewer
        images, each comes several times, with its other captions.
        """
        return _ask(self, count)

    def _ask(self, count: int) -> Asked:
        size, captions = len(self.source), self.wording.of(self.source)
        named = wording.Worded(self.source, features=False)
        order = np.random.default_rng(ORDER).choice(size, min(count, size), replace=False)
        ids = np.resize(order, count).tolist()
        turn = [i // size for i in range(count)]

        def look(i: int) -> tuple[str, int]:
            texts = named.texts(ids[i])
            return texts[turn[i] % len(texts)], label_of(self.source, ids[i])

        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(look, range(count)))

        def read(numbers: Sequence[int]) -> Any:
            if not self.wording.features:
                return [found[i][0] for i in numbers]
            parts = []
            for i in numbers:
                texts = captions.texts(ids[i])
                parts.append(self.wording.condition(texts[turn[i] % len(texts)]))
            return {name: np.stack([part[name] for part in parts]) for name in parts[0]}

        texts = [text for text, _ in found]
        return Asked(texts, read, np.array([y for _, y in found], np.int32), range(count))


@functools.lru_cache(maxsize=4)
def _ask(captioned: Captioned, count: int) -> Asked:
    """Return what `Captioned.ask` does, cached: an evaluation asks for the same several times."""
    return captioned._ask(count)


def label_of(source: Any, i: int) -> int:
    """Return the class of an example, without reading its image if the source can do that."""
    return source.label_of(i) if hasattr(source, "label_of") else int(source[i]["label"])


def of_data(data: Data, text: Text, source: Source) -> Captioned:
    """Return the captions that are drawn if no prompts are given.

    Args:
      data: the section; its test split is used if it exists and fits.
      text: the section.
      source: the training split, which is used otherwise.

    Raises:
      UserError: there are no captions.
    """
    try:
        split = open_source(
            data.name, data.test_split, key="test_split", captioned=True, **options_of(data)
        )
        return Captioned(split, wording.of(text, split))
    except SettingError as error:
        if error.name != "test_split":
            raise
        why = f"config.data.test_split={data.test_split!r} does not exist"
    except UserError as error:
        why = f"those of config.data.test_split={data.test_split!r} cannot be used. {error}"
    log(f"Captions are drawn from split {source.split!r}: {why}.".replace("..", "."))
    return Captioned(source, wording.of(text, source))
