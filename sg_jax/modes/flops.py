"""Print the GFLOPs of a training step and of a sampling step under every guidance setting."""

from collections.abc import Mapping

from etils import epath

from sg_jax.config import trust
from sg_jax.config.experiment import Experiment
from sg_jax.costs import flops
from sg_jax.errors import UserError
from sg_jax.method import checks
from sg_jax.method.guidance import Guidance
from sg_jax.method.objective import as_rates, in_words
from sg_jax.models.backbone import Backbone
from sg_jax.modes.base import Job, Mode, register, weak_paths
from sg_jax.weights import checkpoints

EXPLANATION = """GFLOPs of one sampling step of one image, and of training on one batch.
"paper": multiply-adds of linear layers, without the work between tokens (attention's two
products). "full": 2 per multiply-add, with that work. "each alone": every prediction by itself, as
the paper counts; "shared": what both predictions share is counted once, as our program computes it.
"""


def run(job: Job) -> list[epath.Path]:
    """Print the table, and write nothing."""
    weak, unknown = of_other_runs(job, job.experiment.settings)
    show(job.experiment, weak)
    print("\n".join(unknown), end="\n" if unknown else "")
    return []


def of_other_runs(
    job: Job, settings: Mapping[str, Guidance]
) -> tuple[dict[str, Backbone], list[str]]:
    """Return the networks of other runs by setting, and a sentence on each that is not known."""
    found, notes = {}, []
    for name, setting in settings.items():
        if not setting.weak_workdir:
            continue
        try:
            assert job.config is not None
            trust.check(job.config, job.workdir, weak_paths([name]), job.said)
            found[name] = checkpoints.abstract_network(setting.weak_workdir)
        except UserError as error:
            notes.append(f"{name}: the weak prediction is counted as by this network. {error}")
    return found, notes


def show(experiment: Experiment, weak: Mapping[str, Backbone] = {}) -> None:
    """Print the table: training, dense and at each sparsity rate, then every setting.

    A schedule of guidance is averaged over `config.sample.steps`.

    Args:
      experiment: of the config.
      weak: the networks of other runs that make weak predictions, by the setting's name.
    """
    config, model = experiment.config, experiment.model
    print(EXPLANATION)
    rows, steps = [], config.sample.steps
    mixes = [mix for mix in experiment.training_mixes if len(mix) > 1]
    for rates in (*map(as_rates, dict.fromkeys((0.0, *experiment.training_rates))), *mixes):
        costs = [
            flops.training_step(
                model, rates, config.train.batch_size, full=full, teacher=experiment.taught
            )
            for full in (False, True)
        ]
        rows.append((f"training, γ {in_words(rates)}, batch {config.train.batch_size}", costs * 2))
    settings, notes = checks.possible(model, experiment.settings, experiment.sampler, steps, weak)
    for name, setting in settings.items():
        costs = [
            flops.sampling_step(
                model,
                setting,
                full=full,
                shared_head=shared,
                steps=steps,
                sampler=experiment.sampler,
                weak_model=weak.get(name),
            )
            for shared in (False, True)
            for full in (False, True)
        ]
        rows.append((f"{name} ({setting.describe()})", costs))
        if moved := checks.rounding(setting, steps):
            notes.append(
                f"{name}: rates rounded to {setting.segments} stretches, by {moved:.3f} at most."
            )
    width = max(len(name) for name, _ in rows)
    print(f"{'':{width}}  {'each alone':^23}    {'shared':^23}")
    print(f"{'':{width}}" + f"  {'paper':>11} {'full':>11}  " * 2)
    for name, (paper, full, paper_shared, full_shared) in rows:
        print(
            f"{name:{width}}  {paper / 1e9:11.5g} {full / 1e9:11.5g}    "
            f"{paper_shared / 1e9:11.5g} {full_shared / 1e9:11.5g}"
        )
    print("\n".join(notes))


MODE = register(
    Mode(
        "flops",
        "count what each kind of step costs",
        run,
        workdir=False,
        data=False,
        alone=True,
        writes=(),
    )
)
