"""What tuning tries: the settings of each method, and their steps at each budget."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

from sg_jax.config import tuples
from sg_jax.config.experiment import Experiment
from sg_jax.config.sections import Config
from sg_jax.costs import budgets
from sg_jax.errors import UserError
from sg_jax.evaluation import metrics, scoring, tuned_rows
from sg_jax.evaluation.metrics import METRICS, Metric
from sg_jax.evaluation.table import Key
from sg_jax.method.candidates import METHODS, UNGUIDED, USUAL
from sg_jax.method.guidance import Guidance
from sg_jax.weights import checkpoints

NEAR = 0.05  # a cost that differs by at most this share keeps its budget


@dataclasses.dataclass(frozen=True)
class Trial:
    """A setting with the number of steps that a budget allows.

    Attributes:
      method: its name.
      guidance: the setting, as it is drawn; see `measure.resolved`.
      budget: what its run may cost, as a multiple of a run without guidance.
      steps: its number of steps.
      cost: what its run does cost, as the same multiple.
    """

    method: str
    guidance: Guidance
    budget: float
    steps: int
    cost: float


def metric_of(config: Config) -> Metric:
    """Return the metric that settings are chosen by; raise a UserError if it is not measured."""
    found = scoring.measured(config)
    named = config.tune.metric
    metric = METRICS[named] if named else metrics.quality([{m.name: 0.0 for m in found}])
    if metric in found:
        return metric
    raise UserError(
        f"config.tune.metric={named!r} "
        + ("is not measured" if named else f"needs one of {', '.join(metrics.QUALITIES)}")
        + f"; what is measured is {', '.join(m.name for m in found)}: name one of them, or set "
        "config.evaluate.metrics."
    )


def candidates(
    config: Config, able: Callable[[Guidance], Guidance]
) -> tuple[dict[str, list[Guidance]], list[str]]:
    """Return the settings that each method tries, all different, and why methods are left out.

    Args:
      config: all sections.
      able: returns a setting as it is drawn; raises a UserError if it cannot be drawn.

    Raises:
      UserError: a method has too few candidates, or one that the config names has too few that can
        be drawn.
    """
    tune, own = config.tune, dict(config.tune.candidates)
    found: dict[str, list[Guidance]] = {}
    notes = []
    methods = [*METHODS, *own] if tune.methods == (tuples.ALL,) else tune.methods
    for method in dict.fromkeys([UNGUIDED, *(methods or [*USUAL, *own])]):
        names = own.get(method, (tuples.OTHERS,))
        listed = [config.guidance[name] for name in names if name != tuples.OTHERS]
        listed += METHODS[method] if names[-1] == tuples.OTHERS else ()
        count = 1 if method == UNGUIDED else tune.settings
        if len(listed) < count:
            raise UserError(
                f"config.tune.settings={count} is more than the {len(listed)} candidates of "
                f"{method!r}: lower it, or add more in config.tune.candidates."
            )
        settings, problem = _different(listed, count, able)
        if len(settings) == count:
            found[method] = settings
            continue
        few = f"{len(settings)} of its {len(listed)} candidates differ and can be drawn here"
        text = f"{few}, and config.tune.settings={count}. {problem}".strip()
        if method in tune.methods:
            raise UserError(f"config.tune.methods={method!r}: only {text}")
        notes.append(f"{method} is left out: only {text}")
    return found, notes


def _different(
    listed: Sequence[Guidance], count: int, able: Callable[[Guidance], Guidance]
) -> tuple[list[Guidance], str]:
    """Return the first `count` different settings that can be drawn, and the first problem."""
    found: list[Guidance] = []
    problem = ""
    for setting in listed:
        if len(found) == count:
            break
        try:
            drawn = able(setting)
        except UserError as error:
            problem = problem or str(error)
            continue
        if drawn not in found:
            found.append(drawn)
    return found, problem


def trials(experiment: Experiment, settings: Mapping[str, Sequence[Guidance]]) -> list[Trial]:
    """Return every setting at every budget; no guidance at budget 1 too, for comparison.

    Args:
      experiment: the run's objects.
      settings: those of each method, from `candidates`.
    """
    return _with_steps(
        experiment,
        [
            (method, budget, guidance)
            for method, listed in settings.items()
            for budget in _budgets_of(experiment.config, method)
            for guidance in listed
        ],
    )


def _budgets_of(config: Config, method: str) -> list[float]:
    """Return the budgets of a method: those of the config, and 1 too for no guidance."""
    return sorted({*config.tune.budgets, *([1.0] if method == UNGUIDED else [])})


def winners(experiment: Experiment, able: Callable[[Guidance], Guidance]) -> list[Trial]:
    """Return the best settings of the run `config.tune.winners`, with their steps in this one.

    Args:
      experiment: the run's objects.
      able: see `candidates`.

    Raises:
      UserError: that run was not tuned, or not at a budget or by a method that the config names.
    """
    tune = experiment.config.tune
    chosen = {
        (row.method, row.budget): _as_share(row.key)
        for row in tuned_rows.read(tune.winners)
        if row.chosen  # also before that run's report is drawn
    }
    named = () if tune.methods == (tuples.ALL,) else tune.methods
    methods = dict.fromkeys([UNGUIDED, *(named or [method for method, _ in chosen])])
    wanted = [(m, budget) for m in methods for budget in _budgets_of(experiment.config, m)]
    if missing := [place for place in wanted if place not in chosen]:
        method, budget = missing[0]
        raise UserError(
            f"config.tune.winners={tune.winners!r} was not tuned for {method!r} at budget "
            f"{budget:g}: tune that run for it, or leave it out of config.tune.methods and budgets."
        )
    found = []
    for method, budget in wanted:
        try:
            found.append((method, budget, able(chosen[method, budget])))
        except UserError as error:
            raise UserError(
                f"config.tune.winners={tune.winners!r} has a setting of {method!r} that cannot be "
                f"drawn here: {error} Or leave {method!r} out of config.tune.methods."
            ) from None
    return _with_steps(experiment, found)


def _as_share(key: Key) -> Guidance:
    """Return a key's setting with its early checkpoint as a share of the training."""
    guidance = key.guidance
    if guidance.weak_workdir or not 0 < guidance.weak_step < key.checkpoint:
        return guidance
    return dataclasses.replace(guidance, weak_step=guidance.weak_step / key.checkpoint)


