"""What tuning found, as tables: in the terminal, in tune.md and in tune.json."""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from sg_jax.errors import is_number
from sg_jax.evaluation import tuned, tuned_rows
from sg_jax.evaluation.metrics import METRICS, Metric
from sg_jax.evaluation.tuned import Gain, Spread, Winner
from sg_jax.evaluation.tuned_rows import REPORT, SEARCH, Row
from sg_jax.method.guidance import Guidance

ALONE = "sg"  # a setting that every config has, for winners of methods without one


@dataclasses.dataclass(frozen=True)
class Base:
    """What a command draws with that has no flags, and what flags must say besides the setting.

    Attributes:
      settings: guidance settings by name, of each config that such a command may use.
      more: values of other keys.
    """

    settings: Sequence[Mapping[str, Guidance]] = ()
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)


NO_FLAGS = Base()


def terminal(rows: Sequence[Row], base: Base = NO_FLAGS) -> str:
    """Return a table per budget for the terminal: quality, and what it gains over no guidance.

    Args:
      rows: the rows of one run, or of several.
      base: of one run; the flags of each budget's best are then shown.
    """
    found = tuned.winners(rows)
    metric = METRICS[rows[0].metric]
    head = [metric.title, "vs unguided", "vs unguided at 1", "cost", "steps", "setting"]
    parts = []
    for budget in dict.fromkeys(w.budget for w in found):
        each = [w for w in found if w.budget == budget]
        columns = [
            _texts(metric, [w.spread(metric) for w in each]),
            _gains(metric, each, found, budget),
            _gains(metric, each, found, 1.0),
            [f"{w.cost:.2f}" for w in each],
            [w.steps for w in each],
        ]
        lines = zip(
            [f"budget {budget:g}", *(w.method for w in each)],
            *(_padded(name, cells) for name, cells in zip(head, columns, strict=False)),
            [head[-1], *(w.settings for w in each)],
            strict=True,
        )
        width = max(len(w.method) for w in found)
        parts.append("\n".join("  ".join((n.ljust(max(width, 11)), *t)) for n, *t in lines))
        best = metric.winner([w.spread(metric).mean for w in each])
        if base.settings and best is not None:
            parts[-1] += f"\nTo draw with {each[best].method}: {flags(each[best], base)}"
    return "\n\n".join([*parts, *_remarks(rows)])


def _remarks(rows: Sequence[Row]) -> list[str]:
    """Return sentences on results that a reader should not take at face value."""
    return list(filter(None, (failed(rows), at_edges(rows), outdone(rows))))


def _padded(name: str, cells: Sequence[str]) -> list[str]:
    width = max(map(len, (name, *cells)))
    return [text.rjust(width) for text in (name, *cells)]


def _texts(metric: Metric, spreads: Sequence[Spread]) -> list[str]:
    """Return the text of each spread, such as "0.34 ± 0.04", the runs' spread before the seeds'."""
    means = metric.texts([s.mean for s in spreads])
    digits = max(len(text.partition(".")[2]) for text in means)
    texts = []
    for mean, each in zip(means, spreads, strict=True):
        parts = [each.runs, each.seeds] if each.mean is not None else []
        texts.append(" ± ".join([mean, *(metric.text(p, digits) for p in parts if p is not None)]))
    return texts


def _best_bold(metric: Metric, spreads: Sequence[Spread]) -> list[str]:
    best = metric.best([each.mean for each in spreads])
    texts = _texts(metric, spreads)
    return [f"**{text}**" if top else text for text, top in zip(texts, best, strict=True)]


def _gains(
    metric: Metric, each: Sequence[Winner], found: Sequence[Winner], budget: float
) -> list[str]:
    """Return the differences from no guidance at a budget, such as "-0.07 ± 0.04 (5/5)"."""
    base = tuned.unguided(found, budget)
    gains = [winner.less(base, metric) for winner in each]
    texts = _texts(metric, [gain.spread for gain in gains])
    return [
        "–"
        if winner is base or g.spread.mean is None
        else f"{'+' * (g.spread.mean > 0)}{text} ({g.better}/{g.pairs})"
        for winner, g, text in zip(each, gains, texts, strict=True)
    ]


