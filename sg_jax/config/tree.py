"""A config as a tree of sections: its defaults, its check, and the keys that are fixed.

`ConfigDict` carries a config from files and command lines; `Config` is the checked result.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from sg_jax.config.sections import SECTIONS, Config, Run
from sg_jax.errors import Settings, declared_in, default_of, section
from sg_jax.method.guidance import Guidance
from sg_jax.method.presets import PRESETS


def defaults() -> ConfigDict:
    """Return every key with its default value."""
    presets = {name: setting_dict(preset) for name, preset in PRESETS.items()}
    return ConfigDict(
        {
            **_defaults_of(Run),
            **{name: ConfigDict(_defaults_of(kind)) for name, kind in SECTIONS.items()},
            "guidance": ConfigDict(presets),
        }
    )


def setting_dict(guidance: Guidance) -> ConfigDict:
    """Return a guidance setting as part of a config."""
    # Not type-safe, because a number may become a schedule; Guidance checks its values.
    return ConfigDict(dataclasses.asdict(guidance), type_safe=False)


def default(dotted: str) -> Any:
    """Return the default of a key, such as "config.train.steps" or "config.guidance.sg.scale"."""
    _, *sections, key = dotted.split(".")
    kinds: dict[str, type[Settings]] = {"": Run, **SECTIONS, "guidance": Guidance}
    return default_of(kinds["".join(sections[:1])], key)


def check(config: ConfigDict) -> Config:
    """Return the sections of a config, or raise for the first value that a section rejects."""
    with section("config"):
        seed = Run(seed=config.seed).seed
    found: dict[str, Any] = {}
    for name, kind in SECTIONS.items():
        with section(f"config.{name}"):
            found[name] = kind(**config[name])
    return Config(seed=seed, guidance=settings(config), **found)


def settings(config: ConfigDict) -> dict[str, Guidance]:
    """Return the guidance settings of a config by name, or raise for the first wrong value."""
    found = {}
    for name, values in config.guidance.items():
        with section(f"config.guidance.{name}"):
            found[name] = Guidance(**values)
    return found


def without_unread(config: ConfigDict) -> ConfigDict:
    """Return a copy with defaults for keys that nothing reads; older configs may set them."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for name, kind in SECTIONS.items():
            values = object.__new__(kind)
            for key, value in config[name].items():
                object.__setattr__(values, key, value)
            for key in kind.unread(values):
                config[name][key] = default_of(kind, key)
    return config


def fixed(when: str) -> set[str]:
    """Return the keys, such as "train.batch_size", that a run must keep when it is `when`.

    Args:
      when: "continued", "scored" or "sampled"; see `errors.setting`.
    """
    kinds: dict[str, type[Settings]] = {"": Run, **SECTIONS}
    return {
        f"{name}.{key}".lstrip(".")
        for name, kind in kinds.items()
        for key, declared in declared_in(kind).items()
        if when in declared.fixed
    }


def _defaults_of(kind: type[Settings]) -> dict[str, Any]:
    return {name: default_of(kind, name) for name in declared_in(kind)}
