"""Texts as bytes, for a network that learns to read along with drawing."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

BYTES = 257  # values of a token: 0 for padding, then each byte
BUCKETS = 2**12  # of words; two words in one bucket differ by their bytes alone


def encode_bytes(prompts: Sequence[str], length: int) -> tuple[dict[str, np.ndarray], int]:
    """Return texts as UTF-8, and how many did not fit and were cut.

    A text is cut between characters, never within one. What is no character, such as half of a
    surrogate pair, becomes "?". An empty text has length 0, which means "no text".

    Args:
      prompts: B texts.
      length: L, the most bytes of a text.

    Returns:
      {"text": bytes plus 1, then zeros, int32 [B, L]; "length": int32 [B]}, and the number of texts
      that were cut.
    """
    text = np.zeros((len(prompts), length), np.int32)
    lengths, cut = np.zeros(len(prompts), np.int32), 0
    for row, prompt in enumerate(prompts):
        whole = prompt.encode(errors="replace")
        kept = whole
        if len(whole) > length:
            kept, cut = whole[:length].decode(errors="ignore").encode(), cut + 1
        text[row, : len(kept)] = np.frombuffer(kept, np.uint8).astype(np.int32) + 1
        lengths[row] = len(kept)
    return {"text": text, "length": lengths}, cut


def word_buckets(text: jax.Array) -> jax.Array:
    """Return the bucket of the word that each byte belongs to, int32 [B, L] in [0, BUCKETS).

    A word is a run of letters, digits and bytes of other scripts. Everything else, such as a space,
    is a word of its own. The bucket is a hash of all bytes of the word, so that a network need not
    learn first which bytes make one.

    Args:
      text: bytes plus 1, and 0 for padding, int32 [B, L].
    """
    inside = jnp.asarray(_inside())[text]  # [B, L]
    places = jnp.arange(text.shape[1])[None]  # [1, L]
    before = jnp.pad(inside, ((0, 0), (1, 0)))[:, :-1]
    first = ~(inside & before)  # where a word begins
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


@functools.cache
def _inside() -> np.ndarray:
    """Return for each token whether it is part of a longer word, bool [BYTES]."""
    values = [bytes([i]) for i in range(BYTES - 1)]
    return np.array([False, *(value.isalnum() or value[0] >= 128 for value in values)])


@functools.cache
def _factors(length: int) -> np.ndarray:
    """Return an odd factor for each place in a word, uint32 [length]."""
    return np.random.default_rng(0).integers(0, 2**31, length).astype(np.uint32) * 2 + 1
