"""The one error meant for users, and settings that check themselves and raise it.

A section of settings is a frozen dataclass derived from `Settings`. Each field is declared once, by
`setting`: its default, its meaning, the values it allows, and whether a run may change it. The
check, the help text, the config's defaults and the rule for continuing a run all come from there.

To add a setting, add a field to its section.
"""

import contextlib
import dataclasses
import difflib
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeGuard

import numpy as np

INT32 = 2**31 - 1  # the largest whole number in a program
FLOAT32 = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).tiny)  # smaller numbers are 0 in a program

# When a setting must be the one that the run was trained with; see `setting`.
CONTINUED = ("continued",)
ALWAYS = ("continued", "scored", "sampled")


class UserError(ValueError):
    """Report bad input in one paragraph: the key, its value and what is allowed."""


class SettingError(UserError):
    """Report a wrong value of a setting: its section and name, the value, and the rule."""

    def __init__(self, section: str, name: str, value: Any, rule: str):
        super().__init__(f"{section}.{name}={shown(value)} {rule}")
        self.name, self.value, self.rule = name, value, rule


@contextlib.contextmanager
def section(name: str) -> Iterator[None]:
    """Name the section of settings that are made in this context, such as "config.guidance.sg"."""
    try:
        yield
    except SettingError as error:
        raise SettingError(name, error.name, error.value, error.rule) from None


def nearest(name: object, options: Iterable[object], cutoff: float = 0.5) -> str:
    """Return " Did you mean 'x'?" for the option closest to `name`, or an empty string.

    `cutoff` is how alike they must be, from 0 to 1, as `difflib` measures it.
    """
    text = name if isinstance(name, str) else shown(name)
    close = difflib.get_close_matches(text[:200], [str(o) for o in options], n=1, cutoff=cutoff)
    return f" Did you mean {close[0]!r}?" if close else ""


def one_of(key: str, value: Any, options: Iterable[str]) -> None:
    """Raise unless the value of `key` is one of the texts in `options`."""
    if broken := _other(value, options):
        raise UserError(f"{key}={shown(value)} {broken}")


def _other(value: Any, options: Iterable[str]) -> str:
    """Return "must be one of ..." for a value that is not one of the texts in `options`, or ""."""
    if isinstance(value, str) and value in options:
        return ""
    return f"must be one of {', '.join(map(repr, options))}.{nearest(value, options)}"


class _Short(reprlib.Repr):
    """Texts of values that fit into a message, however large or deep the values are."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxother = 4, 200
        self.maxtuple = self.maxlist = self.maxdict = 12
        self.maxstring = 300

    def repr_int(self, value: int, level: int) -> str:
        if abs(value) < 10**30:
            return repr(value)
        return f"{'-' * (value < 0)}2**{value.bit_length() - 1} or more"


def shown(value: Any) -> str:
    """Return the text of a value for a message: one line, shortened if it is long."""
    return re.sub(r"\s*\n\s*", " ", _Short().repr(value))


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is an int or a float, and neither a bool nor NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def is_text(value: str) -> bool:
    """Return whether a text can be written to a file, and may name one."""
    try:
        return len(value) <= 4096 and b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def is_whole(value: Any) -> TypeGuard[int]:
    """Return whether a value is an int, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def one_line(cause: BaseException) -> str:
    """Return an exception as one line of at most 300 characters, without a full stop."""
    kind = "" if isinstance(cause, UserError) else f"{type(cause).__name__}: "
    text = " ".join(f"{kind}{cause}".split()).rstrip(": .")
    return text if len(text) <= 300 else text[:297] + "..."


def _number(value: float) -> str:
    if value == 2**32:
        return "2**32"
    return str(value) if isinstance(value, int) else f"{value:g}"


