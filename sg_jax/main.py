"""The command line: find the mode, check what it needs, run it.

    python -m sg_jax.main --config configs/digits.py --workdir runs/digits --mode train

Each mode has a file in `modes`; `config` has every setting.
"""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from sg_jax.parallel import stops

if __name__ == "__main__":
    stops.install()  # first, because importing jax takes seconds

import jax

from sg_jax.config import geometry, help, parsing, record, tree, trust
from sg_jax.config.sections import SECTIONS, Config
from sg_jax.costs import chips, machines
from sg_jax.data import identity, origin, prepare, wording
from sg_jax.data.sources import open_source, options_of
from sg_jax.encoders.text import BYTES
from sg_jax.errors import UserError
from sg_jax.models.kinds import reads_texts
from sg_jax.modes import MODES, dry_run
from sg_jax.modes.base import Job, Mode, Option, Parser, check_folders, explain_modes, mode_named
from sg_jax.parallel import processes
from sg_jax.runs import failures, files
from sg_jax.runs.progress import log
from sg_jax.weights import decoders

USAGE = """Usage: python -m sg_jax.main --config FILE --workdir DIR [--mode MODE] [FLAGS]

  --config FILE        the experiment, such as configs/digits.py; may be left out if DIR is a run
  --workdir DIR        folder of the run, on disk or gs://BUCKET/FOLDER
  --config.KEY=VALUE   set one value, such as --config.train.steps=500
  --help config        list the sections of keys; --help config.train lists those of one, and
                       --help tune explains a mode and its section
  --dry-run            print the resolved config, the costs, and what would be read, computed and
                       written, and stop
  --chips CHIPS        chips to estimate a dry run's times for, such as 16*v5e or 8*H100
  --mfu SHARE          share of their peak to assume, such as 0.5
  --mode MODE          what to do; the modes, each with its own flags:

{modes}
"""
HELP = {"--help", "-help", "-h"}
FLAGS = (
    Option("mode", "what to do", default="train"),
    Option("config", "the experiment", default=None),
    Option("workdir", "folder of the run"),
    Option("chips", "chips of a dry run"),
    Option("mfu", "share of their peak", default=None, type=float),
)


def main(argv: Sequence[str]) -> None:
    """Run one mode.

    Raises:
      UserError: bad input, before anything is compiled or written.
      Failure: a disk, a limit or memory ended it.
    """
    try:
        _run(argv)
    except UserError:
        raise
    except Exception as error:
        workdir = ""
        with contextlib.suppress(UserError):
            workdir = Parser(FLAGS).parse_known_args(parsing.joined(argv[1:]))[0].workdir
        if text := failures.explain(error, workdir):
            raise failures.Failure(text) from error
        raise


def _run(argv: Sequence[str]) -> None:
    if HELP & set(argv[1:]):
        print(_explained(argv[1:]))
        return
    chips.set_flags()
    files.allow_many()
    processes.start()
    arguments = parsing.joined(argv[1:])
    mode = mode_named(Parser(FLAGS[:1]).parse_known_args(arguments)[0].mode)
    parser = Parser((*FLAGS, *mode.options))
    parser.add_argument("--dry-run", action="store_true", dest="dry")
    # By themselves, or a flag of many values would take a key whose value has a space for one.
    keys = [word for word in arguments if word.startswith(parsing.KEY)]
    given, rest = parser.parse_known_args([word for word in arguments if word not in keys])
    rest += keys
    _check_flags(mode, rest)
    if not mode.handles_stop:
        processes.end_by_sigterm()
    options = {option.name: getattr(given, option.name) for option in mode.options}
    free = any(options[name] for name in mode.unless)
    if mode.workdir and not (given.workdir or given.dry or free):
        raise UserError("--workdir is missing: give the folder of the run, such as runs/digits.")
    job = Job(given.workdir, shlex.join(argv[1:]), options)
    if not given.dry and (given.chips or given.mfu is not None):
        name = "chips" if given.chips else "mfu"
        raise UserError(f"--{name} has no effect: it is for --dry-run.")
    dry = given.dry and mode.dry is not None
    if free or not (mode.config or dry):
        names = [o.name for o in (*FLAGS, *mode.options)]
        if mode.keys:
            config = parsing.parse(rest, given.config, tree.defaults, names)
            whole = free and given.config  # then a config says everything, as with a run
            said = record.flat(config).keys() if whole else parsing.keys_of(rest)
            job = dataclasses.replace(job, config=config, said=said)
        else:
            parsing.refuse([word for word in rest if word not in keys], names)
        unused: dict[str, Any] = {"dry-run": given.dry}
        if not mode.keys:
            unused |= {"config": given.config}
            unused |= {key.lstrip("-").partition("=")[0]: True for key in keys}
        for name, value in unused.items():
            if value:
                by = "".join(f" with --{flag}" for flag in mode.unless if options[flag])
                lacks = "dry run" if name == "dry-run" else "config"
                raise UserError(f"--{name} has no effect: --mode={mode.name}{by} has no {lacks}.")
        if mode.single and jax.process_count() > 1:
            raise UserError(
                f"--mode={mode.name} does not work in one of several processes: start it alone, "
                "without srun, mpirun and JAX_NUM_PROCESSES; on a TPU pod with JAX_PLATFORMS=cpu."
            )
        check_folders(mode, job)
        paths = _by_writer(mode, lambda: mode.run(job))
    else:
        paths = _run_with_config(mode, job, given, rest)
    for path in paths:
        log(f"Written: {path}")


