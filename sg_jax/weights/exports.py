"""A trained network written for others: a run's folder without its training, or a file of weights.

    X/                 config.json, README.md, checkpoints/STEP/ema: a run that samples and scores
    X.safetensors      arrays under our names, or under published ones; X.npz likewise
    X/ for diffusers   config.json, diffusion_pytorch_model.safetensors

Each appears whole or not at all, and `networks.load` reads it back.
"""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from sg_jax.config import exported, record
from sg_jax.data.origin import ENTRY
from sg_jax.errors import UserError
from sg_jax.models.backbone import Backbone
from sg_jax.models.dit import DiT
from sg_jax.models.text import Text
from sg_jax.runs import files
from sg_jax.runs.progress import log
from sg_jax.weights import checkpoints, convert, described, integrity, networks
from sg_jax.weights.families import FAMILIES

README = """# {title}

A {kind} of {parameters:,} parameters, written by sg_jax {version} from {source}.

| | |
|---|---|
| weights | {weights} of step {step}, {dtype} |
| images | {channels} channels, {side}x{side}, {conditions} |{made}
| network | depth {depth}, width {width}, heads {heads}, patch {patch}, routes {routes} |
| returns | {prediction} |

```bash
python -m sg_jax.main --mode sample --workdir THIS_FOLDER{prompts}
```

```python
import sg_jax

model = sg_jax.load("THIS_FOLDER")
```

`config.json` has all settings, including those of its training. {note}
"""


def version() -> str:
    """Return the version of this package."""
    return sys.modules["sg_jax"].__version__


MADE = """
| latents | made by {name} ({fingerprint}), scale {scale}, shift {shift}, factor {factor} |"""


def describe(network: Backbone, **values: Any) -> str:
    """Return the README.md of a folder with a network.

    Args:
      network: the network, which knows what made the latents that it draws.
      values: the other fields of `README`.
    """
    arrays = checkpoints.named(network).values()
    return README.format(
        kind=type(network).__name__,
        parameters=sum(int(np.prod(x.shape)) for x in arrays),
        version=version(),
        channels=network.channels,
        side=network.image_size,
        conditions=network.conditioning.kind,
        depth=network.depth,
        width=network.width,
        heads=getattr(network, "heads", "none"),
        patch=network.patch,
        routes=network.routes or "none",
        prediction=network.prediction,
        prompts=" --prompts prompts.txt" if isinstance(network.conditioning, Text) else "",
        made=MADE.format(**network.named.maker.record()) if network.named.maker else "",
        **values,
    )


def about(
    network: Backbone, config: ConfigDict, family: str, **values: Any
) -> described.Description:
    """Return the description of a network for a file of weights.

    Args:
      network: the network, which knows its frozen text encoder and what made its latents.
      config: completed.
      family: how its arrays are named; "" for our names.
      values: further JSON values, by name.
    """
    settings = json.loads(exported.portable(config).to_json_best_effort())
    known, named = {}, network.named
    if named.encoder:
        known[record.ENCODER] = named.encoder
    if named.maker:
        known[ENTRY] = named.maker.record()
    return {"version": version(), "family": family, "config": settings, **known, **values}


def write_file(
    name: str | os.PathLike,
    network: Backbone,
    config: ConfigDict,
    family: str = "",
    dtype: str = "float32",
    **values: Any,
) -> epath.Path:
    """Write a .safetensors or .npz file.

    Args:
      name: of the file; it must not exist.
      network: the network.
      config: completed.
      family: how to name the arrays: one of `families.FAMILIES`, or "" for our names.
      dtype: of the arrays; one of `described.TYPES`.
      values: further entries of the description.
    """
    path = files.absolute(name)
    if path.exists():
        raise UserError(f"{path} already exists: give a new file.")
    weights = arrays_of(network, family, dtype)
    if family:
        _tell_what_others_read(network, family)
    described.write(path, weights, about(network, config, family, dtype=dtype, **values))
    return path