def markdown(rows: Sequence[Row], base: Base = NO_FLAGS, notes: Sequence[str] = ()) -> str:
    """Return tables of every metric at every budget.

    Args:
      rows: the rows of one run, or of several.
      base: of one run; without it, no flags are shown.
      notes: further sentences.
    """
    found, metrics = tuned.winners(rows), tuned_rows.columns(rows)
    key, runs = _any(rows, REPORT).key, list(dict.fromkeys(row.run for row in rows))
    spreads = "mean ± standard deviation over seeds"
    if len(runs) > 1:
        spreads = (
            f"mean of {len(runs)} runs ({', '.join(runs)}) ± standard deviation over runs ± "
            "standard deviation over seeds"
        )
    lines = [
        _searched(rows),
        f"Each was scored again with {key.samples:,} images per seed ({_seeds(rows, REPORT)}): "
        f"{spreads}. ω is the scale, γ a / b are the rates of the strong and the weak prediction, "
        "and t a–b says when guidance acts. The cost of a whole run is given as a multiple of "
        "that without guidance. Differences from no guidance are taken seed by seed, and (4/5) "
        "means that 4 of 5 are improvements.",
        *_remarks(rows),
        *notes,
    ]
    for budget in dict.fromkeys(w.budget for w in found):
        each = [w for w in found if w.budget == budget]
        about = [[w.settings for w in each], [w.steps for w in each]]
        about.append([f"{w.cost:.3f}" for w in each])
        values = [_best_bold(m, [w.spread(m) for w in each]) for m in metrics]
        head = ["method", "setting", "steps", "cost", *(f"{m.header}{m.arrow}" for m in metrics)]
        lines += ["", f"## Budget {budget:g}", ""]
        lines += _table(head, [[w.method for w in each], *about, *values])
        for plain in dict.fromkeys((budget, 1.0)):
            gains = [_gains(m, each, found, plain) for m in metrics]
            lines += ["", f"Difference from no guidance at budget {plain:g}:", ""]
            names = [f"{m.header}{m.arrow}" for m in metrics]
            lines += _table(["method", *names], [[w.method for w in each], *gains])
    if base.settings:
        lines += ["", "## To draw with them", ""]
        lines.append(
            "Add the flags to `--mode sample`. For `--mode evaluate`, write "
            "`--config.evaluate.guidance=NAME` instead of `--config.sample.guidance=NAME`:"
        )
        lines.append("")
        names = [f"{w.method}, {w.budget:g}" for w in found]
        lines += _table(
            ["method, budget", "flags"], [names, [f"`{flags(w, base)}`" for w in found]]
        )
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], columns: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(head), ["---"] * len(head), *map(list, zip(*columns, strict=True))]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _any(rows: Sequence[Row], stage: str) -> Row:
    return next(row for row in rows if row.stage == stage)


def _seeds(rows: Sequence[Row], stage: str) -> str:
    return ", ".join(map(str, sorted({r.key.seed for r in rows if r.stage == stage})))


def _searched(rows: Sequence[Row]) -> str:
    """Return in words how the settings were chosen."""
    if not any(row.stage == SEARCH for row in rows):
        return "The settings were chosen in another run."
    first = _any(rows, SEARCH)
    tried: dict[tuple[str, str, float], set[Guidance]] = {}
    for row in rows:
        if row.stage == SEARCH:
            tried.setdefault((row.run, row.method, row.budget), set()).add(row.key.guidance)
    who = list(dict.fromkeys(run for run, _, _ in tried))
    others = len({row.run for row in rows}) > len(who)
    return (
        f"{max(map(len, tried.values()))} settings of each method were tried at each budget with "
        f"{first.key.samples:,} images per seed ({_seeds(rows, SEARCH)}), and that with the "
        f"best {METRICS[first.metric].header} was chosen"
        + (f" in {', '.join(who)}; the other runs took its settings." if others else ".")
    )


def failed(rows: Sequence[Row]) -> str:
    """Return a sentence on methods and budgets without a finite result; "" if all have one."""
    metric = METRICS[rows[0].metric]
    found = tuned.winners(rows)
    without = [f"{w.method} at {w.budget:g}" for w in found if w.failed(metric)]
    there = {(w.method, w.budget) for w in found}
    tried = dict.fromkeys((r.method, r.budget) for r in rows if r.stage == SEARCH)
    never = [f"{method} at {budget:g}" for method, budget in tried if (method, budget) not in there]
    words = [f"with some seed of the report: {', '.join(without)}"] if without else []
    words += [f"with any setting of the search: {', '.join(never)}"] if never else []
    return f"No finite {metric.header} {'; '.join(words)}." if words else ""


