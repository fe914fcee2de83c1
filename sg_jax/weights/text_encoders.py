"""Load the frozen text encoder of a network of features: a folder, a hub id, or that of a run."""

import json
import os
import re
from typing import Any

from sg_jax.config import record
from sg_jax.config.sections import Config
from sg_jax.encoders import text as texts
from sg_jax.encoders.text import BYTES, Text, TextEncoder
from sg_jax.errors import UserError, shown
from sg_jax.runs import files
from sg_jax.runs.progress import log
from sg_jax.weights import places

EXAMPLE = "OpenGVLab/InternVL3-2B-hf"


def load_text_encoder(name: str | os.PathLike, **options: Any) -> TextEncoder:
    """Load a frozen text encoder of Hugging Face, for `sg_jax.sample(..., text_encoder=...)`.

    It reads causal language models, the encoder of T5, the text model of CLIP, and the language
    model within a model that also sees images. It needs the extra `text`, and runs no code from a
    repository.

    Args:
      name: a folder that save_pretrained wrote, with its tokenizer; a hub id; or the folder of a
        run, whose config says which encoder it was trained with, and how.
      options: `length`, `prefix`, `cut_prefix`, `dtype` and `batch`, as in `config.text`; only the
        last two for a run.

    Returns:
      A function from texts to {"text": float32 [B, L, F], "length": int32 [B]}.

    Raises:
      UserError: packages are missing, there is no such encoder, or a run was trained with another.
    """
    if not isinstance(name, str | os.PathLike):
        raise UserError(f"name={shown(name)} must be a folder or a hub id, such as {EXAMPLE}.")
    known = {"length", "prefix", "cut_prefix", "dtype", "batch"}
    for option in options:
        if option not in known:
            raise UserError(f"{option}= is not one of {', '.join(sorted(known))}.")
    path = os.fspath(name)
    if record.is_run(path) and not _is_encoder(path):
        config, _ = record.read(path)
        for option in sorted({"length", "prefix", "cut_prefix"} & set(options)):
            raise UserError(
                f"{option}= has no effect: the run in {path} says how texts are encoded."
            )
        section = Text(**{**config.text, **options})
        return _of_run(section, record.encoder_of(path), path)
    return load(Text(**{"encoder": path, **options}))


def _is_encoder(folder: str) -> bool:
    """Return whether the config.json in a folder is that of transformers, and not of a run."""
    try:
        found = json.loads((files.path(folder) / record.NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False  # reading it as a run's says what is wrong
    return isinstance(found, dict) and "config" not in found


def load(text: Text) -> TextEncoder:
    """Load the encoder that the section `config.text` names."""
    name = text.encoder
    if name and files.path(name).exists():
        name = str(files.absolute(name))
    elif not re.fullmatch(places.HUB_ID, name) and not re.fullmatch(r"[\w.\-]+", name):
        raise UserError(
            f"config.text.encoder={shown(name)} must be {BYTES!r}, an existing folder, or a "
            f"hub id such as {EXAMPLE}."
        )
    log(f"Loading the text encoder {name} ...")
    return texts.load(name, text)


def of_run(config: Config, workdir: str) -> TextEncoder:
    """Return the encoder of the run in `workdir`, as its config or this command names it.

    Raises:
      UserError: it cannot be loaded, or is not the one that the run was trained with.
    """
    return _of_run(config.text, record.encoder_of(workdir), workdir)


def _of_run(text: Text, wanted: str, workdir: str) -> TextEncoder:
    if text.encoder == BYTES:
        raise UserError(
            f"The run in {workdir} reads bytes, so it needs no text encoder: give texts alone."
        )
    found = load(text)
    check(found.fingerprint(), wanted, f"config.text.encoder={text.encoder!r}", workdir)
    return found


def check(found: str, wanted: str, what: str, workdir: str) -> None:
    """Raise if features are known to be from a different encoder than the run was trained with."""
    if found and wanted and found != wanted:
        raise UserError(
            f"{what} is not the text encoder that the run in {workdir} was trained with "
            f"({found}, not {wanted}): give that one in config.text.encoder."
        )
