"""Tune every method of guidance by one rule, so that their results can be compared.

Each method tries the same number of settings, with the same seeds, at each budget. A budget is the
cost of a whole run, as a multiple of one without guidance: a setting that costs more per step makes
fewer steps. The best setting is scored again with other seeds, and only these scores are reported.
The search and the report are drawings like any others, so scores.csv keeps each.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sg_jax.config.experiment import Experiment
from sg_jax.config.measuring import Tune
from sg_jax.errors import UserError
from sg_jax.evaluation import comparison, measure, scored, table, trials
from sg_jax.evaluation.judge import Judge
from sg_jax.evaluation.metrics import Metric
from sg_jax.evaluation.results import mean_and_deviation
from sg_jax.evaluation.table import Key
from sg_jax.evaluation.trials import Trial
from sg_jax.evaluation.tuned_rows import REPORT, SEARCH, Row
from sg_jax.method import guidance as guidance_lib
from sg_jax.method.candidates import UNGUIDED
from sg_jax.parallel import processes
from sg_jax.runs.progress import Ahead, counted, log


def run(
    experiment: Experiment,
    judge: Judge,
    workdir: str | os.PathLike,
    found: Sequence[Trial],
    *,
    step: int,
    shown: int = 0,
    searched: Callable[[list[Row]], object] = lambda rows: None,
) -> tuple[list[Row], dict[str, Any]]:
    """Draw and score all trials, then the best ones again with other seeds.

    With `config.tune.winners`, the trials are the best ones already, and there is no search. All
    processes call this. What scores.csv has is not drawn again.

    Args:
      experiment: the run's objects.
      judge: scores the images.
      workdir: folder of the run.
      found: the trials, from `trials.trials`.
      step: step of the checkpoint.
      shown: how many images to return of each method.
      searched: called in the writer with the rows of the search, before the report is drawn.

    Returns:
      In the writer, a row for each trial and seed of both stages; and method -> images of the best
      setting at the middle budget, uint8 [shown, H, W, C].
    """
    tune, metric = experiment.config.tune, trials.metric_of(experiment.config)
    run_name = comparison.name_of(workdir)
    first = measure.conditions(experiment, judge, tune.samples, step)
    then = dataclasses.replace(first, samples=tune.report_samples)
    best = _groups(found)
    later = sum(t[0].budget for t in best) * tune.report_samples * len(tune.report_seeds)
    keys = _keys(found, first, () if tune.winners else tune.seeds)
    winners, rows = [0] * len(best), {}
    if not tune.winners:
        pairs = f"{counted(len(found), 'pair')} of a setting and a budget"
        log(f"Search: {pairs}, {counted(len(tune.seeds), 'seed')}.")
        rows = _score(experiment, judge, workdir, found, keys, (len(best), later))
        if processes.is_writer():
            winners = [_winner(metric, each, keys, rows) for each in best]
    decided = zip(best, processes.from_writer(winners), strict=True)
    chosen = [each[i] for each, i in decided if i >= 0]

    def result(stage: str, each: Sequence[Trial], keys: Mapping[Trial, list[Key]]) -> list[Row]:
        return [
            Row(
                run_name,
                stage,
                t.method,
                t.budget,
                t.cost,
                t in chosen,
                metric.name,
                key,
                rows[key],
            )
            for t in each
            for key in keys[t]
        ]

    known = result(SEARCH, found, keys) if processes.is_writer() else []
    if known:
        searched(known)
    pairs = f"{counted(len(chosen), 'pair')} of a method and a budget"
    log(f"Report: {pairs}, {counted(len(tune.report_seeds), 'other seed')}.")
    again = _keys(chosen, then, tune.report_seeds)
    pictured = {t.method: again[t][0] for t in chosen if t.budget == middle(tune)}
    rows |= _score(experiment, judge, workdir, chosen, again, (0, 0.0), pictured, shown)
    if not processes.is_writer():
        return [], {}
    shape = experiment.image_shape
    stored = functools.partial(scored.images_of, workdir, shown=shown, shape=shape)
    images = {m: some for m, key in pictured.items() if (some := stored(key)) is not None}
    return [*known, *result(REPORT, chosen, again)], images


def middle(tune: Tune) -> float:
    """Return the middle budget, whose images are shown."""
    return sorted(tune.budgets)[len(tune.budgets) // 2]


def _groups(found: Sequence[Trial]) -> list[list[Trial]]:
    """Return the trials of each method and budget."""
    groups: dict[tuple[str, float], list[Trial]] = {}
    for trial in found:
        groups.setdefault((trial.method, trial.budget), []).append(trial)
    return list(groups.values())


def _keys(found: Sequence[Trial], like: Key, seeds: Sequence[int]) -> dict[Trial, list[Key]]:
    return {
        trial: [
            dataclasses.replace(like, guidance=trial.guidance, steps=trial.steps, seed=seed)
            for seed in seeds
        ]
        for trial in found
    }


def _winner(
    metric: Metric, each: Sequence[Trial], keys: Mapping[Trial, list[Key]], rows: table.Table
) -> int:
    """Return the index of the best mean over seeds, among those that are finite with all seeds.

    It is -1 if there is none; raise if the method is no guidance, with which the others
    are compared.
    """
    means = [mean_and_deviation([rows[k] for k in keys[t]])[0].get(metric.name) for t in each]
    best = metric.winner(means)
    if best is not None:
        return best
    text = (
        f"{each[0].method} at budget {each[0].budget:g}: none of {len(means)} settings has a "
        f"finite {metric.name} with every seed of config.tune.seeds: samples are not finite"
    )
    if each[0].method == UNGUIDED:
        raise UserError(f"{text}: look at the network first.")
    log(f"{text}. It is left out.")
    return -1


def _score(
    experiment: Experiment,
    judge: Judge,
    workdir: str | os.PathLike,
    found: Sequence[Trial],
    keys: Mapping[Trial, list[Key]],
    later: tuple[int, float],
    pictured: Mapping[str, Key] = {},
    shown: int = 0,
) -> table.Table:
    """Score the trials, those of one program in a row, and log how long the rest takes.

    `later` is what follows: the number of methods and budgets, and their cost.
    """
    cost = {key: trial.cost * key.samples for trial in found for key in keys[trial]}
    known = table.read(workdir)
    left = [key for key in cost if scored.is_left(experiment, judge, workdir, known, key)]
    pieces = len(left) + later[0] * len(experiment.config.tune.report_seeds)
    ahead = Ahead(pieces, sum(cost[key] for key in left) + later[1], "drawing")
    return measure.score(
        experiment,
        judge,
        workdir,
        _in_order(experiment, cost),
        pictured=pictured.values(),
        shown=shown,
        told=lambda key, shares: ahead.update(cost[key], **shares),
    )


def _in_order(experiment: Experiment, keys: Mapping[Key, float]) -> list[Key]:
    """Sort so that a weak network is loaded once, and drawings of one program come together."""
    networks: dict[Any, int] = {}
    programs: dict[Any, int] = {}

    def place(key: Key) -> tuple[int, int]:
        guidance = key.guidance
        plan, _ = guidance_lib.plan(guidance, experiment.sampler, key.steps)
        weak = guidance.weak_workdir, guidance.weak_step, guidance.weak_weights
        network = networks.setdefault(weak, len(networks))
        return network, programs.setdefault((plan, key.steps), len(programs))

    return sorted(keys, key=place)