def at_edges(rows: Sequence[Row]) -> str:
    """Return a sentence on the winners whose scale is the largest or smallest that was tried."""
    tried: dict[tuple[str, float, str], set[float]] = {}
    chosen: dict[tuple[str, float, str], dict[float, None]] = {}
    for row in rows:
        for name, value in vars(row.key.guidance).items():
            if row.stage == SEARCH and name.endswith("scale") and is_number(value):
                tried.setdefault((row.method, row.budget, name), set()).add(value)
                if row.chosen:
                    chosen.setdefault((row.method, row.budget, name), {})[value] = None
    found = [
        f"{method} at {budget:g} ({value:g})"
        for (method, budget, name), values in chosen.items()
        for value in values
        if len(each := tried[method, budget, name]) > 1 and value in (min(each), max(each))
    ]
    if not found:
        return ""
    return (
        "The largest or smallest scale tried was chosen, so one beyond it may be better: "
        f"{', '.join(found)}."
    )


def outdone(rows: Sequence[Row]) -> str:
    """Return a sentence on the methods that do better at a smaller budget, with every seed."""
    metric, found = METRICS[rows[0].metric], tuned.winners(rows)
    words = []
    for winner in found:
        own = [w for w in found if w.method == winner.method and w.budget < winner.budget]
        gains = {w.budget: w.less(winner, metric) for w in own}
        if better := [f"{b:g}" for b, g in gains.items() if g.pairs and g.better == g.pairs]:
            words.append(f"{winner.method} at {winner.budget:g} (at {', '.join(better)})")
    if not words:
        return ""
    return f"Better with every seed at a smaller budget, with fewer steps: {'; '.join(words)}."


def flags(winner: Winner, base: Base) -> str:
    """Return the flags that make `--mode sample` draw with a winner of one run.

    Args:
      winner: from one run.
      base: the flags change one of its settings into the winner.
    """
    key = winner.rows[0].key
    name = winner.method if all(winner.method in each for each in base.settings) else ALONE
    own = [vars(each[name]) for each in base.settings]
    given = vars(key.guidance).items()
    values = {f"guidance.{name}.{n}": v for n, v in given if any(v != each[n] for each in own)}
    values |= {**base.more, "sample.steps": key.steps, "sample.guidance": name}
    return " ".join(shlex.quote(f"--config.{n}={_text(v)}") for n, v in values.items())


def _text(value: Any) -> str:
    return repr(value).replace(" ", "") if isinstance(value, tuple) else str(value)


def as_json(rows: Sequence[Row], base: Base = NO_FLAGS) -> bytes:
    """Return everything for programs; see `markdown`."""
    found, metrics = tuned.winners(rows), tuned_rows.columns(rows)

    def gain(each: Gain) -> dict[str, Any]:
        return {**each.spread._asdict(), "better": each.better, "pairs": each.pairs}

    winners = []
    for winner in found:
        same, first = (tuned.unguided(found, b) for b in (winner.budget, 1.0))
        entry: dict[str, Any] = {
            "method": winner.method,
            "budget": winner.budget,
            "cost": winner.cost,
            "settings": [
                {"run": run, "steps": key.steps, "guidance": tuned_rows.changed(key)}
                for run, key in {row.run: row.key for row in winner.rows}.items()
            ],
            "scores": {m.name: winner.spread(m)._asdict() for m in metrics},
            "less_unguided": {m.name: gain(winner.less(same, m)) for m in metrics},
            "less_unguided_at_1": {m.name: gain(winner.less(first, m)) for m in metrics},
        }
        winners.append(entry | ({"flags": flags(winner, base)} if base.settings else {}))
    about = {"metric": rows[0].metric, "runs": list(dict.fromkeys(row.run for row in rows))}
    return (json.dumps({**about, "winners": winners}, indent=1, ensure_ascii=False) + "\n").encode()
