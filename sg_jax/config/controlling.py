"""The section of attribute control: which direction is found, how, and what is drawn with it."""

import dataclasses
import re
from typing import Any

from sg_jax.config import tuples
from sg_jax.data import contrasts, subjects
from sg_jax.data.contrasts import Contrast
from sg_jax.data.subjects import Marked
from sg_jax.errors import FLOAT32, SettingError, UserError, is_number, setting, shown
from sg_jax.programs.directions import METHODS, Learning


def _texts(values: Any) -> str:
    whole = isinstance(values, tuple) and all(isinstance(v, str) and v.strip() for v in values)
    return "" if whole else "must be texts, such as ('circle', 'star')."


def _templates(values: Any) -> str:
    if broken := _texts(values):
        return broken
    wrong = [v for v in values if v.count("{}") != 1]
    rule = "must contain {} once each, for the subject, as in 'a large {}'"
    return f"{rule}, not {shown(wrong[0])}." if wrong else ""


def _prompts(values: Any) -> str:
    if broken := _texts(values):
        return broken
    try:
        for value in values:
            subjects.marked(value)
    except UserError as error:
        return f"must mark its subjects. {error}"
    return ""


def _scales(values: Any) -> str:
    numbers = isinstance(values, tuple) and all(is_number(v) and abs(v) <= FLOAT32 for v in values)
    if numbers and values and len(set(values)) == len(values):
        return ""
    return "must be one or more different numbers, such as (-1.0, 0.0, 1.0)."


def _methods(values: Any) -> str:
    fits = isinstance(values, tuple) and values and set(values) <= set(METHODS)
    if fits and len(set(values)) == len(values):
        return ""
    return f"must be one or both of {', '.join(map(repr, METHODS))}."


def _name(value: Any) -> str:
    fits = isinstance(value, str) and re.fullmatch(r"\w[\w -]{0,99}", value)
    return "" if fits else "must be letters, digits, '_', '-' and spaces: files get this name."


@dataclasses.dataclass(frozen=True)
class Control(Learning):
    """What --mode control finds and draws."""

    attribute: str = setting("attribute", "its name, also used for the files", rule=_name)
    methods: tuple = setting(("learned",), "'difference', 'learned', or both", rule=_methods)
    pairs: str = setting(
        "", "file of lines such as 'a {circle} | a large {circle} | a small {circle}'"
    )
    subjects: tuple = setting((), "to fill {} below, instead of pairs", rule=_texts)
    neutral: tuple = setting(("a {}",), "prompts without the attribute", rule=_templates)
    positive: tuple = setting((), "prompts with it, such as ('a large {}',)", rule=_templates)
    negative: tuple = setting((), "with its opposite, such as ('a small {}',)", rule=_templates)
    prompts: tuple = setting(
        (), "to draw: 'a {circle} and a star'; empty: the neutral ones", rule=_prompts
    )
    scales: tuple = setting(
        (-1.0, -0.5, 0.0, 0.5, 1.0), "of the direction when drawing", rule=_scales
    )
    guidance: tuple = setting(
        ("unguided", "cfg", "sg"), "guidance settings for --measure", rule=tuples.names
    )
    measured: int = setting(100, "prompts for --measure", low=2, high=100_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs:
            return
        counts = {name: len(getattr(self, name)) for name in ("neutral", "positive", "negative")}
        if (self.positive or self.negative) and len(set(counts.values())) > 1:
            told = ", ".join(f"{count} {name}" for name, count in counts.items())
            rule = f"must have as many prompts as the others: there are {told}."
            raise SettingError(self.SECTION, "positive", self.positive, rule)

    def unread(self) -> dict[str, str]:
        if not self.pairs:
            return {}
        reason = "the prompts come from pairs"
        return {name: reason for name in ("subjects", "neutral", "positive", "negative")}

    @property
    def contrasts(self) -> list[Contrast]:
        """The contrastive prompts.

        Raises:
          UserError: there are none, or their file cannot be read.
        """
        if self.pairs:
            return contrasts.read(self.pairs, "config.control.pairs")
        if not self.subjects or not self.positive:
            raise UserError(
                "config.control has no contrastive prompts: give config.control.subjects with "
                "neutral, positive and negative, or a file of pairs."
            )
        return contrasts.of_templates(self.neutral, self.positive, self.negative, self.subjects)

    def drawn(self, found: list[Contrast]) -> list[Marked]:
        """Return the prompts to draw: `prompts`, or the neutral ones of the contrasts."""
        if self.prompts:
            return [subjects.marked(text) for text in self.prompts]
        return list(dict.fromkeys(contrast.neutral for contrast in found))
