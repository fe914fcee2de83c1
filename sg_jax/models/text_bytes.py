"""Texts as bytes."""

from collections.abc import Sequence

import numpy as np


def encode_bytes(prompts: Sequence[str], length: int) -> tuple[dict[str, np.ndarray], int]:
    """Return {"text": int32 [B, L], "length": int32 [B]} and how many texts were cut."""
    found = np.zeros((len(prompts), length), np.int32)
    lengths, cut = np.zeros(len(prompts), np.int32), 0
    for row, prompt in enumerate(prompts):
        whole = prompt.encode(errors="replace")
        part = np.frombuffer(whole[:length], np.uint8)
        found[row, : len(part)] = part.astype(np.int32) + 1
        lengths[row] = len(part)
        cut += len(whole) > length
    return {"text": found, "length": lengths}, cut
