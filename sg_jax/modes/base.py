"""What a mode of the command is, and the table of all modes.

To add one: 1. write a file here with a function `run(job)` that returns the paths it wrote, 2. end
it with `MODE = register(Mode(...))`. `--help`, the command line and the checks before any work
follow from that.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from ml_collections import ConfigDict

from sg_jax.config.experiment import Experiment, build
from sg_jax.data.sources import Source
from sg_jax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Job:
    """What a mode is to do.

    Attributes:
      workdir: folder of the run; "" for none.
      command: what follows `python -m sg_jax.main`, so that it can be run again.
      options: values of the mode's own flags, by name.
      config: completed; None for a mode that takes none.
      source: the training images; None for a mode that reads none.
    """

    workdir: str = ""
    command: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: ConfigDict | None = None
    source: Source | None = None

    @functools.cached_property
    def experiment(self) -> Experiment:
        """The objects that the config describes, built at the first use."""
        assert self.config is not None
        return build(self.config)


@dataclasses.dataclass(frozen=True)
class Option:
    """A flag of one mode, `--name VALUE`.

    Attributes:
      name: without dashes.
      help: one line.
      default: where it is not given.
      choices: what it may be; empty for anything.
      many: whether it takes several values.
      required: whether it must be given.
      positional: whether its values stand without a flag.
      type: of a value.
    """

    name: str
    help: str
    default: Any = ""
    choices: tuple[str, ...] = ()
    many: bool = False
    required: bool = False
    positional: bool = False
    type: Callable[[str], Any] = str


@dataclasses.dataclass(frozen=True)
class Mode:
    """A row of `MODES`.

    Attributes:
      name: the value of --mode.
      help: what it does, in one line.
      run: does it, and returns the paths of what it wrote.
      config: whether it takes a config, from a file or from the run in --workdir.
      workdir: whether --workdir must be given.
      same: where it needs a trained run: "sampled" or "scored", for what must be as it was in
        training; see `errors.setting`.
      data: whether it reads the training images.
      pixels: whether they must be images, not latents.
      alone: whether process 0 does it by itself.
      handles_stop: whether it saves and ends by itself at SIGTERM.
      options: its own flags.
    """

    name: str
    help: str
    run: Callable[[Job], Sequence[Any]]
    config: bool = True
    workdir: bool = True
    same: str = ""
    data: bool = True
    pixels: bool = False
    alone: bool = False
    handles_stop: bool = False
    options: tuple[Option, ...] = ()


MODES: dict[str, Mode] = {}


def register(mode: Mode) -> Mode:
    """Give `MODES` one more row, and return it."""
    MODES[mode.name] = mode
    return mode


def mode_named(name: str) -> Mode:
    """Return a mode, or raise with the names there are."""
    if name not in MODES:
        raise UserError(f"--mode={name} must be one of {', '.join(MODES)}.{nearest(name, MODES)}")
    return MODES[name]


class Parser(argparse.ArgumentParser):
    """A parser of flags that raises a UserError where it cannot parse."""

    def __init__(self, options: Sequence[Option] = ()):
        super().__init__(add_help=False, allow_abbrev=False)
        for option in options:
            self.add_option(option)

    def add_option(self, option: Option) -> None:
        """Add a flag."""
        given: dict[str, Any] = dict(help=option.help, type=option.type)
        if option.choices:
            given["choices"] = option.choices
        if option.many:
            given["nargs"] = "+"
        if option.positional:
            self.add_argument(option.name, **given)
        else:
            given |= dict(default=option.default, required=option.required, dest=option.name)
            self.add_argument(f"--{option.name}", **given)

    def error(self, message: str) -> NoReturn:
        raise UserError(message[0].upper() + message[1:] + ".")


def explain_modes() -> str:
    """Return a line for each mode, and its flags below it."""
    lines = []
    # Training first, then what a trained run is for.
    for mode in sorted(MODES.values(), key=lambda m: (m.name != "train", not m.same, m.name)):
        lines.append(f"    {mode.name:10} {mode.help}")
        for option in mode.options:
            flag = option.name.upper() if option.positional else f"--{option.name}"
            lines.append(f"      {flag:12} {option.help}")
    return "\n".join(lines)