@dataclasses.dataclass(frozen=True)
class Declared:
    """The declaration of one setting; see `setting`."""

    text: str
    low: float | None
    high: float | None
    above: float | None
    below: float | None
    options: Iterable[str] | None
    rule: Callable[[Any], str] | None
    fixed: tuple[str, ...]
    note: str

    def broken(self, value: Any, default: Any) -> str:
        """Return the rule that a value breaks, as the end of a sentence, or ""."""
        if self.rule is not None:
            return self.rule(value)
        if self.options is not None:
            return _other(value, self.options)
        kind = type(default)
        fits: Any = {float: int | float}.get(kind, kind)
        if not isinstance(value, fits) or (kind is not bool and isinstance(value, bool)):
            words = {bool: "True or False", int: "an int", float: "a number", str: "a string"}
            return f"must be {words.get(kind, 'a ' + kind.__name__)}."
        if kind is str:
            return "" if is_text(value) else "must be Unicode of at most 4,096 characters."
        if kind not in (int, float):
            return ""
        if not self._inside(value):
            return f"must {self._bounds()}{self.note}."
        if kind is int:
            bounded = self.high is not None or self.below is not None
            large = f"must be at most {INT32}: programs count in int32."
            return large if value > INT32 and not bounded else ""
        if abs(value) > FLOAT32:
            large = f"must be at most {FLOAT32:.3g} in size: programs compute in float32."
            return "" if value == self.high else large
        rounded = 0.0 if abs(value) < TINY else float(np.float32(value))
        if not self._inside(rounded, strict=True):
            return f"must {self._bounds()}{self.note}: in float32 it is {_number(rounded)}."
        return ""

    def _inside(self, value: float, strict: bool = False) -> bool:
        """Return whether a value lies within the bounds; `strict`: only those it cannot reach."""
        return (
            value == value  # not NaN
            and (strict or self.low is None or value >= self.low)
            and (strict or self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def _bounds(self) -> str:
        least, most = (
            next((b for b in pair if b is not None), None)
            for pair in ((self.low, self.above), (self.high, self.below))
        )
        most = None if most == math.inf else most
        if least is not None and most is not None:
            left, right = "(" if self.low is None else "[", ")" if self.high is None else "]"
            return f"lie in {left}{_number(least)}, {_number(most)}{right}"
        if self.above is not None:
            return f"be above {_number(self.above)}"
        if self.low is not None:
            return f"be at least {_number(self.low)}"
        return "be a number" if most is None else f"be at most {_number(most)}"

    @property
    def allowed(self) -> str:
        """The values that the setting allows, for its help text; "" if the default says it all."""
        if self.options is not None:
            return "one of " + ", ".join(map(repr, self.options))
        bounds = (self.low, self.high, self.above, self.below)
        return self._bounds() if any(b is not None for b in bounds) else ""


def setting(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    options: Iterable[str] | None = None,
    rule: Callable[[Any], str] | None = None,
    fixed: tuple[str, ...] = (),
    note: str = "",
) -> Any:
    """Declare a field of a section.

    Args:
      default: its default; values must have the same type, unless there is a `rule`.
      text: its meaning, for `--help`.
      low, high: bounds that a value may reach.
      above, below: bounds that a value must not reach.
      options: the allowed texts.
      rule: returns what is wrong with a value, such as "must be ...", or "".
      fixed: when it must be the one that a run was trained with: `CONTINUED`, `ALWAYS`, ...
      note: added to the message about the bounds.
    """
    declared = Declared(text, low, high, above, below, options, rule, fixed, note)
    return dataclasses.field(default=default, metadata={"setting": declared})


class Settings:
    """A section of settings that checks itself; derive a frozen dataclass from it.

    NumPy and JAX scalars become Python numbers, and lists become tuples. Settings that the chosen
    options do not read must keep their defaults, because they would be ignored.
    """

    SECTION = "settings"  # its name in messages, unless `section` gives another

    def __post_init__(self) -> None:
        for name, declared in declared_in(self).items():
            value = plain(getattr(self, name))
            object.__setattr__(self, name, value)
            if broken := declared.broken(value, default_of(type(self), name)):
                raise SettingError(self.SECTION, name, value, broken)
        for name, reason in self.unread().items():
            value, default = getattr(self, name), default_of(type(self), name)
            if value != default:
                raise SettingError(
                    self.SECTION, name, value, f"has no effect: {reason}. Leave it at {default!r}."
                )

    def unread(self) -> Mapping[str, str]:
        """Return the settings that nothing reads with these values, and why."""
        return {}


def declared_in(settings: Settings | type[Settings]) -> dict[str, Declared]:
    """Return the declarations of a section's settings, by name."""
    fields = dataclasses.fields(settings)  # type: ignore[arg-type]
    return {f.name: f.metadata["setting"] for f in fields if "setting" in f.metadata}


def default_of(settings: type[Settings], name: str) -> Any:
    """Return the default of a setting."""
    return next(f.default for f in dataclasses.fields(settings) if f.name == name)  # type: ignore[arg-type]


def plain(value: Any, levels: int = 6) -> Any:
    """Return a plain Python value: NumPy and JAX scalars as numbers, lists and arrays as tuples.

    Lists may be nested `levels` deep. Anything deeper stays as it is, and so does everything else.
    """
    if isinstance(value, list | tuple):
        return tuple(plain(v, levels - 1) for v in value) if levels else value
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)
    if not hasattr(value, "tolist"):
        return value
    try:
        found = value.tolist()
    except Exception:  # a traced value, or a random key
        return value
    return plain(found, levels - 1) if levels else value
