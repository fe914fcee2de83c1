"""The text of `--help config`: sections and their settings, from the declarations."""

import textwrap

from sg_jax.config.sections import SECTIONS, Run
from sg_jax.errors import Settings, UserError, declared_in, default_of, nearest
from sg_jax.method.guidance import Guidance
from sg_jax.method.presets import PRESETS

WIDTH = 100


def explain(topic: str) -> str:
    """Return the help on "config", on a section such as "config.train", or on a key.

    Raises:
      UserError: there is no such section or key.
    """
    _, _, rest = topic.partition(".")
    if not rest:
        return _overview()
    if rest in declared_in(Run):
        return "\n".join([f"config: {_first_line(Run)}", "", *_setting(Run, rest)])
    name, _, key = rest.partition(".")
    kinds: dict[str, type[Settings]] = {**SECTIONS, "guidance": Guidance}
    if name not in kinds:
        raise UserError(
            f"--help {topic}: there is no section config.{name}; the sections are "
            f"{', '.join(kinds)}." + nearest(name, [*declared_in(Run), *kinds])
        )
    prefix, kind = f"config.{name}", kinds[name]
    if name == "guidance":
        prefix += ".NAME"
        _, dot, last = key.rpartition(".")
        key = last if dot or last in declared_in(kind) else ""
    names = [key] if key else list(declared_in(kind))
    if key and key not in declared_in(kind):
        raise UserError(
            f"--help {topic}: config.{name} has no key {key!r}.{nearest(key, declared_in(kind))}"
        )
    lines = [f"{prefix}: {_first_line(kind)}", ""]
    if name == "guidance":
        lines += [f"Settings by name; the presets are {', '.join(PRESETS)}.", ""]
    for each in names:
        lines += _setting(kind, each)
    return "\n".join(lines)


def _overview() -> str:
    lines = ["Set one value with --config.KEY=VALUE. Keys of a section: --help config.SECTION.", ""]
    lines += _setting(Run, "seed")
    lines += [f"  {name:12} {_first_line(kind)}" for name, kind in SECTIONS.items()]
    lines.append(f"  {'guidance':12} {_first_line(Guidance)}")
    return "\n".join(lines)


def _setting(kind: type[Settings], name: str) -> list[str]:
    """Return the lines about one setting: its default, its meaning and the allowed values."""
    declared = declared_in(kind)[name]
    words = [declared.text]
    words += [declared.allowed.removeprefix("be ").removeprefix("lie ")] if declared.allowed else []
    words += ["fixed once a run has begun"] if "continued" in declared.fixed else []
    text = textwrap.wrap("; ".join(words), WIDTH - 4)
    return [f"  {name}={default_of(kind, name)!r}", *(f"      {line}" for line in text)]


def _first_line(kind: type[Settings]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]
