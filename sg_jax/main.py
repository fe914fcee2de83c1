"""The command line: flags and dispatch.

    python -m sg_jax.main --config configs/digits.py --workdir runs/digits --mode train

`config` parses, `experiment` checks, and each mode has a module of its own.
"""

import importlib
import shlex
import sys
from collections.abc import Sequence

import jax
from absl import flags

from sg_jax.config import experiment, geometry, parsing
from sg_jax.costs import chips
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError
from sg_jax.modes import dry_run, flops
from sg_jax.parallel import processes
from sg_jax.runs import files
from sg_jax.runs.progress import log
from sg_jax.weights import checkpoints

MODES = {
    "train": "train, or continue; then the modes in config.train.then",
    "sample": "draw images into a picture and an .npz file",
    "evaluate": "draw and score guidance settings: pictures, a table, a report",
    "sweep": "score a grid of sparsity rates and scales: heatmaps",
    "diversity": "measure how far guidance moves images from their unguided twins",
    "bench": "time training and sampling steps in turns, beside their FLOPs",
    "data": "time the input pipeline",
    "flops": "count what each kind of step costs",
    "aot": "compile for TPUs without having any: memory, cycles, step time",
}
USAGE = """Usage: python -m sg_jax.main --config FILE --workdir DIR [--mode MODE] [FLAGS]

  --config FILE        the experiment, such as configs/digits.py; may be left out where DIR is a run
  --workdir DIR        folder of the run, on disk or gs://BUCKET/FOLDER
  --config.KEY=VALUE   set one value, such as --config.train.steps=500; keys: sg_jax/config
  --dry-run            print the resolved config and the costs, and stop
  --mode MODE          what to do:

{modes}

  --topology v5e:4x4 --for train|sample --json FILE    of --mode aot
"""
NEED_NO_RUN = ("bench", "data", "flops", "aot")
NEED_A_RUN = ("sample", "evaluate", "sweep", "diversity")


def main(argv: Sequence[str]) -> None:
    """Run one mode.

    Raises:
      UserError: bad input, before anything is compiled or written.
    """
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print(USAGE.format(modes="\n".join(f"    {m:10} {text}" for m, text in MODES.items())))
        return
    chips.set_flags()
    processes.start()
    flag_values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "Folder of the run.", flag_values=flag_values)
    flags.DEFINE_enum("mode", "train", tuple(MODES), "What to do.", flag_values=flag_values)
    flags.DEFINE_boolean(
        "dry-run",
        False,
        "Print the resolved config and the costs, and stop.",
        flag_values=flag_values,
    )
    flags.DEFINE_string("topology", "", "TPUs to compile for: v5e:16x16.", flag_values=flag_values)
    flags.DEFINE_enum(
        "for", "train", ("train", "sample"), "What to compile.", flag_values=flag_values
    )
    flags.DEFINE_string("json", "", "File for the report.", flag_values=flag_values)
    given = parsing.parse(argv, flag_values, lambda run: checkpoints.read_config(run)[0])
    mode, workdir = flag_values["mode"].value, flag_values["workdir"].value
    if mode != "train":
        processes.end_by_sigterm()
    dry = flag_values["dry-run"].value
    _check_aot_flags(flag_values)
    if not workdir and not dry and mode not in NEED_NO_RUN:
        raise UserError("--workdir is missing: give the folder of the run, such as runs/digits.")
    known = all(given.model[k] for k in ("image_size", "channels", "num_classes"))
    if known and (dry or mode in ("flops", "aot")):  # these need no data
        _count("dry" if dry else mode, geometry.fill_geometry(given), flag_values)
        return
    if workdir:
        files.path(workdir)  # a bucket that cannot be reached is said before any work
    data = given.data
    source = open_source(
        data.name, data.split, data_dir=data.data_dir or None, image_size=data.image_size or None
    )
    completed = geometry.complete(
        given, source.image_shape, source.num_classes, latents=source.latents
    )
    if source.latents and mode in NEED_A_RUN and mode != "sample":
        raise UserError(
            f"--mode={mode} needs images, but config.data.name={source.name!r} holds latents, and "
            f"there is no decoder yet: --mode=sample writes latents, to be decoded elsewhere."
        )
    if dry or mode in ("flops", "aot"):
        _count("dry" if dry else mode, completed, flag_values)
        return
    built = experiment.build(completed)
    if mode == "train":
        if completed.train.init_from:
            checkpoints.check_start(completed.train.init_from, built.model)
        checkpoints.prepare_workdir(workdir, completed, source.class_names)
    elif mode in NEED_A_RUN:
        same = checkpoints.SAMPLING if mode == "sample" else checkpoints.SCORING
        checkpoints.check_same(completed, workdir, *same)
    _keep_programs(workdir)
    for step in (mode, *(completed.train.then if mode == "train" else ())):
        _dispatch(step, built, source, workdir, shlex.join(argv[1:]))


def _keep_programs(workdir: str) -> None:
    """Keep compiled programs in the run's folder, so that continuing it compiles nothing again.

    Not on CPU, where compiling takes seconds and programs are for one kind of processor.
    JAX_COMPILATION_CACHE_DIR names another folder.
    """
    if workdir and jax.default_backend() != "cpu" and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(files.path(workdir) / "programs"))


def _check_aot_flags(flag_values: flags.FlagValues) -> None:
    """Raise where flags of --mode=aot are missing, or given to another mode."""
    aot = flag_values["mode"].value == "aot"
    for name in ("topology", "for", "json"):
        if flag_values[name].present and not aot:
            raise UserError(f"--{name}={flag_values[name].value} is a flag of --mode=aot.")
    if aot and not flag_values["topology"].value:
        raise UserError("--mode=aot needs --topology, the TPUs to compile for: v5e:16x16, say.")


def _count(mode: str, completed, flag_values: flags.FlagValues) -> None:
    """Run what computes nothing: print the config or the costs, or compile ahead."""
    if not processes.is_writer():
        return
    if mode in ("dry", "flops"):
        {"dry": dry_run, "flops": flops}[mode].run(experiment.build(completed))
        return
    from sg_jax.modes import aot

    aot.run(completed, *(flag_values[name].value for name in ("topology", "for", "json")))


def _dispatch(mode: str, built: experiment.Experiment, source, workdir: str, command: str) -> None:
    if mode == "train":
        from sg_jax.modes.train import run

        run(built, source, workdir)
    elif mode == "sample":
        from sg_jax.modes.sample import run

        log(f"{'Latents' if source.latents else 'Picture'}: {run(built, source, workdir)}")
    elif mode == "evaluate":
        from sg_jax.modes.evaluate import run

        picture, report = run(built, source, workdir, command)
        log(f"Picture: {picture}\nReport:  {report}")
    elif mode in ("sweep", "diversity"):
        run = importlib.import_module(f"sg_jax.modes.{mode}").run
        for path in run(built, source, workdir):
            log(f"Written: {path}")
    elif mode == "data":
        from sg_jax.modes.data import run

        run(built, source, workdir)
    else:
        from sg_jax.modes.bench import run

        run(built, workdir)


if __name__ == "__main__":
    try:
        main(sys.argv)
    except UserError as error:
        other = "" if processes.is_writer() else f"Process {jax.process_index()}: "
        print(f"{other}Error: {error}", file=sys.stderr)
        sys.exit(2)
