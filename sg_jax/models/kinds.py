"""The backbones by name, and the settings of `config.model` that each reads.

To add one: 1. derive it from `Backbone` (or satisfy `method.network.Network`), 2. give `BACKBONES`
a row, 3. declare any new arguments of its constructor in `config.sections.Model`.
"""

import inspect
from typing import Any

from sg_jax.models.backbone import Backbone
from sg_jax.models.dit import DiT
from sg_jax.models.maskdit import MaskDiT
from sg_jax.models.ssm import SSM
from sg_jax.models.text_dit import TextDiT

BACKBONES: dict[str, type[Backbone]] = {
    "dit": DiT,
    "maskdit": MaskDiT,
    "ssm": SSM,
    "text_dit": TextDiT,
}
NO_SETTINGS = ("block", "rngs", "embed", "text")  # arguments that classes give to their bases


def reads(kind: str) -> tuple[str, ...]:
    """Return the arguments of a backbone's constructor, including those of its bases."""
    found: dict[str, None] = {}
    for base in BACKBONES[kind].__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        found |= {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return tuple(n for n in found if n not in (*NO_SETTINGS, *BACKBONES[kind].unread))


def reads_texts(kind: str) -> bool:
    """Return whether a backbone's conditions are texts, not classes."""
    return kind in BACKBONES and "text_length" in reads(kind)


def argument(network: Backbone, name: str) -> Any:
    """Return the constructor argument that a network was made with; None if it has none."""
    holders = (network, getattr(network, "parts", None), network.conditioning)
    return next((getattr(holder, name) for holder in holders if hasattr(holder, name)), None)
