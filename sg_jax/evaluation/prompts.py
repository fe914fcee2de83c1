"""Prompts, and what an image of each must show: GenEval's six tasks, on the shapes or from a file.

A prompt is scored as in GenEval (arXiv 2310.11513): an image must show the things that the prompt
includes, with their colours and places, and fewer of each excluded thing than its number.
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

from sg_jax.data import prompt_file
from sg_jax.data.shapes_captions import NUMBERS, named, plural
from sg_jax.data.shapes_outlines import SHAPES
from sg_jax.data.shapes_scenes import (
    COLOURS,
    RELATIONS,
    UNSEEN_COLOURS,
    UNSEEN_COUNTS,
    UNSEEN_PAIRS,
    Draws,
    unseen_place,
)
from sg_jax.errors import UserError, is_whole, one_line, shown

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Things that an image must show, or must not.

    Attributes:
      kind: what they are, such as "circle".
      count: how many.
      colour: the colour of each; "" for any.
      place: where each is, and the number of the wanted thing it is seen from; () for anywhere.
    """

    kind: str
    count: int = 1
    colour: str = ""
    place: tuple[str, int] | tuple[()] = ()


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt.

    Attributes:
      text: what is asked for.
      task: one of `TASKS`, or the tag in a file; "" for none.
      unseen: whether it asks for a combination that is held out from training.
      include: the image must show all of these.
      exclude: it must show fewer of each of these than its number.
      given: the line of the file that it was read from.
    """

    text: str
    task: str = ""
    unseen: bool = False
    include: tuple[Wanted, ...] = ()
    exclude: tuple[Wanted, ...] = ()
    given: str = dataclasses.field(default="", repr=False)

    @property
    def metadata(self) -> str:
        """What it asks for, as a line of GenEval's evaluation_metadata.jsonl."""
        if self.given:
            return self.given
        row: dict[str, Any] = {"tag": self.task, "include": [_row(w) for w in self.include]}
        if self.exclude:
            row["exclude"] = [_row(w) for w in self.exclude]
        return json.dumps({**row, "prompt": self.text}, ensure_ascii=False)


def _row(wanted: Wanted) -> dict[str, Any]:
    row: dict[str, Any] = {"class": wanted.kind, "count": wanted.count}
    row |= {"color": wanted.colour} if wanted.colour else {}
    return row | ({"position": list(wanted.place)} if wanted.place else {})


def of_shapes(most: int = 0) -> list[Prompt]:
    """Return the prompts for the shapes, task by task, the seen ones before the held-out ones.

    Args:
      most: how many seen and how many held-out ones of each task, at random but always the same
        ones; 0: all.
    """
    found = []
    for every in (_single(), _two(), _counting(), _colours(), _places(), _attribution()):
        for unseen in (False, True):
            each = [prompt for prompt in every if prompt.unseen == unseen]
            draws = Draws(len(each))
            places = [draws.between(0, 1e6) for _ in each]
            last = sorted(places)[: most or None][-1:]
            found += [prompt for prompt, p in zip(each, places, strict=True) if [p] <= last]
    return found


def _single() -> list[Prompt]:
    return [Prompt(named(s), TASKS[0], include=(Wanted(s),)) for s in SHAPES]


def _two() -> list[Prompt]:
    return [
        Prompt(
            f"{named(a)} and {named(b)}",
            TASKS[1],
            frozenset({a, b}) in UNSEEN_PAIRS,
            (Wanted(a), Wanted(b)),
        )
        for a, b in itertools.permutations(SHAPES, 2)
    ]


def _counting() -> list[Prompt]:
    return [
        Prompt(
            f"{NUMBERS[n]} {plural(s)}",
            TASKS[2],
            (s, n) in UNSEEN_COUNTS,
            (Wanted(s, n),),
            (Wanted(s, n + 1),),
        )
        for s in SHAPES
        for n in (2, 3)
    ]


def _colours() -> list[Prompt]:
    return [
        Prompt(named(c, s), TASKS[3], (s, c) in UNSEEN_COLOURS, (Wanted(s, colour=c),))
        for s in SHAPES
        for c in COLOURS
    ]


def _places() -> list[Prompt]:
    return [
        Prompt(
            f"{named(a)} {where} {named(b)}",
            TASKS[4],
            unseen_place(a, where, b) or frozenset({a, b}) in UNSEEN_PAIRS,
            (Wanted(b), Wanted(a, place=(where, 0))),
        )
        for a, b in itertools.permutations(SHAPES, 2)
        for where in RELATIONS
    ]


def _attribution() -> list[Prompt]:
    return [
        Prompt(
            f"{named(c, a)} and {named(d, b)}",
            TASKS[5],
            bool({(a, c), (b, d)} & UNSEEN_COLOURS) or frozenset({a, b}) in UNSEEN_PAIRS,
            (Wanted(a, colour=c), Wanted(b, colour=d)),
        )
        for a, b in itertools.permutations(SHAPES, 2)
        for c, d in itertools.permutations(COLOURS, 2)
    ]


def read(name: str | os.PathLike) -> list[Prompt]:
    """Read prompts from a file: GenEval's evaluation_metadata.jsonl, or one prompt per line.

    Raises:
      UserError: it cannot be read, or a line is not a prompt.
    """
    found = prompt_file.read_texts(str(name), "config.compose.prompts")
    if not str(name).lower().endswith(".jsonl"):
        return [Prompt(text) for text in found.texts]
    prompts = []
    for number, line in zip(found.lines, found.texts, strict=True):
        try:
            prompts.append(_parse(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
            raise UserError(
                f"{name}, line {number} is not a prompt ({one_line(cause)}): it must be like "
                f"{_counting()[0].metadata}."
            ) from None
    return prompts


def _parse(line: str) -> Prompt:
    row = json.loads(line)
    if not isinstance(row["prompt"], str) or not row["prompt"].strip():
        raise ValueError(f"prompt is {shown(row['prompt'])}")
    row["prompt"].encode()  # raises for half a character, which no file could hold
    include, exclude = (_wanted(row.get(name, [])) for name in ("include", "exclude"))
    for i, wanted in enumerate(include):
        if wanted.place and not 0 <= wanted.place[1] < i:
            raise ValueError(f"position {shown(wanted.place)} does not point to an earlier thing")
    return Prompt(row["prompt"], str(row.get("tag", "")), False, include, exclude, line)


def _wanted(rows: Sequence[dict[str, Any]]) -> tuple[Wanted, ...]:
    found = []
    for row in rows:
        place, count = tuple(row.get("position", ())), row.get("count", 1)
        if not is_whole(count) or count < 1:
            raise ValueError(f"count is {shown(count)}")
        if place and (len(place) != 2 or place[0] not in RELATIONS or not is_whole(place[1])):
            raise ValueError(f"position is {shown(place)}")
        found.append(Wanted(str(row["class"]), count, str(row.get("color", "")), place))
    return tuple(found)
