"""Contrastive prompts: triples that differ in one attribute of their subject.

A direction is found from them (`method.control`). In a file, each line is a triple, neutral |
positive | negative, with the subject in braces:

    a {circle} | a large {circle} | a small {circle}
    a {star} and a square | a large {star} and a square | a small {star} and a square
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from sg_jax.data import subjects
from sg_jax.data.subjects import Marked
from sg_jax.errors import UserError, one_line, shown
from sg_jax.runs import arrays, files

EXAMPLE = "a {circle} | a large {circle} | a small {circle}"
LARGEST = 2**24  # bytes of a file


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Prompts that differ in one attribute of their subject."""

    neutral: Marked
    positive: Marked
    negative: Marked

    @property
    def texts(self) -> tuple[str, str, str]:
        """The three prompts, with their subject in braces."""
        neutral, positive, negative = (
            f"{m.text[: m.first]}{{{m.subject}}}{m.text[m.last :]}"
            for m in (self.neutral, self.positive, self.negative)
        )
        return neutral, positive, negative


def of_texts(triples: Any, name: str = "prompts") -> list[Contrast]:
    """Return contrasts of triples (neutral, positive, negative) with their subjects in braces.

    Raises:
      UserError: a triple is not three texts, has no subject, or its prompts do not differ.
    """
    found = []
    for n, triple in enumerate(triples if isinstance(triples, list | tuple) else [triples]):
        here = f"{name}[{n}]"
        three = isinstance(triple, list | tuple) and len(triple) == 3
        if not three or not all(isinstance(text, str) for text in triple):
            raise UserError(
                f"{here}={shown(triple)} must be three texts: neutral, positive and negative, such "
                f"as {tuple(EXAMPLE.split(' | '))}."
            )
        contrast = Contrast(*(subjects.marked(text.strip(), here) for text in triple))
        if contrast.positive.text == contrast.negative.text:
            raise UserError(
                f"{here}: the positive and the negative prompt are the same, "
                f"{shown(contrast.positive.text)}, so there is no direction between them."
            )
        found.append(contrast)
    if not found:
        raise UserError(f"{name} has no prompts: give triples such as {EXAMPLE!r}.")
    return found


def of_templates(
    neutral: Sequence[str], positive: Sequence[str], negative: Sequence[str], names: Sequence[str]
) -> list[Contrast]:
    """Return the contrasts of each template with each subject in place of "{}".

    Args:
      neutral, positive, negative: equally many of each, such as ("a {}",), ("a large {}",), ...
      names: the subjects.
    """
    triples = [
        tuple(text.replace("{}", f"{{{name}}}") for text in triple)
        for triple in zip(neutral, positive, negative, strict=True)
        for name in names
    ]
    return of_texts(triples, "config.control's prompts")


def read(path: str | os.PathLike, name: str = "prompts") -> list[Contrast]:
    """Read a file as this module describes it; empty lines are left out.

    Raises:
      UserError: it cannot be read, or a line is not a triple.
    """
    given = f"{name}={shown(os.fspath(path))}"
    try:
        content = arrays.read_bytes(files.path(path))
        text = content[:LARGEST].decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        raise UserError(
            f"{given} cannot be read ({one_line(cause)}): give a text file with lines such as "
            f"{EXAMPLE!r}."
        ) from None
    found = []
    for n, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        parts = line.split("|")
        if len(parts) != 3:
            raise UserError(
                f"{given}, line {n}: {shown(line[:80])} must be neutral | positive | negative, "
                f"such as {EXAMPLE!r}."
            )
        found += of_texts([tuple(parts)], f"{given}, line {n}")
    if not found:
        raise UserError(f"{given} has no prompts: write lines such as {EXAMPLE!r}.")
    return found
