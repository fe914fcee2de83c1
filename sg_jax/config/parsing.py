"""What can be configured, with its defaults; files and command lines laid over them.

A file in `configs/` sets only what its experiment is about; an unknown key is an error with the
nearest right name. Values are checked in `experiment`, by the constructors that take them.
"""

import ast
import dataclasses
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from sg_jax.encoders.classifier import Recipe
from sg_jax.errors import UserError, nearest
from sg_jax.method.guidance import PRESETS, Guidance
from sg_jax.method.objective import FlowMatching
from sg_jax.method.sampler import Sampler
from sg_jax.runs import files

SCHEDULED = ("scale", "gamma_strong", "gamma_weak")  # keys of a guidance setting


def defaults() -> ConfigDict:
    """Return every key with its default value."""
    presets = {name: _setting(preset) for name, preset in PRESETS.items()}
    return ConfigDict(
        dict(
            seed=0,  # of weights, data order, noise and token ids
            data=dict(
                name="digits",  # "digits", any TFDS name, or latents written by data/latents.py
                data_dir="",  # empty: TFDS's own ($TFDS_DATA_DIR or ~/tensorflow_datasets)
                split="train",
                test_split="test",
                image_size=0,  # 0: as stored; else resized and centre-cropped to this side
                flip=False,  # mirror half of the training images (not latents)
                workers=0,  # processes that read and decode; 0 uses threads of this process
                threads=4,  # that prepare batches ahead, in each of these processes
            ),
            model=dict(
                kind="dit",  # "dit", "maskdit" (masking) or "ssm" (state-space blocks)
                size="",  # "XL/2" and so on; empty: the four values below
                depth=0,
                width=0,
                heads=0,
                patch=0,
                routes=(),  # ((start, end), ...): blocks, 0-based, both included
                mlp_ratio=4.0,
                dtype="float32",  # compute type; parameters are float32
                remat="none",  # what the backward pass recomputes: "none", "selective" or "full"
                attention="auto",  # "xla", "pallas", or that kernel where it is faster, on TPU
                learn_sigma=False,  # 2 C output channels, as SiT was published
                prediction="velocity",  # or "edm": the output of EDM's preconditioning
                decoder_width=512,  # these three: maskdit
                decoder_depth=8,
                decoder_heads=16,
                state=16,  # these three: ssm
                expand=2,
                scan="sequential",  # or "associative"
                image_size=0,  # these three 0: from the data
                channels=0,
                num_classes=0,
            ),
            objective=dataclasses.asdict(FlowMatching()),  # see objective.py
            optimizer=dict(
                learning_rate=1e-4,
                schedule="constant",  # or "cosine"
                warmup=0,  # steps
                b1=0.9,
                b2=0.999,
                weight_decay=0.0,
                clip_norm=1.0,  # 0: no clipping
            ),
            mesh=dict(
                replica=1, data=-1, fsdp=1, tensor=1
            ),  # devices along each axis; -1: the rest
            train=dict(
                steps=1000,
                batch_size=256,  # over all devices
                accumulate=1,  # parts the batch is run in, one after the other, to save memory
                ema_decay=0.9999,
                ema_decays=(),  # more moving averages to keep beside it, each its own decay
                gammas=(),  # ((step, gamma), ...): after that step, instead of objective.gamma
                log_every=100,  # steps
                sample_every=0,  # steps between sample grids; 0: none
                then=(),  # modes that follow: "sample", "evaluate"
                init_from="",  # a run whose weights to start from, to finetune
            ),
            checkpoint=dict(every=1000, keep=2, keep_period=0),  # steps, the latest n, every n-th
            guidance=presets,  # settings by name; a config may add its own
            sampler=dataclasses.asdict(Sampler()),  # see sampler.py
            sample=dict(
                guidance="sg",
                steps=40,
                batch_size=64,  # over all devices
                chunk=-1,  # tokens per device that blocks run at once; 0: all, -1: as suits it
                labels=(),  # empty: every class in turn
                count=64,  # images
            ),
            features=dict(  # the network whose hidden layer measures images
                path="",  # .npz to keep it in, for runs to share; empty: the run's own
                **dataclasses.asdict(Recipe()),  # see evaluation/classifier.py
            ),
            evaluate=dict(
                guidance=("unguided", "cfg", "sg"),
                samples=1000,  # images per setting and seed
                seeds=(),  # of noise and token ids, for error bars; empty: config.seed alone
                step=0,  # which checkpoint; 0: the latest
                references=0,  # training images to compare with; 0: all
                columns=10,  # classes shown in the picture
            ),
            sweep=dict(  # a cell of the grid is one guidance setting
                gamma_strong=(0.0, 0.25, 0.5, 0.75),
                gamma_weak=(0.0, 0.25, 0.5, 0.75, 0.9),
                scale=(1.25, 1.5, 1.75, 2.0),
                weak_label="same",
                samples=1000,  # images per cell
            ),
            diversity=dict(guidance=("cfg", "sg"), samples=1000),
            profile=dict(start=0, steps=5),  # steps to trace, from which one on; 0: none
            bench=dict(
                repeats=20,
                images_per_second=0.0,  # that a step consumes per host, for "data"; 0: measured
            ),
        )
    )


