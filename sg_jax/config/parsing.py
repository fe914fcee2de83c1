"""From files and command lines to a config: the given values, laid over the defaults.

A file in `configs/` sets only what its experiment is about. An unknown key is an error that
suggests the nearest right one. Values are checked by their sections (`config.sections`).
"""

import ast
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from sg_jax.config import tree
from sg_jax.config.tree import defaults
from sg_jax.errors import UserError, nearest
from sg_jax.method.guidance import Guidance

SCHEDULED = ("scale", "gamma_strong", "gamma_weak")  # keys of a guidance setting


def load(path: str) -> ConfigDict:
    """Return the config of a file's `get_config()` laid over the defaults, with its types."""
    file = pathlib.Path(path)
    if not file.is_file():
        folder = file if file.is_dir() else file.parent
        known = [str(p) for p in sorted(folder.glob("*.py"))] or ["configs/digits.py"]
        raise UserError(
            f"--config={path}: no such file. There are: {', '.join(known)}." + nearest(path, known)
        )
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path} must be a Python file with a function get_config().")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent.resolve()))  # a config may import one beside it
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    if not hasattr(module, "get_config"):
        raise UserError(f"--config={path} has no function get_config() that returns the config.")
    given = module.get_config()
    if not hasattr(given, "items"):
        raise UserError(
            f"--config={path}: get_config() returns {given!r}; it must return a ConfigDict."
        )
    return merge(given)


def merge(given) -> ConfigDict:
    """Lay a (nested) mapping over the defaults; an unknown key or a wrong type is an error."""
    config = defaults()
    settings = given.get("guidance", {})
    for name in settings if hasattr(settings, "items") else ():
        if name not in config.guidance:
            config.guidance[name] = tree.setting_dict(Guidance())
    _lay(config, given, "config")
    return config.lock()


def _lay(config: ConfigDict, given, prefix: str) -> None:
    for key, value in given.items():
        path = f"{prefix}.{key}"
        if key not in config:
            raise UserError(f"{path} is not a config key." + nearest(key, config))
        if isinstance(config[key], ConfigDict):
            if not hasattr(value, "items"):
                raise UserError(f"{path}={value!r} must be a section: {', '.join(config[key])}.")
            _lay(config[key], value, path)
            continue
        try:
            config[key] = _tuples(value)
        except TypeError:
            kind = type(config[key]).__name__
            raise UserError(f"{path}={value!r} must be of type {kind}.") from None


def _tuples(value):
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


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
    rest = joined(arguments)
    for argument in rest:
        if argument.startswith(("--config.", "-config.")):
            _check_key(config, argument.lstrip("-").split("=")[0])
    values = flags.FlagValues()
    try:
        rest = _take_schedules(config, _last_of_each(rest))
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, lock_config=True, sys_argv=["", *rest]
        )
        left = values(["", *rest])
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(_explain(str(error), config, known)) from None
    refuse(left[1:], known)
    return merge(_split_names(values["config"].value))


def refuse(left: Sequence[str], known: Iterable[str] = ()) -> None:
    """Raise if arguments are left over."""
    if left and left[0].startswith("-"):
        raise UserError(_unknown(left[0].partition("=")[0], known))
    if left:
        raise UserError(f"{left[0]!r} is not a flag: flags begin with -- and keys with --config.")


def joined(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with "--config.key", "value" joined into "--config.key=value"."""
    out: list[str] = []
    for argument in arguments:
        before = out[-1] if out else ""
        open_key = before.startswith(("--config.", "-config.")) and "=" not in before
        number = argument[:1] == "-" and argument[1:2].isdigit()
        if open_key and (number or not argument.startswith("-")):
            out[-1] = f"{before}={argument}"
        else:
            out.append(argument)
    return out


def _last_of_each(argv: list[str]) -> list[str]:
    """Drop arguments that a later one replaces; otherwise their tuples would be joined."""
    last = {a.lstrip("-").partition("=")[0]: i for i, a in enumerate(argv) if "=" in a}
    return [a for i, a in enumerate(argv) if last.get(a.lstrip("-").partition("=")[0], i) == i]


def _take_schedules(config: ConfigDict, argv: list[str]) -> list[str]:
    """Set keys that may be numbers or schedules (see `schedule`); return the other arguments."""
    rest = []
    for argument in argv:
        dotted, equals, text = argument.lstrip("-").partition("=")
        path = dotted.split(".")
        if path[:2] != ["config", "guidance"] or path[-1] not in SCHEDULED or not equals:
            rest.append(argument)
            continue
        try:
            config.guidance[path[2]][path[3]] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise UserError(
                f"--{dotted}={text!r} must be a number or a schedule, such as ('cosine',0.6,0.0)."
            ) from None
    return rest


def _explain(message: str, config: ConfigDict, known: Iterable[str]) -> str:
    """Return the parser's message in our form."""
    if message.startswith("flag --config."):
        dotted, _, value = message.removeprefix("flag --").partition(": ")[0].partition("=")
        node: Any = config
        for key in dotted.split(".")[1:]:
            node = node[key]
        return f"--{dotted}={value!r} must be of type {type(node).__name__}, such as {node!r}."
    if not message.startswith("Unknown"):
        return message[0].upper() + message[1:].rstrip(" .") + "."
    return _unknown("--" + message.partition("'")[2].partition("'")[0], known)


def _unknown(flag: str, known: Iterable[str]) -> str:
    names = [f"--{name}" for name in known]
    return (
        f"{flag} is not a flag.{nearest(flag, names)} Flags are {', '.join(names)} and "
        f"--config.<key>=<value>."
    )


def _split_names(node):
    """Split the text "cfg,sg", given for a tuple, into two names."""
    if isinstance(node, ConfigDict):
        return {key: _split_names(value) for key, value in node.items()}
    if isinstance(node, tuple) and len(node) == 1 and isinstance(node[0], str):
        return tuple(name.strip() for name in node[0].split(","))
    return node


def _check_key(config: ConfigDict, dotted: str) -> None:
    node, path = config, "config"
    for key in dotted.split(".")[1:]:
        if not isinstance(node, ConfigDict) or key not in node:
            options = list(node) if isinstance(node, ConfigDict) else []
            full = [k for k in _leaves(config) if k.endswith(f".{key}")]
            if full:  # the right key, under the wrong section
                hint = nearest(dotted, full)
            else:
                hint = nearest(key, options) or nearest(dotted, _leaves(config))
            allowed = f" Keys of {path}: {', '.join(options)}." if options else ""
            raise UserError(f"--{dotted}: {path} has no key {key!r}.{hint}{allowed}")
        node, path = node[key], f"{path}.{key}"
    if isinstance(node, ConfigDict):
        raise UserError(f"--{dotted} is a section; set one of its keys: {', '.join(node)}.")


def _leaves(config: ConfigDict, prefix: str = "config") -> list[str]:
    out = []
    for key, value in config.items():
        path = f"{prefix}.{key}"
        out += _leaves(value, path) if isinstance(value, ConfigDict) else [path]
    return out
