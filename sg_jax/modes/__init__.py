"""One file for each --mode of the command; importing this package fills `base.MODES`."""

import importlib
import pkgutil

from sg_jax.modes.base import MODES

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["MODES"]
