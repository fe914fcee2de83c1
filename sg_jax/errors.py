"""The one error a user is meant to read, and the nearest right name."""

import difflib
import sys
from collections.abc import Callable, Iterable, Sequence


class UserError(ValueError):
    """Report bad input: one paragraph with the key, its value and what is allowed."""


def run_command(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    """Run `main(argv)`; a UserError is printed, and ends the process with status 2."""
    try:
        main(argv)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


def nearest(name: str, options: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the option closest to `name`, or an empty string."""
    close = difflib.get_close_matches(str(name), [str(o) for o in options], n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