def _explained(arguments: Sequence[str]) -> str:
    """Return the help on the word after --help: a mode, a section, a key or "config"; or on all."""
    pairs = itertools.pairwise(arguments)
    topics = [word for before, word in pairs if before in HELP and not word.startswith("-")]
    if not topics:
        return USAGE.format(modes=explain_modes(MODES))
    name = topics[0].removeprefix("config.")
    parts = [explain_modes([name])] if topics[0] in MODES else []
    if not parts or name in SECTIONS:
        parts.append(help.explain("config" if name == "config" else f"config.{name}"))
    return "\n\n".join(parts)


def _may_be_run(workdir: str) -> bool:
    """Return whether a folder has anything in it, even just a run without its config."""
    return bool(workdir) and bool(files.children(files.path(workdir)))


def _run_with_config(mode: Mode, job: Job, given, rest: Sequence[str]) -> Sequence:
    """Complete and check the config of a command, then run its mode."""
    workdir = job.workdir
    of_run = (lambda: record.read(workdir)[0]) if _may_be_run(workdir) else None
    if of_run is None and workdir and given.config is None:
        raise UserError(
            f"--config is missing, and --workdir={workdir} has no run: give an experiment, such as "
            "configs/digits.py, or the folder of a run."
        )
    names = [option.name for option in (*FLAGS, *mode.options)]
    config = parsing.parse(rest, given.config, of_run, names)
    checked = tree.check(config)
    recorded = mode.recorded and record.is_run(workdir) and _says_enough(checked, workdir, job)
    known = geometry.is_known(config) or not mode.network
    needs_data = not known or (mode.data and not recorded and not given.dry)
    if given.config is None:  # then it is the run's own
        used = [*mode.paths(checked, workdir), *(trust.READ if needs_data else [])]
        trust.check(config, workdir, used, parsing.keys_of(rest))
    source = None
    if not needs_data:
        config = geometry.fill_geometry(config) if mode.network else config
    else:
        data = config.data
        options = options_of(data, all_damaged=bool(job.options.get("check")))
        try:
            captioned = reads_texts(config.model.kind) or config.text.encoder != BYTES
            source = open_source(data.name, data.split, captioned=captioned, **options)
        except UserError as error:
            if mode.recorded and reads_texts(config.model.kind):
                raise UserError(f"{error} (--prompts FILE draws without the data.)") from error
            raise
        if mode.network:
            texts = reads_texts(config.model.kind)
            config = geometry.complete(
                config,
                source.image_shape,
                source.num_classes,
                latents=source.latents,
                decodable=decoders.is_known(checked, source),
                features=wording.of(checked.text, source).features if texts else 0,
            )
    if source is not None and source.latents and mode.pixels:
        if not decoders.is_known(checked, source):
            raise UserError(
                f"--mode={mode.name} needs images, but config.data.name={source.name!r} contains "
                f"latents, and nothing says what decodes them: {decoders.REMEDY}."
            )
    said = parsing.keys_of(rest) if given.config is None else record.flat(config).keys()
    job = Job(workdir, job.command, job.options, config, source, said)
    if given.dry:
        share = machines.SHARE if given.mfu is None else given.mfu
        machine = machines.machine(given.chips, share)
        if given.chips and machine.kind != machines.CORE:
            job = dataclasses.replace(job, chips=machine.number)
        return _by_writer(mode, lambda: dry_run.run(job, mode, machine))
    if mode.same:
        record.check_same(config, workdir, mode.same)
        job.experiment.check_kernels()
    if mode.same == "scored" and source is not None:  # scores against other data would mislead
        about = identity.of(source, job.experiment.texts)
        record.check_data(workdir, config, source.class_names, about)
    check_folders(mode, job)
    if workdir and processes.is_writer():
        files.tidy(workdir)
    _keep_programs(workdir)
    return _by_writer(mode, lambda: mode.run(job)) if mode.alone else mode.run(job)


