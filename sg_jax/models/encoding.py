"""Texts as bytes, for a network that learns to read while it learns to draw."""

import functools
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

BYTES = 257  # values of a token: 0 for padding, then each byte
BUCKETS = 2**12  # of words; two words in one bucket differ only by their bytes
WORD = re.compile(rb"[0-9A-Za-z\x80-\xff]+|\S")


def bytes_read(text: str, length: int, words: int = 0) -> tuple[bytes, bool]:
    """Return the part of a text that is read, as UTF-8, and whether it was cut; see `encode_bytes`.

    A text is cut between characters, never within one. Anything that is not a character, such as
    half of a surrogate pair, becomes "?".
    """
    whole = text.encode(errors="replace")
    kept = whole
    if len(whole) > length:
        kept = whole[:length].decode(errors="ignore").encode()
    if words and len(spans := word_spans(kept)) > words:
        kept = kept[: spans[words - 1][1]]
    return kept, kept != whole


def encode_bytes(
    prompts: Sequence[str], length: int, words: int = 0
) -> tuple[dict[str, np.ndarray], int]:
    """Return texts as UTF-8, and how many did not fit and were cut.

    An empty text has length 0, which means "no text".

    Args:
      prompts: B texts.
      length: L, the most bytes of a text.
      words: W, the most words of a text; 0: any number.

    Returns:
      {"text": bytes plus 1, then zeros, int32 [B, L]; "length": int32 [B]}, and the number of texts
      that were cut.
    """
    text = np.zeros((len(prompts), length), np.int32)
    lengths, cut = np.zeros(len(prompts), np.int32), 0
    for row, prompt in enumerate(prompts):
        kept, is_part = bytes_read(prompt, length, words)
        cut += is_part
        text[row, : len(kept)] = np.frombuffer(kept, np.uint8).astype(np.int32) + 1
        lengths[row] = len(kept)
    return {"text": text, "length": lengths}, cut


def word_spans(text: bytes) -> list[tuple[int, int]]:
    """Return where the words of a text begin and end, without the spaces; see `word_buckets`."""
    return [found.span() for found in WORD.finditer(text)]


def word_shares(text: jax.Array, words: int) -> jax.Array:
    """Return the share of each byte in each word, float32 [B, W, L]: 1 over its length, or 0.

    Spaces belong to no word. A word beyond the last one has only zeros.

    Args:
      text: bytes plus 1, and 0 for padding, int32 [B, L].
      words: W, at least as many as a text has.
    """
    inside = text > 0
    inside &= ~jnp.asarray(_spaces())[text]
    number = jnp.cumsum(_begins(text) & inside, axis=1) - 1  # of the word of each byte [B, L]
    ours = inside[:, None] & (number[:, None] == jnp.arange(words)[None, :, None])
    return ours / jnp.maximum(ours.sum(axis=2, keepdims=True), 1)


def word_buckets(text: jax.Array) -> jax.Array:
    """Return the bucket of the word that each byte belongs to, int32 [B, L] in [0, BUCKETS).

    A word is a run of letters, digits and bytes of other scripts. Everything else, such as a space,
    is a word of its own. The bucket is a hash of all bytes of the word, so that a network need not
    first learn which bytes make up a word.

    Args:
      text: bytes plus 1, and 0 for padding, int32 [B, L].
    """
    places = jnp.arange(text.shape[1])[None]  # [1, L]
    first = _begins(text)
    begin = jax.lax.cummax(jnp.where(first, places, 0), axis=1)  # of the word of each byte
    factors = jnp.asarray(_factors(text.shape[1]))
    terms = (text.astype(jnp.uint32) + 1) * factors[places - begin]
    sums = jnp.pad(jnp.cumsum(terms, axis=1, dtype=jnp.uint32), ((0, 0), (1, 0)))  # modulo 2**32
    after = jnp.pad(first, ((0, 0), (0, 1)), constant_values=True)[:, 1:]  # where a word ends
    end = jnp.where(after, places, text.shape[1])
    end = jax.lax.cummin(end, axis=1, reverse=True)
    take = functools.partial(jnp.take_along_axis, axis=1)
    mixed = (take(sums, end + 1) - take(sums, begin)) * jnp.uint32(0x9E3779B1)
    return (mixed >> 20).astype(jnp.int32)


def _begins(text: jax.Array) -> jax.Array:
    """Return at which bytes a word begins, bool [B, L]."""
    inside = jnp.asarray(_inside())[text]
    before = jnp.pad(inside, ((0, 0), (1, 0)))[:, :-1]
    return ~(inside & before)


@functools.cache
def _spaces() -> np.ndarray:
    """Return whether each token is a space, bool [BYTES]."""
    return np.array([False, *(bytes([i]).isspace() for i in range(BYTES - 1))])


@functools.cache
def _inside() -> np.ndarray:
    """Return whether each token can be part of a longer word, bool [BYTES]."""
    values = [bytes([i]) for i in range(BYTES - 1)]
    return np.array([False, *(value.isalnum() or value[0] >= 128 for value in values)])


@functools.cache
def _factors(length: int) -> np.ndarray:
    """Return an odd factor for each place in a word, uint32 [length]."""
    return np.random.default_rng(0).integers(0, 2**31, length).astype(np.uint32) * 2 + 1
