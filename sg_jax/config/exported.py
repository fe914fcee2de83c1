"""The config of a run without what lies outside it, for exports."""

import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from sg_jax.config import record, tree
from sg_jax.method.candidates import METHODS


def portable(config: ConfigDict) -> ConfigDict:
    """Return a copy without paths to what lies outside the run, its tracker and its mesh.

    Guidance settings that take their weak prediction from another run are left out, and those that
    take it from other weights of this one are not drawn by default, since an export has one
    network. The names of a text encoder and an autoencoder stay, because they tell the user what to
    give.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.data_dir = config.features.path = config.train.init_from = ""
        config.data.classes = config.compose.prompts = config.tune.winners = ""
        if record.is_path(config.data.name):
            config.data.name = record.UNNAMED  # the entry on what the data is stays
        for section, key in ((config.text, "encoder"), (config.autoencoder, "path")):
            if record.is_path(section[key]):
                section[key] = pathlib.PurePath(section[key]).name
        for section, key in ((config.evaluate, "images"), (config.compose, "clip")):
            if record.is_path(section[key]):
                section[key] = ""
        config.objective.distill = ""  # its teacher was the network of init_from
        config.sample.checkpoint = config.evaluate.step = 0  # of the run; there is one now
        config.mesh = tree.defaults().mesh  # of the devices that trained it
        config.track.name = config.track.entity = ""
        config.evaluate.reference = config.evaluate.inception = config.evaluate.dinov2 = ""
        config.control.pairs = ""
        settings = tree.settings(config)
        left = [name for name, setting in settings.items() if setting.two_networks]
        for name in left:
            if settings[name].weak_workdir:
                del config.guidance[name]
        if config.sample.guidance in left:
            config.sample.guidance = "unguided"
        if config.train.evaluate_guidance in left:
            config.train.evaluate_guidance = "unguided"
        for section in (config.evaluate, config.diversity, config.compose, config.control):
            section.guidance = tuple(n for n in section.guidance if n not in left) or ("unguided",)
        _forget(config.tune, left)
    return config


def _forget(tune: ConfigDict, names: Sequence[str]) -> None:
    """Take settings out of the candidates, and methods that have none left."""
    kept = {
        method: tuple(name for name in candidates if name not in names)
        for method, candidates in tune.candidates
    }
    gone = {method for method, candidates in kept.items() if not candidates}
    tune.candidates = tuple(pair for pair in kept.items() if pair[0] not in gone)
    tune.methods = tuple(m for m in tune.methods if m in METHODS or m not in gone)
