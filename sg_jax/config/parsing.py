"""From files and command lines to a config: the given values, laid over the defaults.

A file in `configs/` sets only what its experiment is about. An unknown key is an error that
suggests the nearest right one. Values are checked by their sections (`config.sections`).
"""

import ast
import importlib.util
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from sg_jax.config import tree
from sg_jax.config.tree import defaults
from sg_jax.errors import UserError, nearest, plain, shown
from sg_jax.method.guidance import Guidance

# Keys of a guidance setting: numbers or schedules, and those with other values of two types.
SCHEDULED = ("scale", "gamma_strong", "gamma_weak", "skip_scale", "inner_scale")
OF_TWO_TYPES = (*SCHEDULED, "weak_step", "skip")
NAME = re.compile(r"\w[\w +=()\[\],;@#%!~^-]{0,99}")  # of a guidance setting; no path, no HTML
KEY = ("--config.", "-config.")  # how a key on a command line begins
NUMBER = re.compile(r"-\.?\d")  # how a negative one does
SWITCH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def load(path: str) -> ConfigDict:
    """Return the config of a file's `get_config()` laid over the defaults, with its types."""
    try:
        file = pathlib.Path(path).expanduser()
        exists = file.is_file()
        folder = file if file.is_dir() else file.parent
        known = [] if exists else [str(p) for p in sorted(folder.glob("*.py"))]
    except (OSError, RuntimeError, ValueError):  # a text that cannot name a file
        exists, known = False, []
    if not exists:
        known = known or ["configs/digits.py"]
        raise UserError(
            f"--config={path[:200]}: no such file. These exist: {', '.join(known)}."
            + nearest(path, known)
        )
    given = _run(path, file)
    if not isinstance(given, Mapping | ConfigDict):
        raise UserError(
            f"--config={path}: get_config() returns {shown(given)}; it must return a ConfigDict."
        )
    return merge(given)