def _tell_what_others_read(network: Backbone, family: str) -> None:
    """Log where the published code of a family would use the network differently than we do."""
    known = FAMILIES[family]
    if network.prediction != known.prediction:
        log(
            f"The network returns {network.prediction!r}, but the published code of "
            f"family={family!r} expects {known.prediction!r}: tell that code what it reads. "
            "sg_jax reads the file correctly, because the file says what it is."
        )
    if network.time_endpoint != known.time_endpoint:
        log(
            f"The published code of family={family!r} spaces the frequencies of time slightly "
            "differently from this network, so its outputs differ a little there."
        )


def arrays_of(network: Backbone, family: str, dtype: str) -> Mapping[str, np.ndarray]:
    """Return the weights of a network under a family's names, or our own."""
    if not family:
        named = {name: np.asarray(leaf) for name, leaf in checkpoints.named(network).items()}
    elif isinstance(network, DiT):
        named = convert.to_state_dict(network, family)
    else:
        raise UserError(
            f"A {type(network).__name__} is not a network of family={family!r}: leave the family "
            "out, to use our own names."
        )
    return described.cast(named, dtype)


def write_diffusers(
    name: str | os.PathLike,
    network: Backbone,
    config: ConfigDict,
    dtype: str = "float32",
    **values: Any,
) -> epath.Path:
    """Write a folder that diffusers reads as its DiT; see `write_file`."""
    family = networks.DIFFUSERS
    weights = arrays_of(network, family, dtype)
    assert isinstance(network, DiT)
    settings = {
        "_class_name": networks.CLASSES[0],
        "_diffusers_version": "0.30.0",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": network.width // network.heads,
        "dropout": 0.0,
        "in_channels": network.channels,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "norm_num_groups": 32,
        "norm_type": "ada_norm_zero",
        "num_attention_heads": network.heads,
        "num_embeds_ada_norm": network.conditioning.count,
        "num_layers": network.depth,
        "out_channels": 2 * network.channels,
        "patch_size": network.patch,
        "sample_size": network.image_size,
        "upcast_attention": False,
    }
    if network.mlp_ratio != 4:
        raise UserError(
            f"diffusers' DiT has mlp_ratio=4, but this network {network.mlp_ratio:g}: export it "
            "as a file instead."
        )
    _tell_what_others_read(network, family)
    with files.making(name) as folder:
        described.write(
            folder / networks.IN_FOLDER,
            weights,
            about(network, config, family, dtype=dtype, **values),
        )
        files.write_atomically(folder / "config.json", json.dumps(settings, indent=1).encode())
    return files.absolute(name)


def write_folder(
    name: str | os.PathLike,
    network: Backbone,
    config: ConfigDict,
    workdir: str,
    step: int,
    dtype: str = "float32",
    weights: str = "ema",
) -> epath.Path:
    """Write a run's folder with one network, which samples and scores, but cannot be continued.

    Args:
      name: of the folder; it must not exist.
      network: the network.
      config: completed.
      workdir: the run that it comes from.
      step: its step.
      dtype: the type of the stored numbers.
      weights: which weights they are, for README.md.
    """
    known = {key: value for key, value in record.data_of(workdir).items() if key != "checked"}
    _, class_names = record.read(workdir)
    arrays = arrays_of(network, "", dtype)
    text = describe(
        network, title=files.absolute(name).name, source=f"{files.absolute(workdir).name}, a run",
        weights=weights, step=step, dtype=dtype,
        note="It holds no optimizer state: to train further, start from it with "
        "`--config.train.init_from=THIS_FOLDER`.",
    )  # fmt: skip
    known.setdefault("latents", network.channels not in (1, 3))
    with files.making(name) as folder:
        at = checkpoints.checkpoint_dir(folder) / str(step)
        at.parent.mkdir(parents=True, exist_ok=True)
        ocp.save_checkpointables(at, {"ema": dict(arrays)})
        integrity.seal(at)
        how = {"version": version(), "dtype": dtype, "weights": weights, "step": step}
        files.write_atomically(folder / "README.md", text.encode())
        record.write(folder, exported.portable(config), class_names, known, exported=how)
    return files.absolute(name)
