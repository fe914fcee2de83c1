"""Prompts from a file: one text per line, or features of a frozen encoder in an .npz file."""

import codecs
import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sg_jax.data import captions
from sg_jax.errors import UserError, one_line, shown
from sg_jax.runs import arrays, files
from sg_jax.runs.progress import log

MOST, LARGEST = 1_000_000, 2**30  # lines, and bytes of a file of texts
LINES = "a file with one prompt per line"
BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclasses.dataclass(frozen=True)
class Prompts:
    """What a file asks for.

    Attributes:
      texts: one per image; "" where only features are known.
      lines: the number of each text's line, from 1.
      features: {"text" [B, L, F], "length" [B]}; None for texts.
      fingerprint: of what made the features; "" if the file does not say.
    """

    texts: Sequence[str]
    lines: Sequence[int]
    features: Mapping[str, np.ndarray] | None = None
    fingerprint: str = ""


def read(path: str) -> Prompts:
    """Read a file of prompts.

    A file of texts is in UTF-8, with or without a byte order mark, or in UTF-16 with one. Lines end
    in LF, CRLF or CR. Empty lines are left out, which is logged. Spaces around a text are removed.

    A .jsonl file has an object in each line, whose "prompt" is the text, as `--mode sample` writes
    next to its images; or its caption, under one of the names in `captions.KEYS`.

    An .npz file has "text" and "length", as a text encoder returns them, and perhaps "prompts", the
    texts, and "fingerprint", the encoder's.

    Raises:
      UserError: there is no such file, it cannot be read, or it has no prompts.
    """
    given = f"--prompts={shown(path)}"
    features = path.lower().endswith(".npz")
    wanted = f"{LINES}, or an .npz of features"
    content = _content(path, given, wanted, math.inf if features else LARGEST)
    if features:
        return _features(content, given)
    found = _texts(content, given)
    return _objects(found, given) if path.lower().endswith(".jsonl") else found


def read_texts(path: str, setting: str) -> Prompts:
    """Read a file of texts, as `read` does.

    Args:
      path: of the file.
      setting: the setting that gives it, for messages, such as "config.compose.prompts".
    """
    given = f"{setting}={shown(path)}"
    return _texts(_content(path, given, LINES, LARGEST), given)


def _content(path: str, given: str, wanted: str, largest: float) -> bytes:
    try:
        place = files.path(path)
        if place.is_dir() or not place.exists():
            kind = "is a folder" if place.is_dir() else "does not exist"
            raise UserError(f"{given} {kind}: give {wanted}.")
        size = os.path.getsize(place) if not files.is_remote(place) else 0
        if size > largest:
            raise UserError(f"{given} has {size:,} bytes, more than {largest:,}: split it.")
        return place.read_bytes()
    except UserError:
        raise
    except (OSError, ValueError) as cause:
        raise UserError(f"{given} cannot be read ({one_line(cause)}).") from None


def _texts(content: bytes, given: str) -> Prompts:
    mark, encoding = next((pair for pair in BOMS if content.startswith(pair[0])), (b"", "utf-8"))
    body = content[len(mark) :]
    try:
        whole = body.decode(encoding)
    except UnicodeDecodeError as cause:
        line = body[: cause.start].count(b"\n") + 1
        raise UserError(
            f"{given} is not in {encoding[:6].upper()}, at line {line}: save it in UTF-8, with "
            "one prompt per line."
        ) from None
    lines = whole.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if lines[-1] == "":  # after the last line break
        lines.pop()
    found = [(n, text) for n, line in enumerate(lines, 1) if (text := line.strip())]
    if not found:
        raise UserError(f"{given} has no prompts: write one per line.")
    if len(found) > MOST:
        raise UserError(f"{given} has {len(found):,} prompts, more than {MOST:,}: split it.")
    if left := len(lines) - len(found):
        first = next(n for n, line in enumerate(lines, 1) if not line.strip())
        what = "line is" if left == 1 else "lines are"
        log(f"{given}: {left:,} empty {what} left out, the first of which is line {first}.")
    return Prompts([text for _, text in found], [n for n, _ in found])


def _objects(found: Prompts, given: str) -> Prompts:
    """Return the prompts of lines that are objects."""
    texts = []
    for number, line in zip(found.lines, found.texts, strict=True):
        try:
            row = json.loads(line)
            key = next((key for key in ("prompt", *captions.KEYS) if key in row), "prompt")
            (text,) = captions.texts(row[key])
        except (ValueError, KeyError, TypeError, RecursionError) as cause:
            raise UserError(
                f"{given}, line {number} is not a prompt ({one_line(cause)}): it must be like "
                '{"prompt": "a red circle"}. In a file with another ending, each line is a prompt.'
            ) from None
        texts.append(text)
    return dataclasses.replace(found, texts=texts)


def _features(content: bytes, given: str) -> Prompts:
    form = '"text" [B, L, F], "length" [B], and perhaps "prompts" [B] and "fingerprint"'
    try:
        found: dict[str, Any] = arrays.from_npz(content)
        text, length = found["text"], found["length"]
        texts = [str(each) for each in np.atleast_1d(found.get("prompts", np.array([], str)))]
        fits = length.ndim == 1 and len(text) == len(length) and len(texts) in (0, len(length))
        if not fits or not len(length):
            raise UserError(f"its arrays are {list(text.shape)} and {list(length.shape)}")
    except Exception as cause:  # damaged files raise many kinds of errors
        raise UserError(
            f"{given} cannot be read as features ({one_line(cause)}): it must have {form}, as "
            "`numpy.savez(FILE, **encoder(prompts), prompts=prompts, "
            "fingerprint=encoder.fingerprint())` writes them."
        ) from None
    count = len(length)
    known = str(found.get("fingerprint", ""))
    lines = range(1, count + 1)
    return Prompts(texts or [""] * count, lines, {"text": text, "length": length}, known)
