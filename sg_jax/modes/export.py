"""Write a run's network for others: a folder that samples by itself, a file, or for diffusers."""

import importlib.util
import os
import re
from typing import Any

from sg_jax.config import record
from sg_jax.errors import UserError, nearest, one_line, one_of, shown
from sg_jax.modes import dry_train
from sg_jax.modes.base import Job, Mode, Option, register
from sg_jax.runs import files
from sg_jax.runs.progress import log
from sg_jax.weights import best, checkpoints, described, exports, networks, reading
from sg_jax.weights.families import FAMILIES


def run(job: Job) -> list[Any]:
    """Export to --to; return its path."""
    given, workdir = job.options, job.workdir
    target, family = given["to"], given["family"]
    one_of("--dtype", given["dtype"], described.TYPES)
    if family and family not in FAMILIES:
        raise UserError(
            f"--family={family} must be one of {', '.join(FAMILIES)}, or left out for our own "
            "names." + nearest(family, FAMILIES)
        )
    suffix = os.path.splitext(target)[1].lower()
    in_file = suffix in described.WRITTEN
    if not in_file and suffix in reading.SUFFIXES:
        raise UserError(
            f"--to={target}: files end with {' or '.join(described.WRITTEN)}, which need no "
            "pickle; without such an ending it is a folder."
        )
    if not in_file and family not in ("", networks.DIFFUSERS):
        raise UserError(
            f"--family={family} names the arrays of a file: end --to={target} with "
            f"{' or '.join(described.WRITTEN)}, or leave the family out for a folder."
        )
    path = files.absolute(target)
    if path.exists() and (not path.is_dir() or files.children(path)):
        raise UserError(f"--to={target} already exists: give a new name.")
    if given["push"]:
        check_push(given["push"])
    files.check_writable(path.parent)
    config, _ = record.read(workdir)
    which, weights = given["step"], given["weights"]
    step = {0: None, best.BEST: "best"}.get(which, which)
    network, step = checkpoints.load_with_step(workdir, step, weights)
    about = dict(step=step, weights=weights)
    if in_file:
        written = exports.write_file(target, network, config, family, given["dtype"], **about)
    elif family:
        written = exports.write_diffusers(target, network, config, given["dtype"], **about)
    else:
        written = exports.write_folder(
            target, network, config, workdir, step, given["dtype"], weights
        )
    log(f"Exported {weights} of step {step}. Read it with sg_jax.load({str(target)!r}).")
    if given["push"]:
        push(written, given["push"])
    return [written]


def check_push(identifier: str) -> None:
    """Raise unless a hub id is valid and the package that reaches the hub is installed."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", identifier):
        raise UserError(f"--push={shown(identifier)} must be a hub id, OWNER/NAME.")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError(
            f"--push={identifier} needs a package that is not installed: "
            "`pip install huggingface_hub`."
        )


def push(path: Any, identifier: str) -> None:
    """Upload what was exported to a repository of the hub, which is created if necessary."""
    import huggingface_hub

    hub = huggingface_hub.HfApi()
    try:
        hub.create_repo(identifier, exist_ok=True)
        if path.is_dir():
            hub.upload_folder(repo_id=identifier, folder_path=str(path))
        else:
            hub.upload_file(path_or_fileobj=str(path), path_in_repo=path.name, repo_id=identifier)
    except Exception as cause:  # of the network, or of the hub
        raise UserError(
            f"--push={identifier} failed ({one_line(cause)}). {path} is whole: log in with `hf "
            "auth login`, check the name and the network, and upload it with `hf upload`."
        ) from None
    log(f"Uploaded to https://huggingface.co/{identifier}.")


MODE = register(
    Mode(
        "export",
        "write the network of a run for others: a folder, .safetensors, .npz, or for diffusers",
        run,
        config=False,
        single=True,
        dry=dry_train.export,
        writes=(),
        options=(
            Option("to", "FOLDER, FILE.safetensors or FILE.npz", required=True),
            Option(
                "family",
                "names of arrays in a file, such as sit; diffusers_dit: also diffusers' folder",
            ),
            Option("dtype", "float32, bfloat16 or float16", default="float32"),
            Option("step", "which checkpoint; 0: the latest, -1: the best", default=0, type=int),
            Option("push", "hub id OWNER/NAME to upload it to as well"),
            Option("weights", "ema, model, or another average of the run", default="ema"),
        ),
    )
)
