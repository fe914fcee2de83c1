"""Make a run of published weights, or of weights that another run exported."""

from sg_jax.errors import UserError, nearest
from sg_jax.modes.base import Job, Mode, Option, register
from sg_jax.runs import files
from sg_jax.weights import imports
from sg_jax.weights.families import FAMILIES


def run(job: Job) -> list:
    """Import --from into --workdir; return its path."""
    assert job.config is not None
    family = job.options["family"]
    if family and family not in FAMILIES:
        raise UserError(
            f"--family={family} must be one of {', '.join(FAMILIES)}." + nearest(family, FAMILIES)
        )
    folder = files.absolute(job.workdir)
    if folder.exists() and (not folder.is_dir() or files.children(folder)):
        raise UserError(f"--workdir={job.workdir} already exists: give a new folder.")
    imports.make_run(job.options["from"], job.workdir, job.config, job.said, family)
    return [folder]


MODE = register(
    Mode(
        "import",
        "make a run from published weights, to sample, score or train further",
        run,
        config=False,
        single=True,
        keys=True,
        options=(
            Option("from", "file of weights, or a folder of diffusers", required=True),
            Option("family", f"how the weights are named: {', '.join(FAMILIES)}; empty: detect it"),
        ),
    )
)
