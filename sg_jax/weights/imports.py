"""A run made of someone else's weights: it samples, scores, and can be trained further.

    workdir/config.json, README.md, checkpoints/0/

Its step is 0, its optimizer's state is new, and its weights are also its moving average. A file
that `--mode export` wrote also gives its settings.
"""

import contextlib
import hashlib
import os
from collections.abc import Collection
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from sg_jax.config import experiment, geometry, parsing, record, tree
from sg_jax.config.sections import Model
from sg_jax.data import origin as origins
from sg_jax.encoders.text import BYTES
from sg_jax.errors import UserError, default_of, plain, shown
from sg_jax.models.backbone import Backbone
from sg_jax.models.kinds import BACKBONES, argument, reads, reads_texts
from sg_jax.programs.training import start_state
from sg_jax.runs import files
from sg_jax.runs.progress import log
from sg_jax.weights import checkpoints, exports, networks
from sg_jax.weights.families import FAMILIES
from sg_jax.weights.saver import Saver

COMPUTED = ("dtype", "remat", "attention")  # keys of config.model that no weights decide
ROUTED = ("sg", "sg_flops", "sg_fid", "ag_sg", "cfg_sg")  # presets that need routes


def make_run(
    source: str | os.PathLike,
    workdir: str | os.PathLike,
    config: ConfigDict,
    said: Collection[str] = (),
    family: str = "",
) -> Backbone:
    """Make a run's folder from weights; it appears whole or not at all.

    Args:
      source: a file of weights, or a folder of diffusers.
      workdir: the folder, which must not exist.
      config: keys for the run; those of config.model tell what the shapes of the weights do not,
        and must otherwise agree with them. Where it has defaults, the config of an exported file
        counts.
      said: the keys that the command line sets, which always count.
      family: how the weights are named; "" if the names tell.

    Returns:
      The network.
    """
    if not networks.is_weights(source):
        if checkpoints.steps_of(source):
            raise UserError(
                f"{str(source)!r} is a run already: give it as --workdir to draw or to score, or "
                "start a new training from it with config.train.init_from."
            )
        raise UserError(
            f"{str(source)!r} is neither a file of weights nor a diffusers folder: give either."
        )
    found = networks.find(source)
    if not found.about:
        try:
            family = networks.family_of(found, family)
        except UserError as error:
            raise UserError(f"{found.path}: {error}") from None
    network = networks.build(found, family, {} if found.about else _options(config, said, family))
    config = _described(found, config, said) if found.about else _unnamed(config, said)
    config = _completed(config, network, said)
    built = experiment.build(config)
    named = f"{found.path.name}, {_hash(found.path)}"
    text = exports.describe(
        network, title=files.absolute(workdir).name, source=named, weights="weights", step=0,
        dtype="float32",
        note=f"The names are those of {family or 'sg_jax'}. Train further with `--mode train`, or "
        "start a run of your own with `--config.train.init_from=THIS_FOLDER`.",
    )  # fmt: skip
    kept: dict[str, Any] = {
        "latents": network.channels not in (1, 3),
        "image_shape": [network.image_size, network.image_size, network.channels],
    }
    if network.conditioning.count is not None:
        kept["classes"] = network.conditioning.count
    if network.named.encoder:
        kept[record.ENCODER] = network.named.encoder
    if network.named.maker:
        kept[origins.ENTRY] = network.named.maker.record()
    state = start_state(network, jax.jit(built.tx.init)(network), config.train.ema_decays)
    with files.making(workdir) as folder:
        with Saver(str(folder), every=1, keep=1) as saver:
            saver.save(state, 0, {"data_position": 0})
        origin = {"file": found.path.name, "family": family, "version": exports.version()}
        files.write_atomically(folder / "README.md", text.encode())
        record.write(folder, config, (), kept, imported=origin)
    shape = "x".join(map(str, kept["image_shape"]))
    log(
        f"Imported {named}, as weights of {family or 'sg_jax'}: {type(network).__name__}, depth "
        f"{network.depth}, width {network.width}, images of {shape}, {network.conditioning.kind}; "
        f"it returns {network.prediction!r}."
    )
    if config.data.name == record.UNNAMED:
        log(
            "Sampling needs no data. To score it or train further, name its data set: "
            "--config.data.name=NAME."
        )
    return network


