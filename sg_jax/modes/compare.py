"""Compare several runs in one report; see evaluation/compare.py for the files."""

from etils import epath

from sg_jax.evaluation import compare
from sg_jax.modes.base import Job, Mode, Option, register


def run(job: Job) -> list[epath.Path]:
    """Compare the runs of a job; return the paths of tables and figures."""
    command = f"python -m sg_jax.main {job.command}"
    return compare.run(job.options["RUN"], job.options["out"], command)


MODE = register(
    Mode(
        "compare",
        "compare the scores of several runs in one report",
        run,
        config=False,
        workdir=False,
        options=(
            Option("RUN", "folders of the runs", many=True, positional=True),
            Option("out", "folder for tables and figures", required=True, written=True),
        ),
    )
)
