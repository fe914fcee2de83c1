"""Where a prompt names its subject: the characters of a word in it, found or marked.

"circle" is found in "A circle above a square" as a whole word, whatever its case; "circle#2" is
the second one of "a circle and a circle". In scripts without spaces, any part of a text may be a
word. In texts of our own, braces mark it: "a large {circle}".
"""

import dataclasses
import re

from sg_jax.errors import UserError, shown

NUMBERED = re.compile(r"(.*\S)#([0-9]+)", re.DOTALL)
# Letters that a word may touch: Thai, Lao, Burmese, Khmer, kana and Chinese characters.
OTHERS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
LETTER = rf"[^\W{OTHERS}]"
MARKED = re.compile(r"([^{}]*)\{([^{}]*\S[^{}]*)\}([^{}]*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Marked:
    """A text, and the characters in it that name its subject.

    Attributes:
      text: without marks.
      first, last: the subject is text[first:last].
    """

    text: str
    first: int
    last: int

    @property
    def subject(self) -> str:
        """The subject as the text writes it."""
        return self.text[self.first : self.last]


def find(text: str, subject: str, name: str = "prompt") -> Marked:
    """Return where a text names a subject.

    Args:
      text: the prompt.
      subject: one or more words, perhaps with a number: "circle#2" is the second circle.
      name: of the text, for messages.

    Raises:
      UserError: it is not there, or it is there several times and no number says which.
    """
    number, words = 0, subject
    if numbered := NUMBERED.fullmatch(subject):
        words, number = numbered[1], int(numbered[2])
    spaced = r"\s+".join(map(re.escape, words.split()))
    whole = rf"(?<!{LETTER}){spaced}(?!{LETTER})"
    places = [match.span() for match in re.finditer(whole, text, re.IGNORECASE)]
    short = shown(text[:80])
    if not words.split() or not places:
        raise UserError(
            f"{name}={short} does not have the subject {shown(subject)}: give a word of the "
            "prompt, exactly as written there."
        )
    if len(places) > 1 and not numbered:
        raise UserError(
            f"{name}={short} has the subject {shown(subject)} {len(places)} times: say which, such "
            f"as {words + '#1'!r}."
        )
    if numbered and not 1 <= number <= len(places):
        times = "once" if len(places) == 1 else f"{len(places)} times"
        raise UserError(
            f"{name}={short} has {words!r} only {times}, so there is no {shown(subject)}."
        )
    return Marked(text, *places[max(number, 1) - 1])


def marked(text: str, name: str = "prompt") -> Marked:
    """Return a text without the braces that mark its subject.

    Raises:
      UserError: no subject is marked, or several are.
    """
    found = MARKED.fullmatch(text)
    if found is None:
        raise UserError(
            f"{name}={shown(text[:80])} must have one subject in braces, such as 'a large "
            "{circle}'."
        )
    before, subject, after = found.groups()
    return Marked(before + subject + after, len(before), len(before) + len(subject))
