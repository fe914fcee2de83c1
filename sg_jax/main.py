"""The command line: flags and dispatch.

    python -m sg_jax.main --config configs/digits.py --workdir runs/digits --mode train

`config` parses, `experiment` checks, and each mode has a module of its own.
"""

import importlib
import shlex
import sys
from collections.abc import Sequence

from absl import flags

from sg_jax import checkpoint, config, costs, distributed, dry_run, experiment
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError
from sg_jax.writers import log

MODES = ("train", "sample", "evaluate", "sweep", "diversity", "bench", "data", "flops")
NEED_A_RUN = ("sample", "evaluate", "sweep", "diversity")


def main(argv: Sequence[str]) -> None:
    """Run one mode.

    Raises:
      UserError: bad input, before anything is compiled or written.
    """
    distributed.start()
    flag_values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "Folder of the run.", flag_values=flag_values)
    flags.DEFINE_enum("mode", "train", MODES, "What to do.", flag_values=flag_values)
    flags.DEFINE_boolean(
        "dry-run",
        False,
        "Print the resolved config and the costs, and stop.",
        flag_values=flag_values,
    )
    given = config.parse(argv, flag_values)
    mode, workdir = flag_values["mode"].value, flag_values["workdir"].value
    if mode != "train":
        distributed.end_by_sigterm()
    dry = flag_values["dry-run"].value
    if not workdir and not dry and mode not in ("bench", "data", "flops"):
        raise UserError("--workdir is missing: give the folder of the run, such as runs/digits.")
    if mode == "flops" and all(given.model[k] for k in ("image_size", "channels", "num_classes")):
        built = experiment.build(experiment.fill_geometry(given))  # needs no data
        if distributed.is_writer():
            costs.run(built)
        return
    data = given.data
    source = open_source(
        data.name, data.split, data_dir=data.data_dir or None, image_size=data.image_size or None
    )
    completed = experiment.complete(
        given, source.image_shape, source.num_classes, latents=source.latents
    )
    if source.latents and mode in NEED_A_RUN:
        raise UserError(
            f"--mode={mode} needs images, but config.data.name={source.name!r} holds latents, and "
            f"there is no decoder yet."
        )
    built = experiment.build(completed)
    if dry or mode == "flops":
        if distributed.is_writer():
            (dry_run if dry else costs).run(built)
        return
    if mode == "train":
        checkpoint.prepare_workdir(workdir, completed, source.class_names)
    elif mode in NEED_A_RUN:
        checkpoint.check_same(completed, workdir, checkpoint.SAMPLE_KEYS)
    for step in (mode, *(completed.train.then if mode == "train" else ())):
        _dispatch(step, built, source, workdir, shlex.join(argv[1:]))


def _dispatch(mode: str, built: experiment.Experiment, source, workdir: str, command: str) -> None:
    if mode == "train":
        from sg_jax.train import run

        run(built, source, workdir)
    elif mode == "sample":
        from sg_jax.sample import run

        log(f"Picture: {run(built, workdir)}")
    elif mode == "evaluate":
        from sg_jax.evaluate import run

        picture, report = run(built, source, workdir, command)
        log(f"Picture: {picture}\nReport:  {report}")
    elif mode in ("sweep", "diversity"):
        run = importlib.import_module(f"sg_jax.{mode}").run
        for path in run(built, source, workdir):
            log(f"Written: {path}")
    elif mode == "data":
        from sg_jax.data_bench import run

        run(built, source, workdir)
    else:
        from sg_jax.bench import run

        run(built, workdir)


if __name__ == "__main__":
    try:
        main(sys.argv)
    except UserError as error:
        if distributed.is_writer():
            print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