def _with_steps(
    experiment: Experiment, settings: Sequence[tuple[str, float, Guidance]]
) -> list[Trial]:
    """Return settings, each with its method and budget, with the steps that the budget allows."""
    model, sampler = experiment.model, experiment.sampler
    whole = budgets.image(model, Guidance(), sampler, experiment.config.sample.steps)
    other = functools.cache(checkpoints.abstract_network)
    found = []
    for method, budget, guidance in settings:
        weak = other(guidance.weak_workdir) if guidance.weak_workdir else None
        try:
            steps, cost = budgets.steps_for(budget * whole, model, guidance, sampler, weak)
        except UserError as error:
            raise UserError(
                f"{method} cannot be tuned at budget {budget:g}: {error} Or take a larger one of "
                "config.tune.budgets, or leave it out of config.tune.methods."
            ) from None
        found.append(Trial(method, guidance, budget, steps, cost / whole))
    return found


def off_budget(found: Sequence[Trial]) -> str:
    """Return a sentence on the trials that do not keep their budget; "" if all do."""
    off = [t for t in found if abs(t.cost / t.budget - 1) > NEAR + 1e-9]
    words = [
        f"{t.method} ({t.guidance.describe()}) costs {t.cost:.3g} at {t.budget:g}" for t in off[:3]
    ]
    more = f" and {len(off) - 3} others" if len(off) > 3 else ""
    return f"Not within {NEAR:.0%} of the budget: {'; '.join(words)}{more}." if off else ""
