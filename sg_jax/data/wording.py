"""From the captions of a source to the condition of a text network.

    {"text": int32 [L], "length": int32}        bytes of UTF-8 plus 1, and 0 where there are none
    {"text": float [L, F], "length": int32}     stored features of a frozen encoder, then zeros

An image may have several captions; one of them is drawn anew in each epoch.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from sg_jax.data import captions, checks
from sg_jax.data.sources import Source
from sg_jax.encoders.text import BYTES, Described, Text
from sg_jax.errors import UserError
from sg_jax.models.encoding import bytes_read, encode_bytes
from sg_jax.runs import files
from sg_jax.runs.progress import log

TEXTS = "texts"  # in an example, until one of them is drawn
LOOKED_AT, FEATURED = 2048, 128  # examples that are looked at before long work
THREADS = 16
REMEDY = (
    "give each image a caption in captions.jsonl, in a .txt file beside it or in a column, as "
    "data/captions.py says"
)


def described(source: Any) -> Described | None:
    """Return what made the text features of a source, if it has some."""
    return getattr(source, "described", None)


@dataclasses.dataclass(frozen=True)
class Wording:
    """How a text network reads the texts of a source.

    Attributes:
      length: L.
      features: F; 0 for bytes.
      words: for bytes, the most words of a text; 0: any number.
    """

    length: int
    features: int = 0
    words: int = 0

    def condition(self, text: Any) -> dict[str, Any]:
        """Return the condition of one image, from a text or from features [n, F], n <= L."""
        if not self.features:
            whole, _ = encode_bytes([text], self.length, self.words)
            return {name: value[0] for name, value in whole.items()}
        padded = np.zeros((self.length, self.features), text.dtype)
        padded[: len(text)] = text
        return {"text": padded, "length": np.int32(len(text))}

    def cuts(self, text: str) -> bool:
        """Return whether a network that reads bytes reads only part of a text."""
        return bytes_read(text, self.length, self.words)[1]

    @property
    def most(self) -> str:
        """The longest that a text may be, in words, with the setting."""
        if self.features:
            return f"{self.length} tokens (config.text.length)"
        words = f" or {self.words} words (config.text.words)" if self.words else ""
        return f"{self.length} bytes (config.text.length){words}"

    def blank(self, count: int) -> dict[str, np.ndarray]:
        """Return conditions of full length, for uses where only shapes and time matter."""
        shape = (count, self.length, self.features) if self.features else (count, self.length)
        text = np.zeros(shape, np.float16 if self.features else np.int32)
        return {"text": text, "length": np.full(count, self.length, np.int32)}

    def bytes_of(self, texts: Sequence[Any]) -> int:
        """Return about how much memory the texts of an example take."""
        return sum(text.nbytes if self.features else 100 + len(text) for text in texts)

    def draw(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Return an example with the condition of one of its texts, drawn at random."""
        return self.chosen(example, int(rng.integers(len(example[TEXTS]))))

    def chosen(self, example: Mapping[str, Any], n: int) -> dict[str, Any]:
        """Return an example with the condition of its text number `n`, modulo their number."""
        texts = example[TEXTS]
        rest = {name: value for name, value in example.items() if name != TEXTS}
        return {**rest, "condition": self.condition(texts[n % len(texts)])}

    def of(self, source: Source, examples: Any = None) -> "Worded":
        """Return a source whose examples also have their texts; see `Worded`."""
        return Worded(source, bool(self.features), examples)