def _run(path: str, file: pathlib.Path) -> Any:
    """Return what `get_config()` of a file returns; raise if the file fails."""
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path} must be a Python file with a function get_config().")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent.resolve()))  # a config may import one next to it
    try:
        spec.loader.exec_module(module)
        found = getattr(module, "get_config", None)
        given = found() if callable(found) else None
    except UserError:
        raise
    except Exception as error:  # whatever the file does
        raise UserError(f"--config={path} fails with {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise UserError(f"--config={path} has no function get_config() that returns the config.")
    return given


def merge(given: Mapping | ConfigDict) -> ConfigDict:
    """Lay a (nested) mapping over the defaults; an unknown key or a wrong type is an error."""
    config = defaults()
    settings = given.get("guidance", {})
    for name in settings if isinstance(settings, Mapping | ConfigDict) else ():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UserError(
                f"config.guidance: {shown(name)} cannot name a setting, because files get its "
                "name: use at most 100 letters, digits, spaces and signs such as _, +, - and =."
            )
        if name not in config.guidance:
            config.guidance[name] = tree.setting_dict(Guidance())
    _lay(config, given, "config")
    return config.lock()


def _lay(config: ConfigDict, given: Mapping | ConfigDict, prefix: str) -> None:
    for key, value in given.items():
        if not isinstance(key, str) or key not in config:
            name = key[:100] if isinstance(key, str) else shown(key)
            raise UserError(f"{prefix}.{name} is not a config key.{nearest(key, config)}")
        path, now, value = f"{prefix}.{key}", config[key], plain(value)
        if isinstance(now, ConfigDict):
            if not isinstance(value, Mapping | ConfigDict):
                raise UserError(f"{path}={shown(value)} must be a section: {', '.join(now)}.")
            _lay(now, value, path)
            continue
        try:
            if isinstance(value, bool) and type(now) in (int, float):  # True is not 1
                raise TypeError
            if not config.is_type_safe:  # otherwise an int would become a float
                del config[key]
            config[key] = value
        except (TypeError, ValueError, OverflowError, RecursionError):
            kind = type(now).__name__
            raise UserError(f"{path}={shown(value)} must be of type {kind}.") from None


def parse(
    arguments: Sequence[str],
    path: str | None = None,
    of_run: Callable[[], ConfigDict] | None = None,
    known: Iterable[str] = (),
) -> ConfigDict:
    """Return the config of a command line.

    Args:
      arguments: `--config.key=value`, or `--config.key value`.
      path: of the config file.
      of_run: returns the config of the run that the command is for, if it has one; used without a
        file.
      known: the names of the command's other flags, for the message about an unknown flag.
    """
    if path is not None:
        config = load(path)
    elif of_run is not None:
        config = of_run()
    else:
        raise UserError(
            "--config is missing: give an experiment, such as configs/digits.py, or the folder of "
            "a run to continue as --workdir."
        )
    given, left = config.to_dict(), []
    for argument in joined(arguments):
        dotted, equals, text = argument.lstrip("-").partition("=")
        if argument.startswith(KEY):
            _check_key(config, dotted)
            _, *sections, key = dotted.split(".")
            node: Any = given
            for section in sections:
                node = node[section]
            node[key] = _value(dotted, text if equals else None)
        else:
            left.append(argument)
    refuse(left, known)
    return merge(given)


def _value(dotted: str, text: str | None) -> Any:
    """Return the value of a key from its text; None if a command line gives the key alone."""
    default = tree.default(dotted)
    kind, (_, *sections, key) = type(default), dotted.split(".")
    of_two_types = sections[:1] == ["guidance"] and key in OF_TWO_TYPES
    if text is None:
        if kind is bool:
            return True
        raise UserError(f"Missing value: give one, such as --{dotted}={default}.")
    try:
        if of_two_types:
            return _literal(text)
        if kind is tuple:
            return _tuple(text)
        return SWITCH[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        words = f"of type {kind.__name__}, such as {default!r}"
        if of_two_types:
            words = "a number"
        if of_two_types and key in SCHEDULED:
            words += " or a schedule, such as ('cosine',0.6,0.0)"
        if of_two_types and key == "skip":
            words = "a number of blocks, or the numbers of blocks, such as (2,3)"
        raise UserError(f"--{dotted}={shown(text)} must be {words}.") from None


def _literal(text: str) -> Any:
    """Return the Python number, text or tuple that a text spells, or raise a ValueError."""
    try:
        return ast.literal_eval(text.strip())
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _tuple(text: str) -> tuple:
    """Return the tuple that a text spells, such as "(1, 2)", "[1, 2]", "1,2", "1" or "cfg,sg"."""
    try:
        found = _literal(text) if text.strip() else ()
    except ValueError:
        if text.strip()[:1] in "([{":
            raise
        found = [name.strip() for name in text.split(",")]
    return tuple(found) if isinstance(found, list | tuple) else (found,)


def refuse(left: Sequence[str], known: Iterable[str] = ()) -> None:
    """Raise if arguments are left over."""
    if left and left[0].startswith("-"):
        raise UserError(_unknown(left[0].partition("=")[0], known))
    if left:
        raise UserError(
            f"{shown(left[0])} is not a flag: flags begin with -- and keys with --config."
        )


def joined(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with "--config.key", "value" joined into "--config.key=value"."""
    out: list[str] = []
    for argument in arguments:
        before = out[-1] if out else ""
        open_key = before.startswith(KEY) and "=" not in before
        if open_key and (NUMBER.match(argument) or not argument.startswith("-")):
            out[-1] = f"{before}={argument}"
        else:
            out.append(argument)
    return out


def keys_of(arguments: Sequence[str]) -> set[str]:
    """Return the keys that a command line sets, such as "train.steps"."""
    names = [a.lstrip("-").partition("=")[0] for a in joined(arguments)]
    return {n.removeprefix("config.") for n in names if n.startswith("config.")}


def _unknown(flag: str, known: Iterable[str]) -> str:
    names = [f"--{name}" for name in known]
    keys = [f"--{key}" for key in _leaves(defaults()) if key.endswith(f".{flag.lstrip('-')}")]
    hint = f" These keys end so: {', '.join(keys)}." if keys else nearest(flag, names)
    return (
        f"{_plainly(flag)} is not a flag.{hint} The flags are {', '.join(names)} "
        f"and --config.<key>=<value>."
    )


def _plainly(word: str) -> str:
    """Return a word of a command as it is, or in quotes and shortened if it is strange."""
    return word if word.isprintable() and len(word) < 100 else shown(word)


def _check_key(config: ConfigDict, dotted: str) -> None:
    node, path = config, "config"
    for key in dotted.split(".")[1:]:
        if not isinstance(node, ConfigDict) or key not in node:
            options = list(node) if isinstance(node, ConfigDict) else []
            full = [k for k in _leaves(config) if k.endswith(f".{key}")]
            hint = nearest(key, options, cutoff=0.8 if full else 0.5)
            if path == "config.guidance":
                hint += " A new setting needs a config file."
            elif full:
                other = nearest(dotted, full)  # the right key, under the wrong section
                hint += other.replace("Did you mean", "Or") if hint else other
            hint = hint or nearest(dotted, _leaves(config))
            allowed = f" Keys of {path}: {', '.join(options)}." if options else ""
            raise UserError(
                f"{_plainly(f'--{dotted}')}: {path} has no key {shown(key)}.{hint}{allowed}"
            )
        node, path = node[key], f"{path}.{key}"
    if isinstance(node, ConfigDict):
        raise UserError(f"--{dotted} is a section; set one of its keys: {', '.join(node)}.")


def _leaves(config: ConfigDict, prefix: str = "config") -> list[str]:
    out = []
    for key, value in config.items():
        path = f"{prefix}.{key}"
        out += _leaves(value, path) if isinstance(value, ConfigDict) else [path]
    return out