def _by_writer(mode: Mode, work: Callable[[], Sequence]) -> Sequence:
    """Do the work of a mode in process 0; the others wait for it to end, and fail if it does.

    If they ended first, jax would end process 0 too.
    """
    if not jax.distributed.is_initialized():
        return work()
    paths: Sequence = []
    failed, status = None, 0
    if processes.is_writer():
        try:
            paths = work()
        except Exception as error:
            bad = isinstance(error, UserError) and not isinstance(error, failures.Failure)
            failed, status = error, 2 if bad else 1  # bad input is not tried again
    if failed is not None:
        with contextlib.suppress(Exception):  # another process may be gone
            processes.from_writer([status])
        raise failed
    if status := int(processes.from_writer([status])[0]):
        kind = UserError if status == 2 else failures.Failure
        raise kind(f"--mode={mode.name} has failed in process 0: see its error.")
    return paths


def _says_enough(config: Config, workdir: str, job: Job) -> bool:
    """Return whether a run's record replaces its data.

    If the record of latents does not say what made them, or the command does not say what decodes
    them, their data set does. Captions are needed if no prompts are given.
    """
    if reads_texts(config.model.kind) and not job.options.get("prompts"):
        return False
    known, data = record.data_of(workdir), config.data
    if known.get("latents") and not (config.autoencoder.path and origin.ENTRY in known):
        return not prepare.is_prepared(data.name, data.data_dir)
    return "latents" in known


def _check_flags(mode: Mode, rest: Sequence[str]) -> None:
    """Raise if a flag of another mode is given."""
    for argument in rest:
        name = argument.lstrip("-").partition("=")[0]
        for other in MODES.values():
            flags = [o.name for o in other.options if not o.positional]
            if argument.startswith("-") and name in flags:
                raise UserError(f"--{name} is a flag of --mode={other.name}.")


def _keep_programs(workdir: str) -> None:
    """Keep compiled programs in the user's cache, so that a continued run does not compile again.

    Not in the run's folder: it may come from someone else, and programs are run. Not on CPU, where
    compiling takes seconds and a program fits only one kind of processor. JAX_COMPILATION_CACHE_DIR
    names another folder, such as one that all hosts of a pod share.
    """
    named = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if not workdir or jax.default_backend() == "cpu" or named:
        return
    try:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folder = cache / "sg_jax" / f"programs-jax-{jax.__version__}-{jax.default_backend()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat()
    except (OSError, RuntimeError) as error:
        log(f"Compiled programs are not kept: {error}.")
        return
    if owner.st_uid != os.getuid() or owner.st_mode & 0o022:
        log(f"Compiled programs are not kept, because others can write to {folder}.")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


if __name__ == "__main__":
    failures.quiet()
    try:
        main(sys.argv)
        stops.finish()
    except UserError as error:
        other = "" if processes.is_writer() else f"Process {jax.process_index()}: "
        print(f"{other}Error: {error}", file=sys.stderr)
        status = 1 if isinstance(error, failures.Failure) else 2
        if jax.distributed.is_initialized():
            sys.exit(status)  # jax tells the other processes
        stops.leave(status)
    except stops.Stopped as stopped:
        stops.leave(int(stopped.code or 0))