def _options(config: ConfigDict, said: Collection[str], family: str) -> dict[str, Any]:
    """Return the keys of config.model that tell something about published weights."""
    options = {}
    for name in FAMILIES[family].options if family in FAMILIES else ():
        value = config.model[name]
        if f"model.{name}" in said or value != default_of(Model, name):
            options[name] = plain(value)
    return options


def _described(found: networks.Found, config: ConfigDict, said: Collection[str]) -> ConfigDict:
    """Return the config of an exported file, with what is given laid over it."""
    own = networks.config_of(found).to_dict()
    defaults = record.flat(tree.defaults())
    for key, value in record.flat(config).items():
        if key in said or key not in defaults or value != defaults[key]:
            *sections, name = key.split(".")
            node = own
            for part in sections:
                node = node.setdefault(part, {})
            node[name] = value
    return parsing.merge(own)


def _unnamed(config: ConfigDict, said: Collection[str]) -> ConfigDict:
    """Return a config that names no data set, unless it is given one."""
    config = config.copy_and_resolve_references()
    if "data.name" not in said and config.data.name == "digits":
        with config.unlocked():
            config.data.name = record.UNNAMED
    return config


def _completed(config: ConfigDict, network: Backbone, said: Collection[str]) -> ConfigDict:
    """Return the config of a run of the network."""
    config = config.copy_and_resolve_references()
    kinds = {kind: name for name, kind in BACKBONES.items()}
    kind = kinds[type(network)]
    sized = bool(config.model.size)
    values: dict[str, Any] = {"kind": kind}
    for name in reads(kind):
        if name not in COMPUTED:
            values[name] = plain(argument(network, name))
    with config.unlocked():
        for name, value in values.items():
            given, default = config.model[name], default_of(Model, name)
            if given not in (default, value) or (f"model.{name}" in said and given != value):
                raise UserError(
                    f"config.model.{name}={given!r} is not that of the weights, which have "
                    f"{value!r}: leave it out."
                )
            config.model[name] = value
        if reads_texts(kind):
            _check_text(config)
        if not network.choices:
            _without_sparsity(config, said)
    return geometry.fill_geometry(config) if sized else config


def _check_text(config: ConfigDict) -> None:
    """Raise unless config.text is what the network of config.model reads."""
    for key, name in geometry.FROM_TEXT.items():
        if config.text[name] != config.model[key]:
            raise UserError(
                f"config.text.{name}={config.text[name]} is not that of the weights, which have "
                f"{config.model[key]}: set it to {config.model[key]}."
            )
    encoder, features = config.text.encoder, config.model.text_features
    if features and encoder == BYTES:
        raise UserError(
            f"config.text.encoder={BYTES!r} is not that of the weights, which read {features} "
            "features of a frozen encoder: name the encoder."
        )
    if not features and encoder != BYTES:
        raise UserError(
            f"config.text.encoder={shown(encoder)} is not that of the weights, which read bytes: "
            f"set it to {BYTES!r}."
        )


def _without_sparsity(config: ConfigDict, said: Collection[str]) -> None:
    """Replace settings that need routes, unless the command sets them."""
    routed = [name for name in ROUTED if _has_rate(config.guidance[name])]
    if "objective.gamma" not in said:
        config.objective.gamma = 0.0
    if "sample.guidance" not in said and config.sample.guidance == "sg" and "sg" in routed:
        config.sample.guidance = "cfg"
    for section in ("evaluate", "diversity", "compose", "control"):
        if f"{section}.guidance" not in said:
            names = [n for n in config[section].guidance if n not in routed]
            config[section].guidance = tuple(names) or ("unguided",)


def _has_rate(setting: ConfigDict) -> bool:
    """Return whether a guidance setting leaves out tokens."""
    return setting.gamma_strong != 0 or setting.gamma_weak != 0


def _hash(path: epath.Path) -> str:
    """Return the SHA-256 of a file, shortened, in words."""
    if files.is_remote(path):
        return "in a bucket"
    with contextlib.closing(open(path, "rb")) as file:
        return f"SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