def _setting(guidance: Guidance) -> ConfigDict:
    # Not type-safe, because a number may become a schedule; Guidance checks what it gets.
    return ConfigDict(dataclasses.asdict(guidance), type_safe=False)


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
    if spec is None:
        raise UserError(f"--config={path} must be a Python file with a function get_config().")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent.resolve()))  # a config may build on one beside it
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
            config.guidance[name] = _setting(Guidance())
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
    argv: Sequence[str],
    flag_values: flags.FlagValues,
    of_run: Callable[[str], ConfigDict] | None = None,
) -> ConfigDict:
    """Parse a command line: `--config FILE`, `--config.key=value` and the flags of `flag_values`.

    Args:
      argv: with the program's name first.
      flag_values: flags defined so far; filled in place.
      of_run: returns the config of the run in a folder, for a command without `--config`.
    """
    path, rest = _take("config", list(argv))
    workdir, _ = _take("workdir", rest)
    a_run = of_run and workdir and (files.path(workdir) / "config.json").exists()
    if path is None and not a_run:
        raise UserError(
            "--config is missing: give an experiment, such as configs/digits.py, or as --workdir "
            "the folder of a run that is to go on as it began."
        )
    config = load(path) if path is not None else of_run(workdir)
    for argument in rest:
        if argument.startswith(("--config.", "-config.")):
            _check_key(config, argument.lstrip("-").split("=")[0])
    rest = _last_of_each(rest)
    try:
        rest = _take_schedules(config, rest)
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=flag_values, lock_config=True, sys_argv=rest
        )
        left = flag_values(rest)
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(_explain(str(error), config, flag_values)) from None
    if left[1:]:
        raise UserError(f"{left[1]!r} is not a flag: flags begin with -- and keys with --config.")
    return merge(_split_names(flag_values["config"].value))


def _last_of_each(argv: list[str]) -> list[str]:
    """Return the arguments without values that a later one replaces: tuples would be joined."""
    last = {a.lstrip("-").partition("=")[0]: i for i, a in enumerate(argv) if "=" in a}
    return [a for i, a in enumerate(argv) if last.get(a.lstrip("-").partition("=")[0], i) == i]


def _take_schedules(config: ConfigDict, argv: list[str]) -> list[str]:
    """Set what may be a number or a schedule (see `schedule`); return the other arguments."""
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


def _explain(message: str, config: ConfigDict, flag_values: flags.FlagValues) -> str:
    """Return the parser's message in our form."""
    if message.startswith("flag --config."):
        dotted, _, value = message.removeprefix("flag --").partition(": ")[0].partition("=")
        node = config
        for key in dotted.split(".")[1:]:
            node = node[key]
        return f"--{dotted}={value!r} must be of type {type(node).__name__}, such as {node!r}."
    message = message.rstrip(" ?.") + ("?" if "Did you mean" in message else ".")
    if not message.startswith("Unknown"):
        return message[0].upper() + message[1:]
    known = ", ".join(f"--{f}" for f in flag_values if "." not in f and f != "config")
    return f"{message} Flags are --config, {known} and --config.<key>=<value>."


def _split_names(node):
    """Take the text "cfg,sg", given for a tuple, as two names."""
    if isinstance(node, ConfigDict):
        return {key: _split_names(value) for key, value in node.items()}
    if isinstance(node, tuple) and len(node) == 1 and isinstance(node[0], str):
        return tuple(name.strip() for name in node[0].split(","))
    return node


def _take(flag: str, argv: list[str]) -> tuple[str | None, list[str]]:
    """Return the value of a flag, if it is given, and the other arguments."""
    found, rest = None, []
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            found = value if equals else next(arguments, None)
        else:
            rest.append(argument)
    return found, rest


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
