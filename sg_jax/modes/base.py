"""What a mode of the command is, and the table of all modes.

To add one: 1. write a file here with a function `run(job)` that returns the paths it wrote, 2. end
it with `MODE = register(Mode(...))`. `--help`, the command line and the checks before any work
follow from it.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ml_collections import ConfigDict

from sg_jax.config import trust
from sg_jax.config.experiment import Experiment, build
from sg_jax.config.sections import Config
from sg_jax.costs.machines import Machine
from sg_jax.data import asked
from sg_jax.data.sources import Source
from sg_jax.encoders.text import BYTES
from sg_jax.errors import UserError, nearest
from sg_jax.runs import files
from sg_jax.weights import decoders


@dataclasses.dataclass(frozen=True)
class Job:
    """The task of a mode.

    Attributes:
      workdir: the folder of the run; "" for none.
      command: the arguments after `python -m sg_jax.main`, so that it can be run again.
      options: values of the mode's own flags, by name.
      config: the completed config; None for a mode without one.
      source: the training images; None for a mode that does not, or need not, read them.
      said: the keys that the command line sets; all of them if it gives a config file.
      chips: how many a dry run is for, if not for those that are here.
    """

    workdir: str = ""
    command: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: ConfigDict | None = None
    source: Source | None = None
    said: Collection[str] = ()
    chips: int | None = None

    @functools.cached_property
    def experiment(self) -> Experiment:
        """The objects that the config describes, built at the first use."""
        assert self.config is not None
        return build(self.config, self.chips)

    @functools.cached_property
    def captioned(self) -> Experiment:
        """The experiment, with the captions that a network of texts draws."""
        experiment, source = self.experiment, self.source
        if experiment.wording is None or source is None or self.options.get("prompts"):
            return experiment
        found = asked.of_data(experiment.config.data, experiment.config.text, source)
        return dataclasses.replace(experiment, captions=found)

    @functools.cached_property
    def drawing(self) -> Experiment:
        """The experiment, with the autoencoder that decodes what is drawn, if that is latents.

        It also has the captions that a network of texts draws.

        Raises:
          decoders.Missing: nothing names an autoencoder that exists.
          UserError: it cannot be read, or belongs to other latents, or there are no captions.
        """
        experiment, source = self.captioned, self.source
        if source is None or not source.latents:
            return experiment
        found = decoders.of_latents(experiment.config, source)
        return dataclasses.replace(experiment, autoencoder=found)


@dataclasses.dataclass(frozen=True)
class Option:
    """A flag of one mode, `--name VALUE`.

    Attributes:
      name: without dashes.
      help: one line.
      default: its value if it is not given.
      choices: the allowed values; empty for any.
      many: whether it may have several values.
      required: whether it must be given.
      positional: whether its values are given without a flag.
      flag: whether it has no value, and is True if it is given.
      written: whether its value is a folder that the mode writes to.
      type: the type of a value.
    """

    name: str
    help: str
    default: Any = ""
    choices: tuple[str, ...] = ()
    many: bool = False
    required: bool = False
    positional: bool = False
    flag: bool = False
    written: bool = False
    type: Callable[[str], Any] = str


@dataclasses.dataclass(frozen=True)
class Mode:
    """A row of `MODES`.

    Attributes:
      name: the value of --mode.
      help: what it does, in one line.
      run: runs it, and returns the paths that it wrote.
      config: whether it needs a config, from a file or from the run in --workdir; without one it
        reads no training images, and process 0 does it by itself.
      unless: flags, any one of which makes the config unnecessary.
      network: whether it uses the network; otherwise config.model is not read.
      workdir: whether --workdir must be given.
      same: if it needs a trained run, "sampled" or "scored", which selects the keys that must be as
        in training; see `errors.setting`.
      keys: whether it takes --config and keys of a config although it needs none.
      data: whether it reads the training images.
      recorded: whether the run's record of its data is enough instead.
      pixels: whether it needs images; if the data are latents, something must name their decoder.
      alone: whether only process 0 runs it.
      single: whether it must be the only process: orbax writes with all processes or none.
      handles_stop: whether it handles SIGTERM itself: it saves, then ends.
      writes: the folders in --workdir that it writes to; "" is --workdir itself.
      dry: yields what a dry run prints about it, as pairs such as ("read", "10 images").
      paths: takes a config and --workdir; returns the keys of the paths used; see `config.trust`.
      options: its own flags.
    """

    name: str
    help: str
    run: Callable[[Job], Sequence[Any]]
    config: bool = True
    unless: tuple[str, ...] = ()
    network: bool = True
    workdir: bool = True
    same: str = ""
    keys: bool = False
    data: bool = True
    recorded: bool = False
    pixels: bool = False
    alone: bool = False
    single: bool = False
    handles_stop: bool = False
    writes: tuple[str, ...] = ("",)
    dry: Callable[[Job, Machine], Iterable[tuple[str, str]]] | None = None
    paths: Callable[[Config, str], Sequence[str]] = lambda config, workdir: ()
    options: tuple[Option, ...] = ()


MODES: dict[str, Mode] = {}


def register(mode: Mode) -> Mode:
    """Add a row to `MODES`, and return it."""
    MODES[mode.name] = mode
    return mode


def mode_named(name: str) -> Mode:
    """Return a mode, or raise with the names of all modes."""
    if name not in MODES:
        raise UserError(f"--mode={name} must be one of {', '.join(MODES)}.{nearest(name, MODES)}")
    return MODES[name]


def check_folders(mode: Mode, job: Job) -> None:
    """Raise unless a mode can write what it will write, so that no work is lost at the end."""
    found = [("workdir", job.workdir, part) for part in mode.writes if job.workdir]
    found += [
        (o.name, job.options[o.name], "") for o in mode.options if o.written and job.options[o.name]
    ]
    for name, value, part in found:
        try:
            files.check_writable(files.path(value) / part)
        except UserError as error:
            raise UserError(f"--{name}={value} cannot be written: {error}") from None
    if job.workdir and mode.writes:
        trust.check_links(job.workdir)


def weak_paths(names: Sequence[str]) -> list[str]:
    """Return the keys of the other runs that guidance settings may take a network from."""
    return [f"guidance.{name}.weak_workdir" for name in names]


def encoder_paths(config: Config) -> list[str]:
    """Return the key of the frozen text encoder, if the config names one."""
    return ["text.encoder"] if config.text.encoder != BYTES else []


class Parser(argparse.ArgumentParser):
    """A parser of flags that raises a UserError if it cannot parse."""

    def __init__(self, options: Sequence[Option] = ()):
        super().__init__(add_help=False, allow_abbrev=False)
        for option in options:
            self.add_option(option)

    def add_option(self, option: Option) -> None:
        """Add a flag."""
        given: dict[str, Any] = dict(help=option.help, type=option.type)
        if option.choices:
            given["choices"] = option.choices
        if option.flag:
            given = dict(help=option.help, action="store_true")
        if option.many:
            given["nargs"] = "+"
        if option.positional:
            self.add_argument(option.name, **given)
        else:
            given |= dict(default=option.default, required=option.required, dest=option.name)
            self.add_argument(f"--{option.name}", **given)

    def error(self, message: str) -> NoReturn:
        raise UserError(message[0].upper() + message[1:] + ".")


def explain_modes(names: Collection[str]) -> str:
    """Return a line for each of these modes, and its flags below it."""
    lines = []
    # Training first, then what a trained run is for.
    for mode in sorted(
        map(mode_named, names), key=lambda m: (m.name != "train", not m.same, m.name)
    ):
        lines.append(f"    {mode.name:10} {mode.help}")
        for option in mode.options:
            flag = option.name.upper() if option.positional else f"--{option.name}"
            lines.append(f"      {flag:12} {option.help}")
    return "\n".join(lines)
