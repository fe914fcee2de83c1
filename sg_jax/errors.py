"""The one error a user is meant to read, and the nearest right name."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Report bad input: one paragraph with the key, its value and what is allowed."""


def nearest(name: str, options: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the option closest to `name`, or an empty string."""
    close = difflib.get_close_matches(str(name), [str(o) for o in options], n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
