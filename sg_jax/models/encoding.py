"""Texts as bytes, for a network that learns to read along with drawing."""

from collections.abc import Sequence

import numpy as np

BYTES = 257  # values of a token: 0 for padding, then each byte


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