class Worded:
    """A source whose examples also have "texts": its captions, or their features [n, F].

    Args:
      source: as `data.sources.Source` describes it.
      features: whether features are wanted.
      examples: where examples whose records hold no texts are read; by default the source.
    """

    def __init__(self, source: Any, features: bool, examples: Any = None):
        self._source, self._features = source, features
        self._examples = source if examples is None else examples

    def __len__(self) -> int:
        return len(self._source)

    @property
    def split(self) -> str:
        """The split of the source."""
        return self._source.split

    @property
    def quick(self) -> bool:
        """Whether all texts are in memory."""
        return not self._features and captions.in_memory(captions.of(self._source))

    def __getitem__(self, i: int) -> dict[str, Any]:
        if hasattr(self._source, "worded"):  # reading a record once is enough
            example, texts = self._source.worded(i, self._features)
        else:
            example, texts = self._examples[i], self.texts(i)
        self._check(i, texts)
        return {**example, TEXTS: texts}

    def texts(self, i: int) -> Sequence[Any]:
        """Return the texts of example `i` alone; raise a UserError if there are none."""
        if hasattr(self._source, "worded"):
            found = self._source.texts(i, self._features)
        else:
            found = self._source.captions[i]
        self._check(i, found)
        return found

    def _check(self, i: int, texts: Sequence[Any]) -> None:
        if not texts:
            source = self._source
            place = checks.place_of(source, i)
            where = f", {place}," if place else ""
            raise UserError(
                f"config.data.name={source.name!r}: example {i} of split {source.split!r}{where} "
                "has no caption, or an empty one, and the network reads captions: give it one, or "
                "leave such images out with config.data.damaged='skip'."
            )


def of(text: Text, source: Source) -> Wording:
    """Return how a text network reads the texts of a source.

    Raises:
      UserError: the source has no captions, or no features of this encoder, length and prefix.
    """
    name, made = f"config.data.name={source.name!r}", described(source)
    if text.encoder == BYTES:
        if captions.of(source) is None:
            raise UserError(
                f"{name} has no captions, and config.model.kind is a network of texts: {REMEDY}. "
                "Networks of classes are 'dit', 'maskdit' and 'ssm'."
            )
        return Wording(text.length, words=text.words)
    if made is None:
        raise UserError(
            f"{name} has no text features, and config.text.encoder={text.encoder!r} is a frozen "
            "encoder: run `--mode latents` to store its features with the data, or set "
            f"config.text.encoder={BYTES!r}, which reads the captions themselves."
        )
    there = files.path(text.encoder).exists()
    encoder = str(files.absolute(text.encoder)) if there else text.encoder
    wanted = dict(encoder=encoder, length=text.length, prefix=text.prefix)
    wanted |= dict(cut_prefix=text.cut_prefix)
    if differs := made.differences(wanted):
        raise UserError(
            f"{name} has text features that were not made as config.text says: {differs}. Set "
            "config.text to what the data has, or encode the data again with `--mode latents`."
        )
    return Wording(text.length, made.features)


def look(worded: "Worded", most: int = 0) -> list[Sequence[Any]]:
    """Return the texts of many examples, or of all if they are in memory, before long work.

    Args:
      worded: the examples.
      most: how many are read, evenly spread; 0: `LOOKED_AT`, or all captions if in memory.

    Raises:
      UserError: an example has no caption, or features are not finite.
    """
    size = len(worded)
    count = min(size, most or (size if worded.quick else LOOKED_AT))
    ids = [i * (size - 1) // max(1, count - 1) for i in range(count)]
    if worded.quick:  # tasks for threads would take 20 times as long, and gigabytes
        return list(map(worded.texts, ids))
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(worded.texts, ids))


def check(wording: Wording, source: Source) -> None:
    """Look at the texts of many examples before long work; log how many are cut; see `look`."""
    found = look(wording.of(source), FEATURED if wording.features else 0)
    if wording.features:
        return
    texts = [text for of_image in found for text in of_image]
    if cut := sum(map(wording.cuts, texts)):
        some = f" of {len(found):,} images" if len(found) < len(source) else ""
        longest = max(len(text.encode(errors="replace")) for text in texts)
        log(
            f"{cut:,} of {len(texts):,} captions{some} are longer than {wording.most}, and cut; "
            f"the longest has {longest:,} bytes."
        )


def identity(text: Text, source: Source) -> dict[str, Any]:
    """Return what identifies the texts of a source, for `data.identity`: JSON values."""
    made = described(source)
    if text.encoder != BYTES and made is not None:
        return {f"text_{key}": value for key, value in _stored(made).items()}
    digest = hashlib.sha256()
    for texts in look(Worded(source, False), LOOKED_AT // 4):
        digest.update(repr(texts).encode(errors="replace"))
    return {"captions": digest.hexdigest()[:16]}


def _stored(made: Described) -> dict[str, Any]:
    """Return what a run keeps about its text features, without where the encoder was."""
    kept = dataclasses.asdict(made)
    del kept["encoder"]
    return kept
